"""What the model returns."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["DetailedOutput", "EqMotionOutput"]


class EqMotionOutput(NamedTuple):
    """Prediction ``(B, N, F, d)`` or ``(B, N, M, F, d)``, categories and their logits ``(B, N, N, K)``, or ``(E, K)`` on sparse graphs."""

    pred: Tensor
    categories: Tensor
    category_logits: Tensor


class DetailedOutput(NamedTuple):
    """``EqMotionOutput`` of a model with mode scores or a sparse graph, which has more to say.

    ``details`` holds ``"mode_logits"`` of shape ``(B, N, M)``, and ``"edge_index"`` of shape ``(2, E)``, senders and receivers among the
    flattened ``B N`` agents.
    """

    pred: Tensor
    categories: Tensor
    category_logits: Tensor
    details: dict[str, Tensor]

    @property
    def mode_logits(self) -> Tensor | None:
        """Logits of the modes, if the model has ``mode_scores``."""
        return self.details.get("mode_logits")

    @property
    def edge_index(self) -> Tensor | None:
        """The edges that were used, if the graph is sparse."""
        return self.details.get("edge_index")
