"""The model: from past positions to future positions and interaction categories."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from eqmotion import graph as graphs
from eqmotion._config import check_config
from eqmotion._inputs import check_mask, check_positions, check_velocity, derive, eager, pair_rows
from eqmotion.block import EqMotionLayer
from eqmotion.functional import masked_mean
from eqmotion.graph import DensePairs, SparsePairs
from eqmotion.layers import EquivariantLinear, TimeDCT, mlp
from eqmotion.outputs import DetailedOutput, EqMotionOutput
from eqmotion.reasoner import InteractionReasoner
from geocore._checks import check_floating

__all__ = ["EqMotion"]


class EqMotion(nn.Module):
    r"""Predict the future of interacting agents, and which of them interact, from their past.

    Rotating, reflecting or moving the scene does the same to the prediction and leaves the categories alone, by construction:
    positions enter as cosine coefficients over time that are only mixed along channels, weights come from norms and angles.
    Source: Xu et al., EqMotion, CVPR 2023, with the details of its official code (``inner_attention``, ``expert_mixer``).

    Args:
        in_steps: Observed steps ``T``, at least 2.
        out_steps: Predicted steps ``F``.
        channels: Geometric channels ``C``.
        hidden_dim: Width ``D`` of the pattern feature.
        n_layers: Layers ``L``; with several modes the last one is there once per mode.
        n_categories: Interaction categories ``K``.
        n_null_categories: Of these, the last ones, that mean "no interaction" and have no expert.
        n_modes: Predictions ``M`` per agent.
        tau: Temperature of the categories.
        agent_tokens: Number of agents, if each has its own learned token (skeletons); gives up permutation equivariance.
        node_attr_dim: Size of invariant attributes of agents.
        edge_attr_dim: Size of invariant attributes of pairs.
        inner_attention: ``"residual"`` (official code) or ``"paper"``.
        expert_mixer: The official MLP after the sum of experts, which the paper does not have.
        category_mode: ``"shared"``, inferred once, or ``"per_layer"``, inferred from the input of every layer.
        group: ``"O"``; ``"SO"`` to tell mirror images apart (``d`` 2 or 3); ``None`` for no rotational symmetry (``d`` up to 3).
        up_axis: A direction that rotations must keep (gravity): its coordinate's index, or a vector.
        aggregation: ``"sum"`` over neighbours, or ``"mean"``, which does not grow with their number.
        center_coefficients: Subtract the mean over agents *and* coefficients before the first and the last map, as the official code
            does. Without it a continuation at constant velocity can be represented exactly.
        eps: Of the vector non-linearity; 1e-4 in the official code.
        graph: ``"dense"``, ``"knn"``, ``"radius"``, or the ``edge_index`` of one scene, shape ``(2, E)``, senders first.
        checkpoint: Recompute the layers in the backward pass instead of keeping what is inside.
        k: Neighbours of ``graph="knn"``.
        radius: Distance of ``graph="radius"``.
        mode_scores: Also give logits of the modes.
        legacy_angle: The official turning angle, biased by up to 8e-3 rad; for official checkpoints.
        allow_empty: Give zeros for scenes without a valid agent instead of an error. On other devices than the CPU there is no error
            either way, because looking would stop the device.

    Raises:
        ValueError: If a size, option or combination is impossible; ``in_steps`` less than 2.
        TypeError: If a size is not an int.

    Example:
        >>> model = EqMotion(20, 10)
        >>> out = model(torch.randn(8, 5, 20, 3))
        >>> out.pred.shape, out.categories.shape
        (torch.Size([8, 5, 10, 3]), torch.Size([8, 5, 5, 2]))
    """

    def __init__(
        self,
        in_steps: int,
        out_steps: int,
        *,
        channels: int = 64,
        hidden_dim: int = 64,
        n_layers: int = 4,
        n_categories: int = 2,
        n_null_categories: int = 0,
        n_modes: int = 1,
        tau: float = 1.0,
        agent_tokens: int | None = None,
        node_attr_dim: int = 0,
        edge_attr_dim: int = 0,
        inner_attention: str = "residual",
        expert_mixer: bool = True,
        category_mode: str = "shared",
        group: str | None = "O",
        up_axis: int | Sequence[float] | None = None,
        aggregation: str = "sum",
        center_coefficients: bool = True,
        eps: float = 1e-4,
        graph: str | Tensor = "dense",
        checkpoint: bool = False,
        k: int = 16,
        radius: float = 5.0,
        mode_scores: bool = False,
        legacy_angle: bool = False,
        allow_empty: bool = False,
    ) -> None:
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        check_config(config)
        self.config: dict[str, Any] = config
        self.in_steps, self.out_steps, self.n_layers, self.n_modes = in_steps, out_steps, n_layers, n_modes
        self.agent_tokens, self.aggregation, self.center_coefficients = agent_tokens, aggregation, center_coefficients
        self.k, self.radius, self.checkpoint, self.allow_empty, self.legacy_angle = k, radius, checkpoint, allow_empty, legacy_angle
        self.group = group
        self.largest_scene = 0  # agents seen in training, see the warning in forward
        self.graph = "edges" if isinstance(graph, Tensor) else graph
        self.register_buffer("edge_index", graph.long() if isinstance(graph, Tensor) else None, persistent=False)
        self.edge_index: Tensor | None
        self.up_axis = up_axis if up_axis is None or isinstance(up_axis, int) else tuple(float(u) for u in up_axis)
        direction = None if self.up_axis is None or isinstance(self.up_axis, int) else torch.tensor([self.up_axis], dtype=torch.float64)
        self.register_buffer("axis", direction, persistent=False)
        self.axis: Tensor | None
        self.n_axes = 3 if group is None else 0 if up_axis is None else 1

        half = hidden_dim // 2
        self.speed_embedding = nn.Linear(in_steps, half)
        self.angle_embedding = nn.Linear(in_steps, hidden_dim - half)
        self.axis_embedding = nn.Linear(in_steps * self.n_axes, hidden_dim, bias=False) if self.n_axes else None
        self.attr_embedding = nn.Linear(node_attr_dim, hidden_dim, bias=False) if node_attr_dim else None
        self.tokens = nn.Parameter(torch.empty(agent_tokens, hidden_dim)) if agent_tokens else None
        self.token_mlp = mlp(2 * hidden_dim, hidden_dim, hidden_dim, last=False) if agent_tokens else None
        self.in_transform, self.out_transform = TimeDCT(in_steps), TimeDCT(out_steps)
        self.W_x = EquivariantLinear(in_steps, channels)
        self.W_v = EquivariantLinear(in_steps, channels)
        self.reasoners = nn.ModuleList(
            InteractionReasoner(
                2 * channels, hidden_dim, n_categories=n_categories, tau=tau, pair_dim=edge_attr_dim + 2 * channels * self.n_axes
            )
            for _ in range(1 if category_mode == "shared" else n_layers)
        )

        def layer(last: bool) -> EqMotionLayer:
            return EqMotionLayer(
                channels,
                hidden_dim,
                n_experts=n_categories - n_null_categories,
                inner_attention=inner_attention,
                expert_mixer=expert_mixer,
                pair_dim=edge_attr_dim,
                n_axes=self.n_axes,
                chiral=group == "SO",
                eps=eps,
                patterns=mode_scores or not last,
            )

        shared = n_layers if n_modes == 1 else n_layers - 1
        self.layers = nn.ModuleList(layer(i == n_layers - 1) for i in range(shared))
        self.mode_layers = nn.ModuleList(layer(True) for _ in range(n_modes if n_modes > 1 else 0))
        self.W_o = nn.ModuleList(EquivariantLinear(channels, out_steps) for _ in range(n_modes))
        self.score = nn.ModuleList(nn.Linear(hidden_dim, 1) for _ in range(n_modes if mode_scores else 0))
        if self.tokens is not None:
            nn.init.normal_(self.tokens)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if module is not self and callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()  # pyright: ignore[reportCallIssue]
        if self.tokens is not None:
            nn.init.normal_(self.tokens)

    @classmethod
    def from_official(
        cls,
        state_dict: Mapping[str, Any] | str | Path,
        variant: str = "particle",
        *,
        key_map: Mapping[str, str] | None = None,
        **options: Any,
    ) -> "EqMotion":
        """Model with the weights of an official checkpoint; see ``eqmotion.official`` for what is known of the format.

        Args:
            state_dict: The weights, or the file that holds them.
            variant: ``"particle"``, ``"skeleton"`` or ``"pedestrian"``.
            key_map: Official module name to our role, for names that are not recognised.
            options: Arguments of the constructor that weights do not show, such as ``tau``.

        Returns:
            The model, in eval mode.

        Raises:
            ValueError: If weights are missing, left over or of impossible shapes.
        """
        from eqmotion.official import load_official

        return load_official(cls, state_dict, variant, key_map=key_map, **options)

    def forward(
        self,
        x: Float[Tensor, "*b n t d"],
        v: Float[Tensor, "*b n t d"] | None = None,
        *,
        mask: Bool[Tensor, "*b n"] | None = None,
        node_attr: Float[Tensor, "*b n a"] | None = None,
        edge_attr: Float[Tensor, "..."] | None = None,
        categories: Float[Tensor, "..."] | None = None,
        edge_index: Int[Tensor, "2 e"] | None = None,
        allow_empty: bool | None = None,
    ) -> EqMotionOutput | DetailedOutput:
        """Predict.

        Args:
            x: Past positions, shape ``(B, N, T, d)`` or ``(N, T, d)``. With a float32 model, float64 positions are centred in float64, so
                that far-away scenes (map coordinates) lose nothing.
            v: Past velocities, same shape; differences of ``x`` if not given.
            mask: Valid agents, shape ``(B, N)``; what the others hold does not matter, and their prediction is 0.
            node_attr: Invariant attributes, shape ``(B, N, node_attr_dim)``.
            edge_attr: Invariant attributes of pairs, shape ``(B, N, N, edge_attr_dim)`` with receiver before sender; on sparse graphs
                also ``(E, edge_attr_dim)``.
            categories: Use these, of shape ``(B, N, N, K)`` (``(E, K)`` on sparse graphs), instead of the inferred ones; the logits are
                still the model's own.
            edge_index: Edges among the flattened ``B N`` agents, shape ``(2, E)``, senders first; in place of ``graph``.
            allow_empty: Overrides the constructor's.

        Returns:
            Prediction, categories and logits in the dtype of ``x``; with ``mode_scores`` or a sparse graph a ``DetailedOutput``.

        Raises:
            ValueError: If shapes do not fit, or a scene has no valid agent.
            TypeError: If ``x`` is not a floating tensor or ``mask`` not a bool tensor.
        """
        check_positions(x, self.in_steps, self.agent_tokens)
        if v is not None:
            check_velocity(v, x)
        if mask is not None:
            check_mask(mask, x, allow_empty=self.allow_empty if allow_empty is None else allow_empty)
        single = x.ndim == 3
        if single:
            x = x[None]
            v, mask, node_attr = (None if t is None else t[None] for t in (v, mask, node_attr))
        self._watch_size(x.shape[1])
        motion = derive(x, v, mask, self.W_x.weight.dtype, legacy=self.legacy_angle)
        h = self._patterns(motion.speed, motion.angle, motion.v, node_attr)
        pairs, edges = self._pairs(motion.x, h, mask, edge_index)
        pair = pair_rows("edge_attr", edge_attr, self.config["edge_attr_dim"], pairs, edges, h.dtype)
        given = pair_rows("categories", categories, self.config["n_categories"], pairs, edges, h.dtype)

        G, U = self._embed(motion.x, motion.v, mask)
        axes = self._axes(G)
        last: tuple[Tensor, Tensor] | None = None
        for i, layer in enumerate(self.layers):
            last = self._reason(i, last, h, G, U, pairs, pair, axes)
            h, G = self._run(layer, h, G, U, last[0] if given is None else given, pairs, mask, pair, axes)
        if self.mode_layers or last is None:
            last = self._reason(len(self.layers), last, h, G, U, pairs, pair, axes)
        used, logits = last[0] if given is None else given, last[1]
        preds, scores = [], []
        for m, W_o in enumerate(self.W_o):
            head = (h, G) if not self.mode_layers else self._run(self.mode_layers[m], h, G, U, used, pairs, mask, pair, axes)
            preds.append(self._decode(W_o, head[1], mask))
            if self.score:
                scores.append(self.score[m](head[0]))
        pred = preds[0] if self.n_modes == 1 else torch.stack(preds, dim=2)
        pred = pred.to(motion.centre.dtype) + (motion.centre if self.n_modes == 1 else motion.centre[:, :, None])
        if mask is not None:
            pred = pred.masked_fill(~mask[(..., *[None] * (pred.ndim - 2))], 0.0)
        outs = [pred, pairs.shaped(used), pairs.shaped(logits)]
        if single:
            outs = [t[0] if t is pred or edges is None else t for t in outs]
        outs = [t.to(x.dtype) for t in outs]
        details = {}
        if scores:
            logit = torch.cat(scores, dim=-1).to(x.dtype)
            details["mode_logits"] = logit[0] if single else logit
        if edges is not None:
            details["edge_index"] = edges
        return DetailedOutput(outs[0], outs[1], outs[2], details) if details else EqMotionOutput(outs[0], outs[1], outs[2])

    def _watch_size(self, agents: int) -> None:
        if not eager() or self.aggregation != "sum" or self.graph != "dense":
            return
        if self.training:
            self.largest_scene = max(self.largest_scene, agents)
        elif 0 < 4 * self.largest_scene < agents:
            warn(
                f"scenes of {agents} agents, trained with at most {self.largest_scene}: sums over neighbours grow with their number; "
                'train with aggregation="mean" or use graph="knn"',
                stacklevel=3,
            )

    def _patterns(self, speed: Tensor, angle: Tensor, v: Tensor, node_attr: Tensor | None) -> Tensor:
        h = torch.cat([self.speed_embedding(speed), self.angle_embedding(angle)], dim=-1)
        if self.axis_embedding is not None:
            h = h + self.axis_embedding((v @ self._axes(v).mT).flatten(-2))
        size = self.config["node_attr_dim"]
        if (node_attr is not None) != (size > 0):
            raise ValueError(
                f"node_attr must be given if and only if node_attr_dim > 0, got {'a tensor' if size == 0 else 'None'} for {size}"
            )
        if node_attr is not None:
            check_floating("node_attr", node_attr)
            if node_attr.shape != (*h.shape[:2], size):
                raise ValueError(f"node_attr must have shape {(*h.shape[:2], size)}, got {tuple(node_attr.shape)}")
            assert self.attr_embedding is not None
            h = h + self.attr_embedding(node_attr.to(h.dtype))
        if self.token_mlp is not None:
            assert self.tokens is not None
            h = self.token_mlp(torch.cat([h, self.tokens.to(h.dtype).expand_as(h)], dim=-1))
        return h

    def _axes(self, like: Tensor) -> Tensor:
        """Fixed directions as rows; coordinates that are not there are zero."""
        d = like.shape[-1]
        if self.group is None:
            if d > 3:
                raise ValueError(f"x must have d <= 3 with group=None, got {d}")
            return torch.eye(3, dtype=like.dtype, device=like.device)[:, :d]
        if isinstance(self.up_axis, int):
            if not -d <= self.up_axis < d:
                raise ValueError(f"up_axis must be a coordinate of x, which has {d}, got {self.up_axis}")
            return torch.eye(d, dtype=like.dtype, device=like.device)[[self.up_axis]]
        if self.up_axis is None:
            return like.new_zeros((0, d))
        if len(self.up_axis) != d:
            raise ValueError(f"up_axis must have the dimension of x, {d}, got {len(self.up_axis)} entries")
        assert self.axis is not None
        axis = self.axis.to(like.dtype)
        return axis / axis.norm()

    def _pairs(
        self, x: Tensor, h: Tensor, mask: Tensor | None, edge_index: Tensor | None
    ) -> tuple[DensePairs | SparsePairs, Tensor | None]:
        mean = self.aggregation == "mean"
        if edge_index is not None:
            graphs.check_edges("edge_index", edge_index, h.shape[0] * h.shape[1] if eager() and edge_index.device.type == "cpu" else None)
            edges = edge_index
        elif self.graph == "dense":
            return DensePairs(h, mask, mean=mean), None
        elif self.graph == "knn":
            edges = graphs.knn_edges(x, self.k, mask)
        elif self.graph == "radius":
            edges = graphs.radius_edges(x, self.radius, mask)
        else:
            assert self.edge_index is not None
            if eager() and self.edge_index.device.type == "cpu":
                graphs.check_edges("graph", self.edge_index, h.shape[1])
            edges = graphs.edges_of(self.edge_index, h.shape[0], h.shape[1])
        return SparsePairs(h, edges, mask, mean=mean), edges

    def _embed(self, x: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        P = self.in_transform(x)
        U = self.W_v(self.in_transform(v))
        if not self.center_coefficients:
            return self.W_x(P), U
        mean = masked_mean(P, mask, (2,))
        return self.W_x(P - mean) + mean, U

    def _reason(
        self,
        i: int,
        last: tuple[Tensor, Tensor] | None,
        h: Tensor,
        G: Tensor,
        U: Tensor,
        pairs: DensePairs | SparsePairs,
        pair: Tensor | None,
        axes: Tensor,
    ) -> tuple[Tensor, Tensor]:
        if last is not None and i >= len(self.reasoners):
            return last
        R = torch.cat([G, U], dim=-2)
        features = [] if pair is None else [pair]
        if self.n_axes:
            features.insert(0, pairs.difference((R @ axes.mT).flatten(-2)))
        return self.reasoners[i].rows(R, h, pairs, torch.cat(features, dim=-1) if features else None)  # pyright: ignore[reportCallIssue]

    def _run(
        self, layer: nn.Module, h: Tensor, G: Tensor, U: Tensor, categories: Tensor, pairs: Any, mask: Any, pair: Any, axes: Any
    ) -> Any:
        options = {"mask": mask, "pair": pair, "axes": axes}
        if self.checkpoint and torch.is_grad_enabled():
            return recompute(layer, h, G, U, categories, pairs, use_reentrant=False, **options)
        return layer(h, G, U, categories, pairs, **options)

    def _decode(self, W_o: nn.Module, G: Tensor, mask: Tensor | None) -> Tensor:
        if not self.center_coefficients:
            return self.out_transform.inverse(W_o(G))
        mean = masked_mean(G, mask, (2,))
        return self.out_transform.inverse(W_o(G - mean) + mean)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        shown = {name: value for name, value in self.config.items() if not isinstance(value, Tensor)}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())
