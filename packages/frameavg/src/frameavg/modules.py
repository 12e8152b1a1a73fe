"""Frame averaging as a module."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from frameavg._average import average
from frameavg._inputs import as_frame
from frameavg._types import Types
from geocore._checks import check_option, check_positive_int
from geocore.frames import Frame

__all__ = ["FrameAveraging", "StochasticFrame"]


class FrameAveraging(nn.Module):
    """A backbone made invariant or equivariant by averaging it over the frame of its input, without touching its code.

    ``f(x) = 1 / |F(x)| sum over g in F(x) of rho_out(g) backbone(rho_in(g)^-1 x)`` is exact for every backbone, and keeps symmetries it
    already has (of point order, say). The ``k`` poses of an item stand in the batch axis, so the backbone runs once on a batch ``k`` times
    as large. Batch statistics are those of all poses; exactness holds in evaluation mode (dropout differs from pose to pose) and, with
    batch normalisation in training, only for the whole frame.

    Source: Puny et al., ICLR 2022, arXiv 2110.03336, equations 4 and 5; sampling as Duval et al., FAENet, ICML 2023.

    Args:
        backbone: Module or function of a batch.
        frame: Frame of the input: ``PCAFrame``, ``WeightedFrame``, ``PermutationFrame`` and the others, or any equivariant map that
            returns a matrix ``Q`` or ``(Q, t)`` an item, such as a learned canonicaliser.
        in_types: How the group acts on the inputs. One type is that of the first input, the others being invariant; a sequence types
            the positional inputs; a dict types inputs by position and keyword, or the entries of a single dict input. Types are
            ``"invariant"``, ``"position"``, ``"vector"``, ``"tensor(k)"``, ``"pseudovector"``, ``"pseudoscalar"``, ``"node"``, ``"edge"``
            or a function ``(g, x) -> x``.
        out_types: The same for the outputs: one type for all, or a structure like the output.
        n_samples: Random frame elements an item in training (alias of ``train_samples``).
        train_samples: The same; ``1`` is stochastic frame averaging. ``None`` averages over the whole frame.
        eval_samples: Random elements in evaluation; ``None`` for the whole frame.
        chunk: Frame elements handed to the backbone at once. Under gradients every chunk is recomputed in the backward pass.
        reduce: ``"mean"``; ``"none"`` returns the outputs of all elements on an axis after the batch axes.
        generator: Source of the samples; torch's global one otherwise.

    Raises:
        ValueError: If an option is out of range, or ``n_samples`` and ``train_samples`` differ.

    Example:
        >>> from frameavg import PCAFrame
        >>> backbone = nn.Sequential(nn.Flatten(), nn.Linear(60, 64), nn.SiLU(), nn.Linear(64, 1))
        >>> model = FrameAveraging(backbone, PCAFrame(3, "E"))
        >>> x, Q = torch.randn(8, 20, 3), torch.linalg.qr(torch.randn(3, 3)).Q
        >>> bool((model(x) - model(x @ Q.T + 1)).abs().max() < 1e-4)
        True
    """

    def __init__(
        self,
        backbone: nn.Module | Callable[..., Any],
        frame: Any,
        in_types: Types = "position",
        out_types: Types = "invariant",
        n_samples: int | None = None,
        train_samples: int | None = None,
        eval_samples: int | None = None,
        chunk: int | None = None,
        reduce: str = "mean",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not callable(backbone):
            raise TypeError(f"backbone must be a module or a function, got {type(backbone).__name__}")
        if not callable(frame):
            raise TypeError(f"frame must be callable, such as PCAFrame(3, 'SE'), got {type(frame).__name__}")
        check_option("reduce", reduce, ("mean", "none"))
        for name, count in (("n_samples", n_samples), ("train_samples", train_samples), ("eval_samples", eval_samples), ("chunk", chunk)):
            if count is not None:
                check_positive_int(name, count)
        if n_samples is not None and train_samples is not None and n_samples != train_samples:
            raise ValueError(f"n_samples and train_samples mean the same, got {n_samples} and {train_samples}")
        self.backbone = backbone
        self.frame = frame
        self.in_types, self.out_types = in_types, out_types
        self.train_samples = n_samples if train_samples is None else train_samples
        self.eval_samples, self.chunk, self.reduce = eval_samples, chunk, reduce
        self.generator = generator

    def forward(
        self,
        *args: Any,
        frame_input: int | str | Callable[..., Tensor] = 0,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
        return_frame: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Average the backbone.

        Args:
            *args: Inputs of the backbone. Dense items ``(*batch, n, d)``; or all points ``(N, d)`` with the keyword ``batch``, the item
                of each, which the backbone is given for all copies, as ``edge_index`` is.
            frame_input: Which input decides the frame: a position, a keyword, the key of a dict input, or a function of all inputs.
            weights: Weights of the points in the frame, shape ``(*batch, n)``, not handed on.
            mask: Valid points, shape ``(*batch, n)``. Only they make the frame; positions of the others are zero in every pose. Handed
                on to a backbone that takes ``mask``.
            return_frame: Also return the frame, to see which elements were used and which items are degenerate.
            **kwargs: Keyword inputs. Tensors with the batch axes (for a single item: with a row a point) are repeated for every copy,
                others are passed on.

        Returns:
            The averaged output, or ``Averaged(output, frame)``.
        """
        samples = self.train_samples if self.training else self.eval_samples
        result = average(
            self.backbone,
            args,
            kwargs,
            self.frame,
            self.in_types,
            self.out_types,
            frame_input=frame_input,
            weights=weights,
            mask=mask,
            n_samples=samples,
            generator=self.generator,
            chunk=self.chunk,
            reduce=self.reduce,
        )
        return result if return_frame else result.output

    def extra_repr(self) -> str:
        """Frame and types."""
        frame = "" if isinstance(self.frame, nn.Module) else f"frame={self.frame!r}, "
        return f"{frame}in_types={self.in_types!r}, out_types={self.out_types!r}"


class StochasticFrame:
    """Random elements of another frame, drawn anew at every call and for every item.

    The average of a single uniformly drawn element is that of the whole frame: an unbiased, cheap stand-in for training.

    Args:
        frame: The frame to draw from.
        n_samples: Elements an item.
        generator: Source of the randomness; torch's global one otherwise.

    Example:
        >>> from frameavg import PCAFrame
        >>> StochasticFrame(PCAFrame(3, "SE"))(torch.randn(8, 20, 3)).size
        1
    """

    def __init__(self, frame: Any, n_samples: int = 1, generator: torch.Generator | None = None) -> None:
        check_positive_int("n_samples", n_samples)
        self.frame, self.n_samples, self.generator = frame, n_samples, generator

    def __call__(self, x: Tensor, weights: Tensor | None = None, batch: Tensor | None = None) -> Frame:
        """The drawn elements."""
        options = {name: value for name, value in (("weights", weights), ("batch", batch)) if value is not None}
        return as_frame(self.frame(x, **options), x).sample(self.n_samples, self.generator)

    def __repr__(self) -> str:
        return f"StochasticFrame({self.frame!r}, n_samples={self.n_samples})"
