"""Angle coders and losses against their definitions."""

from math import pi

import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck

from geocore import planar
from obbkit import _quick, build_coder, coders, losses, register_coder

F64 = {"dtype": torch.float64}
CODERS = {
    "direct": ({}, 1),
    "psc": ({"dual_freq": False}, 3),
    "psc dual": ({"num_step": 4}, 8),
    "acm": ({}, 2),
    "acm dual": ({"dual_freq": True}, 4),
}


def boxes(n, seed=0):
    r = torch.rand(n, 5, generator=torch.Generator().manual_seed(seed), **F64)
    return r * torch.tensor([20, 20, 30, 30, 12.0], **F64) + torch.tensor([0, 0, 3, 3, -6.0], **F64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CODERS)
def test_codes_there_and_back(name, dtype):
    options, size = CODERS[name]
    coder = build_coder(name.split()[0], **options)
    assert isinstance(coder, coders.AngleCoder)
    assert coder.encode_size == size
    t = torch.linspace(-pi / 2, pi / 2, 20_001, **F64)[:-1].to(dtype)
    code = coder.encode(t)
    assert code.shape == (20_000, size)
    tol = 1e-6 if dtype == torch.float32 else 1e-12
    assert planar.angle_diff(coder.decode(code), t).abs().max() < tol
    assert torch.equal(coder.encode(t[:, None]), code)
    assert coder.decode(code, keepdim=True).shape == (20_000, 1)
    assert coder.encode(t[:6].reshape(2, 3)).shape == (2, 3, size)
    if name != "direct":
        assert (coder.encode(t + pi) - code).abs().max() < 20 * tol


def test_codes_are_continuous_where_the_angle_jumps():
    for name, (options, _) in CODERS.items():
        coder = build_coder(name.split()[0], **options)
        a, b = coder.encode(torch.tensor([pi / 2 - 1e-6, -pi / 2 + 1e-6], **F64))
        assert ((a - b).abs().max() < 1e-4) == (name != "direct")


def test_psc_amplitude_and_dual_frequency():
    coder = coders.PSCCoder(3, dual_freq=False, thr_mod=0.47)
    code = coder.encode(torch.tensor(0.4, **F64))
    assert coder.decode(0.1 * code).item() == 0.0
    assert coder.decode(0.9 * code).item() == pytest.approx(0.4)
    x = (0.1 * code).requires_grad_()
    assert (torch.autograd.grad(coder.decode(x), x)[0] == 0).all()
    dual = coders.PSCCoder(3)
    noisy = dual.encode(torch.tensor(0.4, **F64)).clone()
    noisy[:3] = dual.encode(torch.tensor(0.6, **F64))[:3]  # the coarse phase only chooses the turn
    assert dual.decode(noisy).item() == pytest.approx(0.4)
    assert gradcheck(lambda c: coder.decode(c), coder.encode(torch.tensor([0.3, -1.2], **F64)).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("step", "dual"), [(3, False), (3, True), (4, True), (6, True)])
def test_psc_in_pieces_equals_the_plain_formulas(step, dual, dtype, monkeypatch):
    monkeypatch.setattr("obbkit._quick.PIECE", 7)
    monkeypatch.setattr("obbkit._quick.LEAST", 0)
    g = torch.Generator().manual_seed(step)
    coder = coders.PSCCoder(step, dual)
    t = (3 * torch.randn(4, 5, generator=g, dtype=dtype)).requires_grad_()
    x = (coder.encode(t.detach()) + 0.2 * torch.randn(4, 5, coder.encode_size, generator=g, dtype=dtype)).requires_grad_()
    tol = 1e-5 if dtype == torch.float32 else 1e-13
    assert torch.allclose(coder.encode(t.detach()), coder.encode(t).detach(), rtol=0, atol=tol)
    assert planar.angle_diff(coder.decode(x.detach()), coder.decode(x).detach()).abs().max() < tol
    zero = coder.decode(torch.cat([torch.zeros_like(x[:1]), x[:1] * torch.nan]).detach())
    assert (zero[0] == 0).all()
    assert zero[1].isnan().all() == coder.decode(x[:1] * torch.nan).isnan().all()
    assert coder.decode(x[:0].detach()).shape == (0, 5)


