"""Finding out whose model it is."""

import importlib
from importlib.util import find_spec
from typing import Any

from torch import nn

from comrope.folding import RotaryTable
from comrope.modules import ComRoPE
from geocore._checks import check_option

__all__ = ["fold_vit", "patch_vit"]

SUPPORTED = "timm VisionTransformer and transformers ViTModel, ViTForImageClassification, ViTForMaskedImageModeling"


def patch_vit(
    model: nn.Module,
    num_axes: int = 2,
    variant: str = "ld",
    ape: str = "remove",
    init: str = "normal",
    *,
    block_size: int = 8,
    perturbation: float = 0.0,
) -> list[ComRoPE]:
    """Give every attention layer of a vision transformer a ``ComRoPE`` of its own, in place.

    Each attention layer gets a submodule ``rope``; queries and keys pass through it just before attention, whatever attention kernel
    the model uses. Positions follow the size of each input, so other resolutions and aspect ratios work without interpolation
    (the sides must still be multiples of the patch size). Prefix tokens stand at ``(0.5, 0.5)``. With ``ape="remove"`` or ``"zero"`` and
    ``init="zero"`` a pre-trained model starts out as itself without position signal; keep ``ape="keep"`` and ``init="zero"`` to start
    out exactly as it was.

    Args:
        model: A timm ``VisionTransformer``, or a transformers ``ViTModel``, ``ViTForImageClassification`` or
            ``ViTForMaskedImageModeling``.
        num_axes: Number of coordinates; images have 2.
        variant: As ``ComRoPE``.
        ape: What happens to the model's own position table: ``"remove"`` it, ``"keep"`` it (offset invariance is lost), or fill it with
            ``"zero"`` and freeze it, which computes the same as removing but leaves the names in the state dict.
        init: As ``ComRoPE``.
        block_size: As ``ComRoPE``.
        perturbation: Intensity of the training-time perturbation of positions (``grid_positions``), from the global generator like dropout;
            the paper's best runs have 1.

    Returns:
        The new layers, first to last.

    Raises:
        TypeError: If the model is not one of these.
        ValueError: If an option is unknown, sizes do not divide, the model is patched already or has parts that rotation cannot pass
            (patch dropout, another rotary embedding).
        ImportError: If the library of the model is not installed.

    Example:
        >>> model = timm.create_model("vit_base_patch16_224")
        >>> ropes = patch_vit(model, init="zero", ape="keep")
        >>> model(torch.randn(1, 3, 320, 192)).shape
        torch.Size([1, 1000])
    """
    check_option("ape", ape, ("remove", "keep", "zero"))
    if num_axes != 2:
        raise ValueError(f"num_axes must be 2 for image models, got {num_axes}")
    if not perturbation >= 0:
        raise ValueError(f"perturbation must be at least 0, got {perturbation}")
    options: dict[str, Any] = {"variant": variant, "init": init, "block_size": block_size}
    return _adapter(model).patch(model, ape, perturbation, options)


def fold_vit(model: nn.Module) -> list[RotaryTable]:
    """Fold the basis of every ``ComRoPE`` of a patched model into its projections, in place; plain RoPE tables take their place.

    Args:
        model: A model that ``patch_vit`` has patched.

    Returns:
        The tables that now stand in the attention layers, first to last.

    Raises:
        ValueError: If the model is not patched, is folded already, or normalises queries and keys after projection.
        TypeError: If the model is not one that ``patch_vit`` knows.
    """
    return _adapter(model).fold(model)


def _adapter(model: Any) -> Any:
    roots = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    if "timm" in roots:
        try:
            importlib.import_module("timm")
        except ImportError as error:
            raise ImportError("patching a timm model needs timm: pip install 'comrope[timm]'") from error
        from comrope.integrations import _timm

        return _timm
    if "transformers" in roots:
        try:
            importlib.import_module("transformers")
        except ImportError as error:
            raise ImportError("patching a transformers model needs transformers: pip install 'comrope[transformers]'") from error
        from comrope.integrations import _transformers

        return _transformers
    if isinstance(model, nn.Module) and not any(find_spec(name) for name in ("timm", "transformers")):
        raise ImportError(f"patch_vit supports {SUPPORTED}; install one: pip install 'comrope[timm]' or 'comrope[transformers]'")
    raise TypeError(f"model must be one of: {SUPPORTED}; got {type(model).__name__}. Use ComRoPE inside your own attention")
