"""Scenes of different size, map features, several modes with scores: what motion forecasting asks for."""

import torch

from eqmotion import EqMotion, best_of_modes_loss, mode_score_loss

torch.manual_seed(0)
x = torch.randn(2, 6, 8, 2).cumsum(2)  # two scenes, up to six agents, eight steps
y = torch.randn(2, 6, 12, 2).cumsum(2) + x[:, :, -1:]
mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
lane = torch.rand(2, 6, 3)  # invariant features of an agent's place: distance to the lane, limit of speed, ...

model = EqMotion(8, 12, n_modes=6, mode_scores=True, node_attr_dim=3, aggregation="mean", n_categories=4, n_null_categories=2)
out = model(x, mask=mask, node_attr=lane)
loss = best_of_modes_loss(out.pred, y, mask, supervise="all", joint=True) + mode_score_loss(out.mode_logits, out.pred, y, mask)
loss.backward()
print(f"prediction {tuple(out.pred.shape)}, mode probabilities of the first agent {out.mode_logits[0, 0].softmax(-1).tolist()}")
print(f"padded agents predict {out.pred[1, 4:].abs().max().item()}")