@pytest.mark.parametrize("dual", [False, True])
def test_few_angles_take_the_plain_operators(dual, monkeypatch):
    calls = []
    run = _quick.encode
    monkeypatch.setattr(_quick, "encode", lambda *args, **kw: calls.append(len(args[0])) or run(*args, **kw))
    t = torch.linspace(-4, 4, _quick.LEAST, **F64)
    coder = coders.PSCCoder(3, dual)
    few = coder.encode(t[1:])
    assert not calls
    assert torch.allclose(few, coder.encode(t)[1:], rtol=0, atol=1e-13)
    assert calls == [_quick.LEAST] * (2 if dual else 1)
    assert not _quick.pays(t.clone().requires_grad_(), len(t))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_as_products(dtype):
    g = torch.Generator().manual_seed(0)
    for m in (2, 3, 5, 8):
        x = torch.randn(100, m, generator=g, dtype=dtype)
        c, s = torch.randn(2, m, generator=g, dtype=torch.float64).tolist()
        tol = 1e-5 if dtype == torch.float32 else 1e-13
        for quick, plain in zip(_quick.project(x, c, s), _quick.project_reference(x, c, s), strict=True):
            assert torch.allclose(quick, plain, rtol=0, atol=tol)
        assert torch.allclose(_quick.row_sum(x), x.sum(-1), rtol=0, atol=tol)
        assert torch.allclose(_quick.encode(x, 2.0, c, s), _quick.encode_reference(x, 2.0, c, s), rtol=0, atol=tol)
    x = torch.zeros(2, dtype=dtype)
    assert _quick.may_run(x)
    assert not any(_quick.may_run(y) for y in (x.clone().requires_grad_(), x.half(), x.to("meta"), torch.nn.Parameter(x)))
    with torch.no_grad():
        assert _quick.may_run(x.clone().requires_grad_())


@pytest.mark.parametrize("window", ["gaussian", "triangle", "rect", "pulse"])
def test_csl(window):
    coder = coders.CSLCoder(omega=2.0, window=window, radius=4.0)
    assert coder.encode_size == 90
    t = torch.linspace(-pi / 2, pi / 2 - 1e-6, 1000, **F64)
    code = coder.encode(t)
    assert torch.allclose(code.amax(-1), torch.ones(1000, **F64))
    if window != "rect":
        assert planar.angle_diff(coder.decode(code), t).abs().max() <= pi / 180 + 1e-9
    if window == "gaussian":
        row = coder.encode(torch.tensor(-pi / 2 + 1e-3, **F64))
        assert row[1].item() == pytest.approx(2.718281828 ** (-1 / 32))
        assert row[-1].item() == pytest.approx(row[1].item())  # it is circular


@pytest.mark.bad_input
def test_bad_coders_are_refused():
    with pytest.raises(ValueError, match="name must be one of 'acm'"):
        build_coder("ucb")
    with pytest.raises(ValueError, match="name must be new"):
        register_coder("psc", lambda: None)
    with pytest.raises(ValueError, match="omega must be a positive divisor"):
        coders.CSLCoder(omega=7)
    with pytest.raises(ValueError, match="num_step must be"):
        coders.PSCCoder(2)
    with pytest.raises(ValueError, match=r"code must have shape \(\.\.\., 2\)"):
        coders.ACMCoder().decode(torch.zeros(4, 3))
    with pytest.raises(TypeError, match="angle must have a floating-point dtype"):
        coders.ACMCoder().encode(torch.tensor([1]))


