"""What a group is to the rest of the library, and the part that all of them share."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from geocore.groups._elements import Element, Motion, as_element, compose, inverse
from geocore.groups._types import transform

__all__ = ["BaseGroup", "FiniteMotions", "Group", "as_dtype", "as_shape"]


@runtime_checkable
class Group(Protocol):
    """A group of elements as plain data: ``Motion``, permutation tensors, or ``Pair`` of them, with any batch dimensions.

    ``name`` for messages; ``is_finite`` says whether ``elements()`` exists.
    """

    @property
    def name(self) -> str: ...
    @property
    def is_finite(self) -> bool: ...

    def identity(self, shape: int | Sequence[int] = ()) -> Any:
        """The neutral element."""
        ...

    def compose(self, g: Any, h: Any) -> Any:
        """``g h``: ``h`` acts first."""
        ...

    def inverse(self, g: Any) -> Any:
        """The element that undoes ``g``."""
        ...

    def random(self, shape: int | Sequence[int] = (), generator: torch.Generator | None = None) -> Any:
        """Independent random elements: the uniform law where there is one."""
        ...

    def action(self, g: Any, x: Any, type: Any) -> Any:  # noqa: A002 - the field's word
        """``g x`` for data of a named type (``geocore.groups.transform``)."""
        ...

    def elements(self) -> Any:
        """All elements along one batch dimension, the identity first."""
        ...


def as_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """A batch shape as a tuple."""
    return (shape,) if isinstance(shape, int) else tuple(shape)


def as_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """The dtype, or torch's default.

    Raises:
        TypeError: If it is not a real floating-point dtype.
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a real floating-point dtype, got {dtype}")
    return dtype


class BaseGroup:
    """Composition, inverse and action, which follow from the elements alone."""

    is_finite: bool = False

    @property
    def name(self) -> str:
        """Name for messages."""
        return repr(self)

    def compose(self, g: Element, h: Element) -> Element:
        """``g h``: ``h`` acts first (``geocore.groups.compose``)."""
        return compose(g, h)

    def inverse(self, g: Element) -> Element:
        """The inverse element (``geocore.groups.inverse``)."""
        return inverse(g)

    def action(self, g: Element, x: Any, type: Any) -> Any:  # noqa: A002 - the field's word
        """``g x`` for a tensor or tree ``x`` of the given type (``geocore.groups.transform``)."""
        return transform(g, x, type)

    def elements(self) -> Element:
        """All elements along one batch dimension.

        Raises:
            ValueError: Since there are infinitely many.
        """
        raise ValueError(f"{self.name} has infinitely many elements; draw some with random()")


class FiniteMotions(BaseGroup):
    """A finite group of orthogonal matrices that is written down whole."""

    is_finite = True
    dim: ClassVar[int]

    def matrices(self) -> Tensor:
        """All elements in float64, shape ``(order, d, d)``, the identity first."""
        raise NotImplementedError

    @property
    def order(self) -> int:
        """Number of elements."""
        return len(self.matrices())

    def identity(
        self, shape: int | Sequence[int] = (), *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Motion:
        """The identity, expanded to ``shape``."""
        eye = torch.eye(self.dim, dtype=as_dtype(dtype), device=device)
        return Motion(eye.expand(*as_shape(shape), self.dim, self.dim))

    def elements(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Motion:
        """All elements, ``Q`` of shape ``(order, d, d)``, the identity first."""
        return Motion(self.matrices().to(device, as_dtype(dtype)))

    def random(
        self,
        shape: int | Sequence[int] = (),
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Motion:
        """Independent uniform elements, ``Q`` of shape ``(*shape, d, d)``."""
        all_of_them = self.elements(dtype=dtype, device=device).Q
        return Motion(all_of_them[torch.randint(len(all_of_them), as_shape(shape), generator=generator, device=device)])

    def index(self, g: Any) -> Tensor:
        """Position of an element in ``elements()``, int64 of the batch shape of ``g``.

        Raises:
            ValueError: If ``g`` is none of them.
        """
        g = as_element(g)
        if not isinstance(g, Motion) or g.Q.shape[-1] != self.dim:
            raise ValueError(f"g must be a motion in dimension {self.dim}")
        distance = (g.Q[..., None, :, :].double() - self.matrices().to(g.Q.device)).abs().amax((-1, -2))
        nearest, at = distance.min(-1)
        if bool((nearest > 1e-4).any()):
            raise ValueError(f"g must be an element of {self.name}, but it is {nearest.max().item():.1e} away from all of them")
        return at
