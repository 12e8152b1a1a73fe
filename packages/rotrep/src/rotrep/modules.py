"""Network heads that end in a rotation or a similarity."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree

from geocore._checks import check_option, check_positive_int, check_trailing
from geocore._precision import full_precision
from rotrep._base import Representation
from rotrep.ndim import Similarity
from rotrep.registry import get_representation

__all__ = ["RotationHead", "RotationOutput", "SimilarityHead", "SimilarityOutput"]


class RotationOutput(NamedTuple):
    """Output of ``RotationHead``.

    Attributes:
        matrix: Rotation matrices, shape ``(..., n, n)``.
        raw: The vectors they were decoded from, shape ``(..., dim)``; for regularisers, not for losses.
        confidence: How well the vectors determine the rotation, shape ``(...)``, for 9D and 10D; else ``None``.
    """

    matrix: Tensor
    raw: Tensor
    confidence: Tensor | None


class SimilarityOutput(NamedTuple):
    """Output of ``SimilarityHead``.

    Attributes:
        matrix: Homogeneous matrices ``[[s R, t], [0, 1]]``, shape ``(..., n + 1, n + 1)``.
        raw: The vectors they were decoded from, shape ``(..., dim)``.
        confidence: As ``RotationOutput``, of the rotation.
        rotation: Shape ``(..., n, n)``.
        scale: Shape ``(...)``.
        translation: Shape ``(..., n)``.
    """

    matrix: Tensor
    raw: Tensor
    confidence: Tensor | None
    rotation: Tensor
    scale: Tensor
    translation: Tensor


for _output in (RotationOutput, SimilarityOutput):  # otherwise torch.export.save refuses a program that returns them
    _pytree._register_namedtuple(_output, serialized_type_name=f"rotrep.{_output.__name__}")


class _Head(nn.Module):
    """Linear layers with LeakyReLU between them, from features to the vectors of a representation."""

    def __init__(
        self,
        in_features: int,
        representation: Representation,
        hidden: Sequence[int],
        init: Literal["identity", "default"],
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        super().__init__()
        check_positive_int("in_features", in_features)
        for width in hidden:
            check_positive_int("hidden", width)
        check_option("init", init, ("identity", "default"))
        self.in_features, self.hidden, self.init = in_features, tuple(hidden), init
        self.representation = representation
        widths = (in_features, *self.hidden)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b, dtype=dtype, device=device), nn.LeakyReLU()]
        layers.append(nn.Linear(widths[-1], representation.dim, dtype=dtype, device=device))
        self.layers = nn.Sequential(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the layers; with ``init="identity"`` the last one has zero weights and the identity as its bias."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        last = self.layers[-1]
        if self.init == "identity" and isinstance(last, nn.Linear):
            nn.init.zeros_(last.weight)
            with torch.no_grad():
                last.bias.copy_(self.representation.identity_bias(device=last.bias.device))

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"in_features={self.in_features}, representation={self.representation}, hidden={self.hidden}, init={self.init!r}"

    def _raw(self, x: Tensor) -> Tensor:
        check_trailing("x", x, (self.in_features,))
        return self.layers(x)


class RotationHead(_Head):
    """The end of a network that outputs rotations: linear layers, then ``decode``.

    The default representation is 9D with SVD, the default of the literature since Levinson et al. 2020; 6D is about as good and cheaper.
    With ``init="identity"`` every output is exactly the identity at first.

    Args:
        in_features: Number of input features.
        representation: Name of a representation or an instance; options go to ``get_representation``.
        hidden: Widths of hidden layers with LeakyReLU, none by default.
        init: ``"identity"``, or ``"default"`` for torch's.
        dtype: Dtype of the parameters.
        device: Device of the parameters.
        options: Options of the representation given by name.

    Raises:
        TypeError: If a size is not an int.
        ValueError: If a size is not positive, or a name or an option is unknown, or options come with an instance.

    Example:
        >>> head = RotationHead(16, "6d", hidden=(32,))
        >>> head(torch.randn(4, 16)).matrix.shape
        torch.Size([4, 3, 3])
    """

    def __init__(
        self,
        in_features: int,
        representation: str | Representation = "9d",
        hidden: Sequence[int] = (),
        init: Literal["identity", "default"] = "identity",
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(representation, str):
            representation = get_representation(representation, **options)
        elif options:
            raise ValueError(f"options must be given to the representation itself, got {sorted(options)} beside an instance")
        super().__init__(in_features, representation, hidden, init, dtype, device)

    def forward(self, x: Float[Tensor, "*batch f"]) -> RotationOutput:
        """Rotations of features.

        Args:
            x: Features, shape ``(..., in_features)``.

        Returns:
            ``RotationOutput(matrix, raw, confidence)``.

        Raises:
            ValueError: If the last dimension of ``x`` is not ``in_features``.
        """
        raw = self._raw(x)
        matrix, confidence = self.representation.decode_with_confidence(raw)
        return RotationOutput(matrix, raw, confidence)


class SimilarityHead(_Head):
    """The end of a network that outputs similarities ``p -> s R p + t``: rotation, scale and translation.

    Args:
        in_features: Number of input features.
        rotation: Representation of the rotation, as ``Similarity``.
        hidden: Widths of hidden layers with LeakyReLU, none by default.
        init: ``"identity"``, or ``"default"`` for torch's.
        n: Dimension.
        scale: ``"exp"`` or ``"softplus"``.
        dtype: Dtype of the parameters.
        device: Device of the parameters.

    Raises:
        TypeError: If a size is not an int.
        ValueError: If a size is not positive, or a name or an option is unknown.

    Example:
        >>> SimilarityHead(16)(torch.randn(4, 16)).scale
        tensor([1., 1., 1., 1.], grad_fn=<ExpBackward0>)
    """

    representation: Similarity

    def __init__(
        self,
        in_features: int,
        rotation: str | Representation = "6d",
        hidden: Sequence[int] = (),
        init: Literal["identity", "default"] = "identity",
        *,
        n: int = 3,
        scale: Literal["exp", "softplus"] = "exp",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(in_features, Similarity(n, rotation=rotation, scale=scale), hidden, init, dtype, device)

    def forward(self, x: Float[Tensor, "*batch f"]) -> SimilarityOutput:
        """Similarities of features.

        Args:
            x: Features, shape ``(..., in_features)``.

        Returns:
            ``SimilarityOutput(matrix, raw, confidence, rotation, scale, translation)``.

        Raises:
            ValueError: If the last dimension of ``x`` is not ``in_features``.
        """
        raw = self._raw(x)
        return _similarity(self.representation, raw)


@full_precision
def _similarity(representation: Similarity, raw: Tensor) -> SimilarityOutput:
    rotation, scale, translation, confidence = representation.decode_parts(raw)
    return SimilarityOutput(representation.assemble(rotation, scale, translation), raw, confidence, rotation, scale, translation)