LOSSES = {
    "gwd": losses.gwd_loss,
    "kld": losses.kld_loss,
    "jd": losses.jd_loss,
    "kfiou": losses.kfiou_loss,
    "probiou": losses.probiou_loss,
    "iou": losses.rotated_iou_loss,
    "log iou": lambda p, t, **kw: losses.rotated_iou_loss(p, t, "log", **kw),
    "circumscribed": losses.circumscribed_iou_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    fn = LOSSES[name]
    pred, target = boxes(12), boxes(12, 1)
    each = fn(pred, target, reduction="none")
    assert each.shape == (12,)
    assert torch.allclose(fn(pred, target), each.mean())
    assert torch.allclose(fn(pred, target, reduction="sum"), each.sum())
    w = torch.rand(12, **F64)
    assert torch.allclose(fn(pred, target, weight=w), (w * each).sum() / w.sum())
    same = fn(pred, pred, reduction="none")
    floor = {"kfiou": 2 / 3}.get(name, 0.0)
    if name != "circumscribed":
        assert torch.allclose(same, torch.full_like(same, floor), atol=2e-5)
    assert (each > same).float().mean() > 0.9
    x = pred.detach().requires_grad_()
    empty = fn(x[:0], target[:0])
    assert empty.item() == 0
    assert torch.autograd.grad(empty, x)[0].abs().max() == 0
    if name != "circumscribed":
        near = (target + 0.3 * torch.randn(12, 5, generator=torch.Generator().manual_seed(3), **F64)).requires_grad_()
        assert gradcheck(lambda p: fn(p, target), near)
    assert fn(pred.float(), target.float()).dtype == torch.float32


def test_gwd_is_the_wasserstein_distance():
    a, b = boxes(8), boxes(8, 1)
    found = losses.gwd_loss(a, b, fun=None, tau=0.0, normalize=False, reduction="none")
    for i in range(8):
        (m1, S1), (m2, S2) = planar.obb_to_gaussian(a[i]), planar.obb_to_gaussian(b[i])
        root = scipy.linalg.sqrtm(S1.numpy())
        cross = scipy.linalg.sqrtm(root @ S2.numpy() @ root).real
        wanted = (m1 - m2).square().sum().item() + (S1 + S2).trace().item() - 2 * cross.trace()
        assert found[i].item() ** 2 == pytest.approx(wanted, rel=1e-8)


def test_kld_and_probiou_definitions():
    a, b = boxes(8), boxes(8, 1)
    N = [torch.distributions.MultivariateNormal(*planar.obb_to_gaussian(x)) for x in (a, b)]
    wanted = torch.distributions.kl_divergence(*N)
    assert torch.allclose(losses.kld_loss(a, b, fun=None, tau=0.0, sqrt=False, reduction="none"), wanted, rtol=1e-8)
    both = 0.5 * (wanted + torch.distributions.kl_divergence(N[1], N[0]))
    assert torch.allclose(losses.jd_loss(a, b, fun=None, tau=0.0, sqrt=False, reduction="none"), both, rtol=1e-8)
    assert losses.probiou(a, a).min() > 1 - 1e-6
    square = torch.tensor([0.0, 0, 1, 1, 0], **F64)
    assert losses.probiou(square, square + torch.tensor([0, 0, 0, 0, pi / 4], **F64)).item() > 0.999


def test_circumscribed_loss_sees_the_hull_only():
    true = boxes(20)
    hull = planar.aabb_to_obb(planar.obb_to_aabb(true))
    assert losses.circumscribed_iou_loss(true, hull).item() == pytest.approx(0.0, abs=1e-6)
    turned = planar.rotate(hull, 0.7)
    assert losses.circumscribed_iou_loss(planar.rotate(true, 0.7), turned).item() == pytest.approx(0.0, abs=1e-6)
    x = boxes(20, 1).requires_grad_()
    grad = torch.autograd.grad(losses.circumscribed_iou_loss(x, hull), x)[0]
    assert (grad[:, 4] == 0).all()
    assert grad[:, 2:4].abs().sum() > 0


def test_symmetry_consistency():
    T = torch.tensor
    args = T([0.2, -1.5, 0.05]), T([1.3, -0.4, 1.55]), T([-0.25, 1.45, 3.1])
    assert losses.symmetry_consistency(*args, 1.2).item() == pytest.approx(0.11708922, abs=1e-6)
    t = torch.linspace(-1.5, 1.5, 9, **F64)
    rot = torch.linspace(0.8, 2.3, 9, **F64)
    for shift in (0.0, pi / 2):  # the ambiguity that width and height resolve
        a = t + shift
        assert losses.symmetry_consistency(a, a + rot, -a, rot).item() == pytest.approx(0.0, abs=1e-12)
    agnostic = T([True, False, False])
    kept = losses.symmetry_consistency(*(a[1:] for a in args), 1.2).item()
    assert losses.symmetry_consistency(*args, 1.2, agnostic).item() == pytest.approx(kept * 2 / 3, rel=1e-6)
    none = torch.zeros(0, requires_grad=True)
    assert losses.symmetry_consistency(none, none, none, 1.2).item() == 0
    leaves = [torch.randn(4, generator=torch.Generator().manual_seed(s), **F64).requires_grad_() for s in range(3)]
    assert gradcheck(lambda a, b, c: losses.symmetry_consistency(a, b, c, 1.2), leaves)


@pytest.mark.bad_input
def test_views_of_different_objects_are_refused():
    a = torch.zeros(3)
    with pytest.raises(ValueError, match="one shape"):
        losses.symmetry_consistency(a, a[:2], a, 1.2)
