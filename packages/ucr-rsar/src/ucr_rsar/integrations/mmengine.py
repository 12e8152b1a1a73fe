"""The coder in mmengine's registries, so that the configs of mmrotate 1.x can name it.

After ``register()``, ``angle_coder=dict(type="UCRCoder", m=3)`` is what ``H2RBoxV2Head``, ``RotatedFCOSHead`` and
``AngleBranchRetinaHead`` can build.
"""

from math import pi

from torch import Tensor

from geocore._checks import check_option
from ucr_rsar import coder as plain

try:
    from mmengine.registry import TASK_UTILS

    from obbkit.integrations.mmengine import add
    from obbkit.integrations.mmengine import register as register_obbkit
except ImportError as error:
    raise ImportError("ucr_rsar.integrations.mmengine needs mmengine: pip install 'ucr-rsar[mmengine]'") from error

__all__ = ["UCRCoder", "register", "register_mmengine"]


class UCRCoder(plain.UCRCoder):
    """``ucr_rsar.UCRCoder`` with the names and arguments that heads of mmrotate use.

    Args:
        angle_version: Pattern of the boxes; angles have period pi in ``"le90"``, ``"le135"`` and ``"oc"`` alike.
        m: Numbers of a code.
        invalid_thr: Share of the squared amplitude below which a code is invalid.
        loss_weight: Weight of ``loss_angle_restrict``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, angle_version: str = "le90", m: int = 3, invalid_thr: float = 0.0, loss_weight: float = 0.05) -> None:
        check_option("angle_version", angle_version, ("le90", "le135", "oc"))
        if not loss_weight >= 0:
            raise ValueError(f"loss_weight must not be negative, got {loss_weight}")
        super().__init__(m, invalid_thr, pi)
        self.angle_version, self.loss_weight = angle_version, loss_weight

    def loss_angle_restrict(self, code: Tensor) -> Tensor:
        """Weighted restriction of the codes of the positive points."""
        return self.loss_weight * self.get_restrict_loss(code)


def register() -> list[str]:
    """Put ``UCRCoder``, and the coders of obbkit, in mmengine's root registry, where the registries of mmdet and mmrotate look last.

    Returns:
        The names.

    Raises:
        ValueError: If another class has such a name there.

    Example:
        >>> from mmengine.registry import TASK_UTILS
        >>> _ = register()
        >>> TASK_UTILS.build(dict(type="UCRCoder", m=3)).encode_size
        3
    """
    add(TASK_UTILS, "UCRCoder", UCRCoder)
    return ["UCRCoder", *register_obbkit()]


register_mmengine = register
