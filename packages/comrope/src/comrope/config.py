"""Configuration of a ComRoPE layer as plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from geocore._checks import check_option, check_positive_int

__all__ = ["ComRoPEConfig"]

VARIANTS = ("ld", "ap", "full")
INITS = ("normal", "zero", "axial")


@dataclass(frozen=True)
class ComRoPEConfig:
    """Arguments of ``ComRoPE`` as a frozen, checked record that goes to and from JSON-ready dictionaries.

    Args:
        head_dim: Size ``d`` of a head, divisible by ``block_size`` (for ``"ap"`` by ``num_axes * block_size``).
        num_heads: Number of heads ``H``.
        num_axes: Number of coordinates ``N`` of a position.
        block_size: Size ``b`` of a rotation block.
        variant: ``"ld"``, ``"ap"`` or ``"full"``; see ``ComRoPE``.
        init: ``"normal"``, ``"zero"`` or ``"axial"``; see ``ComRoPE``.
        init_std: Standard deviation of ``P`` in the normal initialisation.
        theta_per_head: Whether every head has its own ``theta``.

    Raises:
        ValueError: If a size is not positive, does not divide ``head_dim``, or an option is unknown.
        TypeError: If a size is not an integer.

    Example:
        >>> config = ComRoPEConfig(head_dim=64, num_heads=12, num_axes=2)
        >>> ComRoPEConfig.from_dict(config.to_dict()) == config
        True
    """

    head_dim: int
    num_heads: int
    num_axes: int
    block_size: int = 8
    variant: str = "ld"
    init: str = "normal"
    init_std: float = 1.0
    theta_per_head: bool = False

    def __post_init__(self) -> None:
        check_positive_int("head_dim", self.head_dim)
        check_positive_int("num_heads", self.num_heads)
        check_positive_int("num_axes", self.num_axes)
        check_positive_int("block_size", self.block_size, minimum=2)
        check_option("variant", self.variant, VARIANTS)
        check_option("init", self.init, INITS)
        if not self.init_std >= 0:
            raise ValueError(f"init_std must be at least 0, got {self.init_std}")
        if self.theta_per_head and self.variant != "ld":
            raise ValueError(f"theta_per_head needs variant 'ld', which alone has theta, got variant {self.variant!r}")
        if self.head_dim % self.block_size:
            raise ValueError(f"head_dim must be divisible by block_size, got {self.head_dim} and {self.block_size}")
        if self.variant == "ap" and self.head_dim % (self.num_axes * self.block_size):
            raise ValueError(
                f"variant 'ap' gives each axis its own blocks: head_dim must be divisible by num_axes * block_size = "
                f"{self.num_axes} * {self.block_size} = {self.num_axes * self.block_size}, got {self.head_dim}"
            )

    @property
    def num_blocks(self) -> int:
        """Number of blocks ``m`` of a head."""
        return self.head_dim // self.block_size

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values, one per argument."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ComRoPEConfig":
        """The configuration that ``to_dict`` wrote.

        Raises:
            ValueError: If a key is unknown or a required one is missing.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        missing = sorted({"head_dim", "num_heads", "num_axes"} - set(values))
        if unknown or missing:
            raise ValueError(f"configuration has unknown keys {unknown} and lacks {missing}; known keys are {sorted(known)}")
        return cls(**values)
