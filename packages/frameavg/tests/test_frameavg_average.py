"""Exactness of frame averaging for every group, dimension and type of output."""

import pytest
import torch
from torch import nn

from frameavg import FrameAveraging, PCAFrame, WeightedFrame, frame_average
from frameavg._reference import frame_average_reference
from geocore import son

N = 9


def backbone(dim: int, shape: tuple[int, ...]) -> nn.Module:
    """A random network without any symmetry."""
    out = 1
    for size in shape:
        out *= size
    return nn.Sequential(nn.Flatten(), nn.Linear(N * dim, 32), nn.Tanh(), nn.Linear(32, out), nn.Unflatten(-1, shape)).double()


def element(dim: int, group: str) -> tuple[torch.Tensor, torch.Tensor]:
    Q = son.haar(dim, dtype=torch.float64) if dim > 1 else torch.ones(1, 1, dtype=torch.float64)
    if not group.startswith("S"):
        Q = torch.cat([-Q[:, :1], Q[:, 1:]], 1)
    t = torch.randn(dim, dtype=torch.float64) if group.endswith("E") else torch.zeros(dim, dtype=torch.float64)
    return Q, t


OUTPUTS = {
    "invariant": (lambda d: (4,), lambda y, Q, t: y),
    "vector": (lambda d: (N, d), lambda y, Q, t: y @ Q.T),
    "position": (lambda d: (N, d), lambda y, Q, t: y @ Q.T + t),
    "tensor(2)": (lambda d: (d, d), lambda y, Q, t: Q @ y @ Q.T),
    "pseudovector": (lambda d: (d,), lambda y, Q, t: torch.linalg.det(Q) * y @ Q.T),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("group", ["O", "SO", "E", "SE"])
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5])
def test_average_is_exact(dim, group, kind):
    shape, act = OUTPUTS[kind]
    model = FrameAveraging(backbone(dim, shape(dim)), PCAFrame(dim, group), "position", kind).eval()
    x = torch.randn(3, N, dim, dtype=torch.float64)
    Q, t = element(dim, group)
    with torch.no_grad():
        y, moved = model(x), model(x @ Q.T + t)
        wanted = act(y, Q, t)
    assert (moved - wanted).abs().max() <= 1e-12 * max(1.0, y.abs().max().item())


@pytest.mark.parametrize(("group", "other"), [("SE", "E"), ("SO", "O")])
def test_rotation_frames_see_handedness(group, other):
    model = FrameAveraging(backbone(3, (4,)), PCAFrame(3, group)).eval()
    x = torch.randn(3, N, 3, dtype=torch.float64)
    Q, t = element(3, other)
    with torch.no_grad():
        y, mirrored = model(x), model(x @ Q.T + t)
    assert (mirrored - y).norm() > 1e-2 * y.norm()


def test_closed_form():
    """Sum of z1^3 + z2 z3^2 + z1 z2 z3 + z3^2 in the poses of four points, as worked out by hand."""
    x = torch.tensor([[[2.0, 0, 0], [0, 1, 0], [-1, 0, 0.5], [0, -0.5, 1]]], dtype=torch.float64)

    def phi(z):
        a, b, c = z.unbind(-1)
        return (a**3 + b * c**2 + a * b * c + c**2).sum(-1)

    assert frame_average(phi, x, PCAFrame(3, "E")).item() == pytest.approx(0.0702391978539, abs=1e-12)
    chiral = frame_average(phi, x, PCAFrame(3, "SE")).item()
    assert chiral == pytest.approx(0.1062561750662, abs=1e-12)
    assert frame_average(phi, x * torch.tensor([1.0, 1.0, -1.0]), PCAFrame(3, "SE")).item() == pytest.approx(
        2 * 0.0702391978539 - chiral, abs=1e-12
    )


def test_one_dimension_is_the_even_part():
    phi = backbone(1, (2,))
    x = torch.randn(4, N, 1, dtype=torch.float64)
    centred = x - x.mean(-2, keepdim=True)
    assert torch.allclose(frame_average(phi, x, PCAFrame(1, "E")), (phi(centred) + phi(-centred)) / 2, atol=1e-14)


@pytest.mark.parametrize("kind", ["invariant", "vector", "position", "tensor(2)"])
@pytest.mark.parametrize("frame", [PCAFrame(3, "SE"), PCAFrame(3, "E", order="ascending"), WeightedFrame(3, "SE")], ids=repr)
def test_agrees_with_the_reference(frame, kind):
    net = backbone(3, OUTPUTS[kind][0](3))
    x = torch.randn(2, N, 3, dtype=torch.float64, requires_grad=True)
    params = [x, *net.parameters()]
    ours = frame_average(net, x, frame, "position", kind)
    plain = frame_average_reference(net, x, frame, kind)
    assert torch.allclose(ours, plain, atol=1e-13)
    g = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, params, g), torch.autograd.grad(plain, params, g), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_symmetry_of_the_backbone_is_kept():
    """A sum over points does not see their order; neither does its average."""
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    model = FrameAveraging(lambda z: net(z).sum(-2), PCAFrame(3, "SE"))
    x = torch.randn(2, N, 3, dtype=torch.float64)
    assert torch.allclose(model(x), model(x[:, torch.randperm(N)]), atol=1e-13)


@pytest.mark.parametrize("detach", [True, False])
def test_gradient_field_is_equivariant(detach):
    """With the true derivative of the frame the gradient of an invariant energy is its force; detached, it still turns with the input."""
    model = FrameAveraging(backbone(3, (1,)), PCAFrame(3, "SE", detach=detach))
    x = torch.randn(2, N, 3, dtype=torch.float64, requires_grad=True)
    Q, t = element(3, "SE")
    moved = (x.detach() @ Q.T + t).requires_grad_()
    force = torch.autograd.grad(model(x).sum(), x)[0]
    turned = torch.autograd.grad(model(moved).sum(), moved)[0]
    assert (turned - force @ Q.T).abs().max() < 1e-10 * force.abs().max()
    direction = torch.randn_like(x)
    h = 1e-5
    with torch.no_grad():
        slope = (model(x + h * direction) - model(x - h * direction)).sum() / (2 * h)
    error = abs((force * direction).sum().item() - slope.item()) / abs(slope.item())
    assert (error < 1e-6) != detach


def test_half_precision_backbone_and_input():
    model = FrameAveraging(nn.Sequential(nn.Flatten(), nn.Linear(3 * N, 4)).bfloat16(), PCAFrame(3, "SE")).eval()
    x = torch.randn(3, N, 3)
    y = model(x.bfloat16())
    assert y.dtype == torch.bfloat16
    with torch.no_grad():
        wanted = FrameAveraging(model.backbone.float(), PCAFrame(3, "SE"))(x.bfloat16().float())
    assert (y.float() - wanted).abs().max() < 0.05 * wanted.abs().max()
