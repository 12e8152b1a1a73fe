"""Frame averaging around networks made of other packages: equivariant to 1e-5 in float32, trained, saved, compiled, exported."""

import pytest
import torch
from torch import nn

from comrope import ComRoPE
from eqmotion import EqMotion, EquivariantLinear, VectorReLU
from frameavg import FrameAveraging, PCAFrame, WeightedFrame
from geocore import so3
from geocore.groups import Orthogonal
from geocore.testing import assert_not_equivariant, assert_same, equivariance_error
from monarch import MonarchLinear
from rotrep import RotationHead

TOL = 1e-5


class Attention(nn.Module):
    """Points as tokens at their own positions: rotary attention and a Monarch layer. Neither knows of rotations of space."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = MonarchLinear(3, 16, nblocks=2)
        self.rope = ComRoPE(8, 2, 3, block_size=4)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        h = torch.tanh(self.embed(x))
        q = h.unflatten(-1, (2, 8)).transpose(-3, -2)
        q, k = self.rope(q, q, x)
        a = nn.functional.scaled_dot_product_attention(q, k, q).transpose(-3, -2).flatten(-2)
        return self.out(a)


class Mixed(nn.Module):
    """Equivariant layers of eqmotion followed by a linear map of coordinates, which breaks what they keep."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.linear, self.relu = EquivariantLinear(points, 8), VectorReLU(8)
        self.mix = nn.Linear(24, 3 * points)
        self.points = points

    def forward(self, x):
        return self.mix(self.relu(self.linear(x)).flatten(-2)).unflatten(-1, (self.points, 3))


class Forecast(nn.Module):
    """EqMotion's prediction, bent by a network that sees coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.motion = EqMotion(4, 3, channels=8, hidden_dim=8, n_layers=1)
        self.bend = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        pred = self.motion(x.unflatten(-2, (-1, 4))).pred
        return (pred + self.bend(pred)).flatten(-3, -2)


def cloud(points, seed=0):
    return torch.randn(6, points, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor([1.0, 2.0, 3.0])


MODELS = {
    "comrope attention and monarch": (Attention, 10, "vector"),
    "eqmotion layers": (lambda: Mixed(10), 10, "vector"),
    "eqmotion": (Forecast, 12, "position"),
}
FRAMES = {"principal axes": PCAFrame(3, "SE"), "weighted": WeightedFrame(3, "SE", top_k=None)}


def moved(x, seed=3):
    g = torch.Generator().manual_seed(seed)
    return so3.random((), generator=g), torch.randn(3, generator=g)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", MODELS)
def test_wrapped_networks_are_equivariant(name, frame):
    make, points, kind = MODELS[name]
    torch.manual_seed(0)
    model = FrameAveraging(make(), FRAMES[frame], "position", kind).eval()
    x = cloud(points)
    R, t = moved(x)
    with torch.no_grad():
        y, z = model(x), model(x @ R.T + t)
    wanted = y @ R.T + (t if kind == "position" else 0)
    assert (z - wanted).abs().max() <= TOL * wanted.abs().max()
    with torch.no_grad():
        plain, turned = model.backbone(x), model.backbone(x @ R.T + t)
    assert (turned - (plain @ R.T + (t if kind == "position" else 0))).abs().max() > 1e-2 * plain.abs().max()


def test_the_same_by_the_helpers_of_geocore():
    torch.manual_seed(0)
    backbone = Mixed(10)
    model = FrameAveraging(backbone, PCAFrame(3, "O"), "vector", "vector")
    assert equivariance_error(model, cloud(10), Orthogonal(3), "vector", "vector") < 1e-11
    assert_not_equivariant(backbone, cloud(10), Orthogonal(3), "vector", "vector")


def test_rotations_predicted_in_every_pose():
    """A head that returns a rotation, averaged as the vectors of its columns and projected back."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(30, 16), nn.Tanh())
    head = RotationHead(16, "6d", init="default")
    model = FrameAveraging(lambda x: head(net(x)).matrix.mT, PCAFrame(3, "SE"), "position", "vector")
    x = cloud(10)
    R, t = moved(x)
    with torch.no_grad():
        first, second = (so3.from_9d(model(v).mT.flatten(-2)) for v in (x, x @ R.T + t))
    assert (second - R @ first).abs().max() < 1e-4  # the projection onto rotations magnifies rounding


@pytest.mark.parametrize("name", MODELS)
def test_wrapped_networks_train_save_compile_and_export(name, tmp_path):
    make, points, kind = MODELS[name]
    torch.manual_seed(0)
    model = FrameAveraging(make(), PCAFrame(3, "SE", degenerate="ignore"), "position", kind)
    x = cloud(points)
    goal = x.roll(1, 1)[:, : model(x).shape[1]]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (model(x)[:, : goal.shape[1]] - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) >= 0.8 * len(list(model.parameters()))  # what updates the features after the last use of them gets none
    assert all(g.isfinite().all() for g in grads)
    model.eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = FrameAveraging(make(), PCAFrame(3, "SE", degenerate="ignore"), "position", kind).eval()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        expected = model(x)
        assert_same("state_dict", again(x), expected)
        assert_same("compile", torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected, 1e-5)
        exported = torch.export.export(model, (x,))
        assert_same("export", exported.module()(x), expected, 1e-5)
