"""The coder and its restriction against hand values and definitions."""

from math import pi

import pytest
import torch
from torch.autograd import gradcheck

from geocore.planar import angle_diff
from obbkit import _quick, build_coder
from ucr_rsar import UCRCoder, UnitCircleLoss

T = torch.tensor
F64 = {"dtype": torch.float64}
ROWS = torch.tensor([[0.5, -0.2, 0.9], [1, 1, 1], [-2, 0.5, 0.1], [0.05, 0.02, -0.03]], **F64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", range(2, 9))
def test_there_and_back(m, dtype):
    coder = UCRCoder(m)
    t = torch.linspace(-pi / 2, pi / 2, 20_000, **F64).to(dtype)
    code = coder.encode(t)
    tol = 1e-6 if dtype == torch.float32 else 1e-12
    assert code.shape == (20_000, m)
    assert code.dtype == dtype
    assert angle_diff(coder.decode(code), t).abs().max() < tol
    assert (coder.encode(t + pi) - code).abs().max() < 4 * tol
    assert (code.square().sum(-1) - (1 if m == 2 else m / 2)).abs().max() < 4 * tol
    if m > 2:
        assert code.sum(-1).abs().max() < 4 * tol
    assert (coder.amplitude(code) - 1).abs().max() < tol
    for complement in ("official", "all"):
        assert coder.restriction(code, complement=complement) < 10 * tol
    wide = 3.0 * t
    assert angle_diff(UCRCoder(m, period=2 * pi).decode(UCRCoder(m, period=2 * pi).encode(wide)), wide, 2 * pi).abs().max() < 4 * tol


def test_hand_values():
    assert torch.allclose(UCRCoder(3).encode(T(0.3, **F64)), T([0.82533561, -0.90166253, 0.07632692], **F64), atol=1e-8)
    assert torch.allclose(UCRCoder(2).encode(T(0.3, **F64)), T([0.82533561, 0.56464247], **F64), atol=1e-8)
    assert UCRCoder(3).decode(ROWS[0]).item() == pytest.approx(0.70730968, abs=1e-7)
    assert UCRCoder(2).decode(ROWS[0, :2]).item() == pytest.approx(-0.19025319, abs=1e-7)
    assert UCRCoder(3).restriction(ROWS).item() == pytest.approx(2.94905, abs=1e-6)
    assert UCRCoder(2).restriction(ROWS[:, :2]).item() == pytest.approx(1.489275, abs=1e-7)
    assert UCRCoder(3).restriction(ROWS, complement="all").item() == pytest.approx(2.94905, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reading_ignores_amplitude_and_mean(dtype):
    coder = UCRCoder(3)
    x = ROWS.to(dtype)
    for a, b in ((3.0, 0.0), (0.2, 0.0), (1.0, 5.0), (0.3, -2.0)):
        moved = coder.decode(a * x + b)
        tol = 1e-5 if dtype == torch.float32 else 1e-12
        assert angle_diff(moved, coder.decode(x))[[0, 2, 3]].abs().max() < tol
    for m in (2, 3, 5):
        zero = torch.zeros(m, dtype=dtype, requires_grad=True)
        angle = UCRCoder(m).decode(zero)
        assert angle.item() == 0
        assert (torch.autograd.grad(angle, zero)[0] == 0).all()
    assert coder.decode(torch.ones(3, dtype=dtype)).item() == 0


@pytest.mark.parametrize("m", [2, 3, 5, 8])
def test_gradient_of_the_angle_grows_as_codes_shrink(m):
    """``1 / (2 A r)`` with the amplitude ``A`` and the radius ``r``: twentyfold at A = .05, none below 1e-6; A is read off the code."""
    coder = UCRCoder(m)
    t = T([0.3, -1.2, 1.5], **F64)
    for a in (1.0, 0.05, 1e-3, 1e-5, 1e-7):
        x = (a * coder.encode(t)).requires_grad_()
        (grad,) = torch.autograd.grad(coder.decode(x).sum(), x)
        wanted = 1 / (2 * a * (1 if m == 2 else m / 2) ** 0.5) if a > 1e-6 else 0.0
        assert torch.allclose(grad.norm(dim=-1), torch.full((3,), wanted, **F64), rtol=1e-9, atol=0)
        assert torch.allclose(coder.amplitude(x), torch.full((3,), a, **F64), rtol=1e-9, atol=0)


def test_invalid_zone():
    coder, free = UCRCoder(3, invalid_thr=0.2), UCRCoder(3)
    t = torch.full((40,), 0.7, **F64)
    scale = torch.linspace(0.05, 1.2, 40, **F64)
    x = (scale[:, None] * coder.encode(t)).requires_grad_()
    angle = coder.decode(x)
    invalid = scale.square() < 0.2
    assert (angle[invalid] == 0).all()
    assert torch.allclose(angle[~invalid], t[~invalid])
    (grad,) = torch.autograd.grad(angle.sum(), x)
    assert (grad[invalid] == 0).all()
    assert (grad[~invalid].abs().sum(-1) > 0).all()
    assert torch.allclose(free.decode(x), t)
    (pull,) = torch.autograd.grad(coder.restriction(x), x)
    assert (pull[invalid].abs().sum(-1) > 0).all()


def test_restriction_vanishes_on_the_circle_only():
    for m in (2, 3, 4, 7):
        coder = UCRCoder(m)
        code = torch.randn(50, m, generator=torch.Generator().manual_seed(m), **F64)
        on = coder.encode(coder.decode(code))
        for form in ("squared", "norm"):
            assert coder.restriction(on, form=form, complement="all") < 1e-12
            assert (coder.restriction(code, "none", form, "all") > 1e-6).all()
    off = torch.tensor([[1.0, -1.0, 1.0, -1.0]], **F64) * 0.5**0.5  # mean zero and the right length, but no angle
    assert UCRCoder(4).restriction(off) < 1e-12
    assert UCRCoder(4).restriction(off, complement="all") > 0.5


def test_norm_form_lifts_codes_from_the_origin():
    x = torch.full((1, 3), 1e-3, **F64) * torch.tensor([1.0, -1.0, 0.0], **F64)
    for form, least in (("squared", 0.0), ("norm", 0.5)):
        y = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(UCRCoder(3).restriction(y, form=form), y)
        assert (grad.norm() > 0.5) == (least > 0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_derivatives(reduction):
    t = torch.tensor([0.3, -1.2, 0.9], **F64).requires_grad_()
    for m in (2, 3, 5):
        coder = UCRCoder(m)
        assert gradcheck(coder.encode, t)
        x = torch.randn(4, m, generator=torch.Generator().manual_seed(m), **F64)
        x = (x * (0.5 + coder.amplitude(x)[:, None])).requires_grad_()
        assert coder.amplitude(x).min() > 0.1
        assert gradcheck(coder.decode, x)
        for form in ("squared", "norm"):
            assert gradcheck(lambda c, coder=coder, form=form: coder.restriction(c, reduction, form, "all"), x)


def test_shapes_and_precision():
    coder = UCRCoder(3)
    t = torch.linspace(-1.5, 1.5, 12)
    code = coder.encode(t.reshape(3, 4))
    assert code.shape == (3, 4, 3)
    assert coder.decode(code).shape == (3, 4)
    assert coder.decode(code, keepdim=True).shape == (3, 4, 1)
    assert UCRCoder(2).decode(UCRCoder(2).encode(t)).shape == (12,)  # no dimension is left over for m = 2
    assert torch.equal(coder.encode(t[:, None]), coder.encode(t))
    for dtype, tol in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        back = coder.decode(coder.encode(t.to(dtype)))
        assert back.dtype == dtype
        assert angle_diff(back.float(), t).abs().max() < 4 * tol
    empty = torch.zeros(0, 3, requires_grad=True)
    value = coder.restriction(empty)
    assert value.item() == 0
    assert value.requires_grad
    assert "cosines" not in coder.state_dict()
    assert (coder.double().encode(t.double()) - UCRCoder(3).encode(t.double())).abs().max() == 0
    assert "m=3" in repr(coder)
    assert isinstance(build_coder("ucr", m=4), UCRCoder)


def test_coder_is_exported_whole():
    coder = UCRCoder(3)
    t = torch.linspace(-1.5, 1.5, 12)
    compiled = torch.compile(lambda a: coder.decode(coder.encode(a)), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(t), t, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [2, 3, 4, 5, 8])
def test_pieces_without_gradient_equal_the_plain_formulas(m, dtype, monkeypatch):
    monkeypatch.setattr("obbkit._quick.PIECE", 7)
    monkeypatch.setattr("obbkit._quick.LEAST", 0)
    g = torch.Generator().manual_seed(m)
    coder = UCRCoder(m, invalid_thr=0.1)
    t = (4 * torch.randn(3, 10, generator=g, dtype=dtype)).requires_grad_()
    x = torch.randn(3, 10, m, generator=g, dtype=dtype)
    x[0, 0], x[0, 1, 0], x[0, 2] = 0, torch.nan, coder.encode(torch.tensor(-pi / 2, dtype=dtype)).detach()
    x = x.transpose(0, 1).requires_grad_()  # not contiguous
    tol = {"atol": 2e-6 if dtype == torch.float32 else 1e-14, "rtol": 0}
    loose = {"atol": 50 * tol["atol"], "rtol": 0}  # of codes near the axis
    calls = [
        (coder.encode, t),
        (coder.amplitude, x),
        *((lambda c, k=k: coder.decode(c, keepdim=k), x) for k in (False, True)),
        *((lambda c, f=f, r=r: coder.restriction(c, r, f), x) for f in ("squared", "norm") for r in ("none", "sum", "mean")),
    ]
    for call, value in calls:
        plain, quick = call(value).detach(), call(value.detach())
        assert quick.shape == plain.shape
        torch.testing.assert_close(quick, plain, **loose, equal_nan=True)
    angle = coder.decode(x.detach())
    assert angle[0, 0].item() == 0
    assert angle[1, 0].isnan()  # never silently a number
    assert coder.amplitude(x)[1, 0].isnan()
    assert coder.restriction(x, form="norm").isnan()
    seam = coder.decode(torch.nextafter(x[2, 0].detach(), T([9, -9])[torch.randint(2, (200, m), generator=g)].to(dtype)))
    assert (seam >= T(-pi / 2, dtype=dtype)).all()
    assert (seam < T(pi / 2, dtype=dtype)).all()
    assert angle_diff(seam, T(-pi / 2, dtype=dtype)).abs().max() < tol["atol"]
    assert coder.decode(x.detach()[:0]).shape == (0, 3)
    (wanted,) = torch.autograd.grad(coder.encode(t).sum(), t)
    found = torch.func.grad(lambda a: coder.encode(a).sum())(t.detach())
    torch.testing.assert_close(found, wanted, **tol)
    torch.testing.assert_close(
        torch.vmap(coder.restriction)(x.detach()), coder.restriction(x, "none").mean(-1).detach(), **loose, equal_nan=True
    )
    with torch.autocast("cpu", torch.bfloat16):  # whose matrix products are of 8 bits
        torch.testing.assert_close(coder.encode(t.detach()), coder.encode(t).detach(), **tol)
        assert angle_diff(coder.decode(x.detach()), angle).nan_to_num().abs().max() < loose["atol"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_sides_of_the_least_number_of_codes_agree(dtype, monkeypatch):
    """Few codes take the plain operators, from ``LEAST`` on they go in pieces; nobody sees where the change is."""
    calls = []
    encode, row_sum = _quick.encode, _quick.row_sum
    monkeypatch.setattr(_quick, "encode", lambda *args: calls.append("encode") or encode(*args))
    monkeypatch.setattr(_quick, "row_sum", lambda code: calls.append("row_sum") or row_sum(code))
    tol = 1e-5 if dtype == torch.float32 else 1e-13
    t = torch.linspace(-4, 4, _quick.LEAST, dtype=dtype)
    for m in (2, 3, 8):
        coder = UCRCoder(m)
        x = 1.1 * torch.cat([UCRCoder(m).encode(part) for part in t.split(1000)]) + 0.1
        assert not calls
        below, above = coder.encode(t[1:]), coder.encode(t)
        assert calls == ["encode"]
        assert torch.allclose(below, above[1:], rtol=0, atol=tol)
        below, above = coder.restriction(x[1:], "none"), coder.restriction(x, "none")
        assert calls == ["encode"] + ["row_sum"] * (1 if m == 2 else 2)
        assert torch.allclose(below, above[1:], rtol=0, atol=10 * tol)
        calls.clear()


def test_loss_waits_and_counts():
    coder = UCRCoder(3)
    loss = UnitCircleLoss(coder, loss_weight=0.5, warmup=2)
    x = ROWS.float().requires_grad_()
    first, second, third = (loss(x) for _ in range(3))
    assert first.item() == second.item() == 0
    assert third.item() == pytest.approx(0.5 * 2.94905, abs=1e-5)
    assert first.requires_grad
    assert loss.state_dict()["steps"].item() == 3
    again = UnitCircleLoss(UCRCoder(3), loss_weight=0.5, warmup=2)
    again.load_state_dict(loss.state_dict())
    assert again.eval()(x).item() == third.item()
    assert again.steps.item() == 3  # evaluation does not count
    empty = UnitCircleLoss(coder)(x[:0])
    assert empty.item() == 0
    assert torch.autograd.grad(empty, x)[0].abs().max() == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: UCRCoder(1), ValueError, "m must be at least 2"),
        (lambda: UCRCoder(3.0), TypeError, "m must be an int"),
        (lambda: UCRCoder(3, invalid_thr=-0.1), ValueError, "invalid_thr must not be negative"),
        (lambda: UCRCoder(3, period=0), ValueError, "period must be positive"),
        (lambda: UCRCoder(3).decode(torch.zeros(4, 2)), ValueError, r"code must have shape \(\.\.\., 3\), got \(4, 2\)"),
        (lambda: UCRCoder(3).encode(torch.tensor([1, 2])), TypeError, "angle must have a floating-point dtype"),
        (lambda: UCRCoder(3).restriction(torch.zeros(1, 3), "max"), ValueError, "reduction must be one of"),
        (lambda: UCRCoder(3).restriction(torch.zeros(1, 3), form="cubed"), ValueError, "form must be one of"),
        (lambda: UnitCircleLoss(UCRCoder(3), -1.0), ValueError, "loss_weight must not be negative"),
        (lambda: UnitCircleLoss(UCRCoder(3), warmup=-1), ValueError, "warmup must not be negative"),
        (lambda: UnitCircleLoss(UCRCoder(3), warmup=0.3), ValueError, "warmup must be a whole number of steps"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
