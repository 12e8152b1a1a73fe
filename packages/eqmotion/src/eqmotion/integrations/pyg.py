"""Scenes of torch_geometric: ``Data`` and ``Batch`` with any number of agents in, padded or sparse; predictions back per scene."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eqmotion.model import EqMotion
from eqmotion.outputs import DetailedOutput, EqMotionOutput
from geocore._checks import check_floating

__all__ = ["PyGEqMotion", "to_data_list", "to_dense"]


def _import() -> Any:
    try:
        from torch_geometric.data import Batch, Data
    except ImportError as error:
        raise ImportError("this adapter needs torch_geometric; install eqmotion[pyg]") from error
    return Batch, Data


def to_dense(data: Any) -> tuple[Tensor, Tensor]:
    """Padded positions ``(B, N, T, d)`` and mask ``(B, N)`` of a ``Data`` or ``Batch``.

    Args:
        data: With ``pos`` of shape ``(agents, T, d)`` and, for several scenes, ``batch`` of shape ``(agents,)``, sorted.

    Raises:
        ValueError: If ``pos`` is not of rank 3 or ``batch`` does not fit.
    """
    pos, scene = _parts(data)
    counts = torch.bincount(scene, minlength=int(scene.max()) + 1 if len(scene) else 0)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(scene), device=pos.device) - first[scene]
    width = int(counts.max()) if len(counts) else 0
    x = pos.new_zeros((len(counts), width, *pos.shape[1:]))
    x[scene, place] = pos
    mask = torch.zeros(len(counts), width, dtype=torch.bool, device=pos.device)
    mask[scene, place] = True
    return x, mask


def _parts(data: Any) -> tuple[Tensor, Tensor]:
    pos = getattr(data, "pos", None)
    check_floating("data.pos", pos)
    assert isinstance(pos, Tensor)
    if pos.ndim != 3:
        raise ValueError(f"data.pos must have shape (agents, T, d), got {tuple(pos.shape)}")
    scene = getattr(data, "batch", None)
    scene = torch.zeros(len(pos), dtype=torch.long, device=pos.device) if scene is None else scene
    if scene.shape != pos.shape[:1] or bool((scene.diff() < 0).any()):
        raise ValueError(f"data.batch must be sorted, of shape ({len(pos)},), got shape {tuple(scene.shape)}")
    return pos, scene


class PyGEqMotion(torch.nn.Module):
    """``EqMotion`` on ``Data`` and ``Batch`` objects.

    The interactions are those of ``data.edge_index`` (senders first, as in torch_geometric) if it is there, else all pairs of a scene.

    Args:
        model: The model.

    Example:
        >>> from torch_geometric.data import Batch, Data
        >>> batch = Batch.from_data_list([Data(pos=torch.randn(n, 8, 3), num_nodes=n) for n in (3, 5)])
        >>> PyGEqMotion(EqMotion(8, 4))(batch).pred.shape
        torch.Size([8, 4, 3])
    """

    def __init__(self, model: EqMotion) -> None:
        super().__init__()
        _import()
        self.model = model

    def forward(self, data: Any) -> EqMotionOutput | DetailedOutput:
        """Prediction ``(agents, F, d)``, or ``(agents, M, F, d)``, and one row of categories per edge.

        Without ``edge_index`` the edges are all pairs of different agents of a scene, in the ``details`` of the result.

        Raises:
            ValueError: If ``data.pos`` is not of shape ``(agents, T, d)``.
        """
        x, mask = to_dense(data)
        edge_index = getattr(data, "edge_index", None)
        scene, place = mask.nonzero(as_tuple=True)
        slot = scene * x.shape[1] + place  # of each agent among the padded ones
        if edge_index is not None:
            out = self.model(x, mask=mask, edge_index=slot[edge_index])
            return DetailedOutput(out.pred[mask], out.categories, out.category_logits, {**_scores(out, mask), "edge_index": edge_index})
        out = self.model(x, mask=mask)
        pairs = mask[:, :, None] & mask[:, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        where, receiver, sender = pairs.nonzero(as_tuple=True)
        agent = torch.zeros(mask.numel(), dtype=torch.long, device=x.device)
        agent[slot] = torch.arange(len(slot), device=x.device)
        edges = torch.stack([agent[where * x.shape[1] + sender], agent[where * x.shape[1] + receiver]])
        return DetailedOutput(
            out.pred[mask], out.categories[pairs], out.category_logits[pairs], {**_scores(out, mask), "edge_index": edges}
        )


def _scores(out: EqMotionOutput | DetailedOutput, mask: Tensor) -> dict[str, Tensor]:
    logits = out.mode_logits if isinstance(out, DetailedOutput) else None
    return {} if logits is None else {"mode_logits": logits[mask]}


def to_data_list(x: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Sequence[Any]:
    """``Data`` objects of padded scenes.

    Args:
        x: Past, shape ``(B, N, T, d)``.
        y: Future, shape ``(B, N, F, d)``.
        mask: Valid agents, shape ``(B, N)``.

    Returns:
        One ``Data`` per scene with ``pos`` ``(agents, T, d)`` and, if given, ``y`` ``(agents, F, d)``.

    Raises:
        ValueError: If ``x`` is not of rank 4.
    """
    _, Data = _import()
    check_floating("x", x)
    if x.ndim != 4:
        raise ValueError(f"x must have shape (B, N, T, d), got {tuple(x.shape)}")
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    scenes = []
    for i in range(len(x)):
        parts = {"pos": x[i, mask[i]], "num_nodes": int(mask[i].sum())}
        if y is not None:
            parts["y"] = y[i, mask[i]]
        scenes.append(Data(**parts))
    return scenes
