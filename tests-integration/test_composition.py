"""Methods meet in the user's code: comrope's attention under a rotrep head, trained, saved, compiled, exported."""

import torch
from torch import nn
from torch.nn import functional as F

from comrope import ComRoPE, RotaryTable, grid_positions
from geocore import so3
from geocore.testing import assert_same
from rotrep import RotationHead, losses


class PoseNet(nn.Module):
    """Tokens on a grid, one attention layer with a learned rotary embedding, mean pooling, a rotation."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 16) for _ in range(3))
        self.rope: ComRoPE | RotaryTable = ComRoPE(8, 2, 2, block_size=4)
        self.head = RotationHead(16, "6d", hidden=(32,))

    def forward(self, tokens, positions):
        q, k, v = (f(tokens).unflatten(-1, (2, 8)).transpose(-3, -2) for f in (self.q, self.k, self.v))
        q, k = self.rope.apply(q, k, positions) if isinstance(self.rope, RotaryTable) else self.rope(q, k, positions)
        pooled = F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2).mean(-2)
        return self.head(pooled).matrix


def data():
    """A bright token whose place on the grid tells the rotation: the position encoding must be used."""
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(16, (128,), generator=generator)
    tokens = torch.randn(128, 16, 8, generator=generator) * 0.05
    tokens[torch.arange(128), place, 0] += 3.0
    tokens[:, 0, 1] += 3.0  # a landmark that gives the relative position something to be relative to
    angle = torch.stack([place // 4, place % 4, torch.zeros_like(place)], dim=-1) * 0.3
    return tokens, grid_positions((4, 4)), so3.exp(angle)


def test_composition_trains_folds_saves_and_exports(tmp_path):
    torch.manual_seed(0)
    tokens, positions, target = data()
    model = PoseNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = None
    for _ in range(150):
        optimizer.zero_grad()
        loss = so3.geodesic(model(tokens, positions), target).square().mean()
        loss.backward()
        optimizer.step()
        first = loss.item() if first is None else first
    assert loss.item() < 0.3 * first
    model.eval()
    with torch.no_grad():
        plain = model(tokens, positions)
        assert (torch.linalg.det(plain) - 1).abs().max() < 1e-5
        assert (so3.geodesic(plain, model(tokens, positions + 5.0))).max() < 1e-3, "a shift of all positions changes nothing"

        torch.save(model.state_dict(), tmp_path / "model.pt")
        other = PoseNet().eval()
        other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        assert torch.equal(other(tokens, positions), plain)

        torch._dynamo.reset()
        assert_same("compiled", torch.compile(model, fullgraph=True, backend="aot_eager")(tokens, positions), plain)
        model.rope = model.rope.fold_into_(model.q, model.k)
        assert_same("folded", model(tokens, positions), plain, 1e-4)
        batch = torch.export.Dim("batch", min=2, max=512)
        program = torch.export.export(model, (tokens, positions), dynamic_shapes=({0: batch}, None))
        assert_same("exported", program.module()(tokens[:5], positions), plain[:5], 1e-4)


def test_losses_of_one_package_take_the_output_of_another():
    tokens, positions, target = data()
    predicted = PoseNet()(tokens, positions)
    value = losses.geodesic(predicted, target)
    assert abs(value.item() - so3.geodesic(predicted, target).mean().item()) < 1e-5
