"""What every representation can do: decode, encode, confidence, degeneracy, and arithmetic on raw vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore import son
from geocore._checks import check_floating, check_option, check_trailing
from geocore._precision import full_precision
from geocore.orthogonal import assert_rotation

__all__ = ["DEGENERATE", "VALID_ATOL", "Representation"]

DEGENERATE = ("safe", "nan", "raise")
VALID_ATOL = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Numbers that stand for a rotation: ``decode`` to matrices, ``encode`` back, with ``decode(encode(R)) = R``.

    The base of all representations; get one with ``get_representation``. Instances are immutable, hashable, comparable and hold no
    tensors. A representation is continuous if ``encode`` is continuous on the whole group (Zhou et al. 2019).

    Args:
        eps: Relative tolerance below which an item counts as degenerate (for ``"nan"``, ``"raise"`` and ``degenerate_mask``), for 6D
            the sine of the angle between the two vectors; never less than 8 machine epsilons, so 1e-6 in float32.
        degenerate: What ``decode`` does with input that determines no rotation. ``"safe"``: a rotation all the same, finite gradients, zero
            along undetermined directions. ``"nan"``: NaN. ``"raise"``: ValueError, after reading the mask from the device.
    """

    eps: float = 1e-8
    degenerate: Literal["safe", "nan", "raise"] = "safe"

    name: ClassVar[str] = ""
    is_continuous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_option("degenerate", self.degenerate, DEGENERATE)
        if not 0 <= self.eps < 1:
            raise ValueError(f"eps must lie in [0, 1), got {self.eps}")

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    @property
    def n(self) -> int:
        """Dimension of the space that is rotated."""
        return 3

    @property
    def matrix_size(self) -> int:
        """Rows and columns of the decoded matrices: ``n``, or ``n + 1`` for homogeneous ones."""
        return self.n

    def _decode(self, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """Matrices and the confidence, if there is one."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def _encode(self, R: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def _degenerate(self, v: Tensor) -> Tensor:
        """Mask of items that determine no rotation; none by default."""
        return v.new_zeros(v.shape[:-1], dtype=torch.bool)

    def _tolerance(self, v: Tensor) -> float:
        return max(self.eps, 8.0 * torch.finfo(v.dtype).eps)

    def _check_vector(self, v: Tensor, name: str = "v") -> None:
        check_trailing(name, v, (self.dim,))

    def _validate(self, R: Tensor) -> None:
        assert_rotation(R, atol=VALID_ATOL.get(R.dtype, 1e-4))

    def decode(self, v: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m m"]:
        """Matrices of raw vectors of any scale.

        Args:
            v: Vectors, shape ``(..., dim)``.

        Returns:
            Matrices, shape ``(..., n, n)``, orthogonal to rounding with determinant +1, dtype and device of ``v``. Float16 and
            bfloat16 are computed in float32.

        Raises:
            ValueError: If the last dimension is not ``dim``, or ``degenerate`` is ``"raise"`` and an item is degenerate.
            TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.
        """
        return self.decode_with_confidence(v)[0]

    @full_precision
    def decode_with_confidence(self, v: Float[Tensor, "*batch d"]) -> tuple[Float[Tensor, "*batch m m"], Float[Tensor, "*batch"] | None]:
        """Matrices as ``decode``, and how well determined they are.

        Args:
            v: Vectors, shape ``(..., dim)``.

        Returns:
            The pair ``(matrices, confidence)``: for 9D the margin ``s2 + sign s3``, for 10D the gap of the two smallest eigenvalues, shape
            ``(...)``, zero where the rotation is not determined and the inverse of the largest gradient elsewhere; ``None`` for the others.

        Raises:
            ValueError, TypeError, NotImplementedError: As ``decode``.
        """
        self._check_vector(v)
        R, confidence = self._decode(v)
        if self.degenerate != "safe":
            mask = self._degenerate(v)
            if self.degenerate == "raise" and bool(mask.any()):
                raise ValueError(
                    f"v must determine a rotation, but {int(mask.sum())} of {mask.numel()} items do not. Drop them "
                    "(degenerate_mask finds them) or use degenerate='safe'."
                )
            if self.degenerate == "nan":
                R = torch.where(mask[..., None, None], float("nan"), R)
        return R, confidence

    def encode(self, R: Float[Tensor, "*batch m m"], *, validate: bool = False) -> Float[Tensor, "*batch d"]:
        """Vectors of matrices, a right inverse of ``decode``.

        Args:
            R: Rotation matrices, shape ``(..., n, n)``.
            validate: Check that they are rotations to 1e-4 in float32 (1e-8 in float64); reads the result from the device.

        Returns:
            Vectors, shape ``(..., dim)``, dtype and device of ``R``.

        Raises:
            ValueError: If the last two dimensions are wrong, or with ``validate`` a matrix is not a rotation.
            TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.
        """
        check_trailing("R", R, (self.matrix_size, self.matrix_size))
        if validate:
            self._validate(R)
        return self._encode_full(R)

    @full_precision
    def _encode_full(self, R: Tensor) -> Tensor:
        return self._encode(R)

    @full_precision
    def degenerate_mask(self, v: Float[Tensor, "*batch d"]) -> Bool[Tensor, "*batch"]:
        """Which items determine no rotation (see ``eps``); no device synchronisation.

        Args:
            v: Vectors, shape ``(..., dim)``.

        Returns:
            Mask, shape ``(...)``.

        Raises:
            ValueError, TypeError, NotImplementedError: As ``decode``.
        """
        self._check_vector(v)
        return self._degenerate(v)

    def random(
        self,
        shape: int | Sequence[int] = (),
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "*shape d"]:
        """Vectors of Haar-distributed rotations, shape ``(*shape, dim)``.

        Args:
            shape: Batch shape, or a number of samples.
            generator: Source of randomness.
            dtype: Of the result, torch's default if not given.
            device: Of the result.

        Returns:
            Encodings of uniformly random rotations.
        """
        return self.encode(son.haar(self.n, shape, generator=generator, dtype=dtype, device=device))

    def identity_bias(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Float[Tensor, " d"]:
        """Vector that decodes to the identity, shape ``(dim,)``: the bias to start a network's last layer from."""
        return self.encode(torch.eye(self.matrix_size, dtype=dtype, device=device))

    def compose(self, a: Float[Tensor, "*#batch d"], b: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*#batch d"]:
        """Vector of the product ``decode(a) decode(b)``: decoded, multiplied, encoded. Batch dimensions broadcast.

        Raises:
            ValueError, TypeError, NotImplementedError: As ``decode``.
        """
        return self.encode(self.decode(a) @ self.decode(b))

    def inverse(self, v: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Vector of the inverse rotation.

        Raises:
            ValueError, TypeError, NotImplementedError: As ``decode``.
        """
        return self.encode(self.decode(v).mT)

    def apply(self, v: Float[Tensor, "*#batch d"], points: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*#batch n"]:
        """Points turned by the rotations of ``v``; batch dimensions broadcast.

        Args:
            v: Vectors, shape ``(..., dim)``.
            points: Points, shape ``(..., n)``.

        Returns:
            Points, shape ``(..., n)``.

        Raises:
            ValueError, TypeError, NotImplementedError: As ``decode``.
        """
        check_floating("points", points)
        check_trailing("points", points, (self.n,))
        return (self.decode(v) @ points.unsqueeze(-1)).squeeze(-1)
