"""Gradients where those of an eigendecomposition fail, and the function transforms (truth test 5)."""

import pytest
import torch

from geocore.testing import check_derivatives, check_transforms
from spdnorm import GBWBatchNorm
from spdnorm import functional as F
from spdnorm._transport import half_transport

D = torch.float64
THETAS = [0.25, 0.5, 1.0, 1.5]


def sym(A):
    return (A + A.mT) / 2


def evaluation(theta, R):
    """The evaluation mode as a function of everything it depends on."""
    return lambda X, M, W, s: F.gbw_batch_norm(sym(X), sym(M), sym(W), s, theta=theta, mean=R, variance=1.2).output


@pytest.mark.parametrize("start", ["generic", "M=W=I", "M=W=I and X=cI"])
@pytest.mark.parametrize("theta", THETAS)
def test_gradcheck_of_the_evaluation_mode(spd, theta, start):
    eye = torch.eye(3, dtype=D)
    M, W = (eye, eye) if "I" in start else (spd(n=3) + eye, spd(n=3) + eye)
    X = 2.3 * eye.expand(2, 3, 3) if "c" in start.split("=")[-1] else spd(2, n=3)
    R = eye if "c" in start.split("=")[-1] else spd(n=3)
    check_derivatives(
        evaluation(theta, R), X, M, W, torch.tensor(0.8, dtype=D), second=False, forward=False, atol=1e-7
    )  # the power 1 / theta amplifies rounding of the differences


@pytest.mark.parametrize("theta", [0.5, 1.0])
def test_second_and_forward_derivatives(spd, theta):
    eye = torch.eye(3, dtype=D)
    check_derivatives(evaluation(theta, eye), spd(2, n=3), eye, eye, torch.tensor(0.8, dtype=D))


@pytest.mark.parametrize("theta", [0.5, 1.0])
def test_gradient_of_the_centre_in_the_mean(spd, theta):
    for m in (spd(n=3), 1.5 * torch.eye(3, dtype=D)):
        check_derivatives(lambda Y, m: F.centre(sym(Y), sym(m)), spd(2, n=3), m, second=False, forward=False)


def test_both_forms_of_the_centre_agree(spd):
    Y, m = spd(5), spd()
    torch.testing.assert_close(F.centre(Y, m), F.centre(Y, m.clone().requires_grad_()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3)])
def test_shared_transport_equals_the_general_one(spd, batch):
    from geocore import spd as room

    for w in (spd(), torch.eye(4, dtype=D), torch.diag(torch.tensor([1.0, 1.0, 2.0, 2.0 + 1e-9], dtype=D))):
        results = []
        for fn in (half_transport, lambda w, V: room.bw_transport(w, V, -1) / 2):
            a, V = (
                w.clone().requires_grad_(),
                torch.linspace(-1, 1, 16, dtype=D).reshape(4, 4).expand(*batch, 4, 4).clone().requires_grad_(),
            )
            out = fn(a, V)
            results.append((out, *torch.autograd.grad((out * out.detach().cos()).sum(), (a, V))))
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_function_transforms(spd):
    X, M, W = spd(3, n=3), spd(3, n=3), spd(3, n=3)

    def fn(X, M, W):
        out = [
            F.gbw_batch_norm(x[None], m, w, 0.7, theta=0.5, mean=torch.eye(3, dtype=D), variance=1.0).output[0]
            for x, m, w in zip(X, M, W, strict=True)
        ]
        return torch.stack(out)

    check_transforms(fn, X, M, W, vmap=False, compile=False, compiled_transforms=False)


def finite(layer, X):
    X = X.clone().requires_grad_()
    out = layer(X)
    out.square().sum().backward()
    values = [out, X.grad, *(p.grad for p in layer.parameters())]
    assert all(v is not None and torch.isfinite(v).all() for v in values)
    return out


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("case", ["equal", "identities", "condition 1e10", "EEG in volt", "one matrix repeated at EEG scale"])
def test_hard_batches_are_finite(spd, case, theta):
    eye = torch.eye(4, dtype=D)
    X = {
        "equal": spd().expand(5, 4, 4),
        "identities": eye.expand(5, 4, 4),
        "condition 1e10": spd(5, condition=1e10),
        "EEG in volt": 1e-12 * spd(5),
        "one matrix repeated at EEG scale": 1e-12 * spd().expand(5, 4, 4),
    }[case]
    for mode in ("none", "unroll"):
        layer = GBWBatchNorm(4, theta=theta, stats_grad=mode)
        out = finite(layer, X)
        if "equal" in case or "repeated" in case or "identities" in case:
            torch.testing.assert_close(out, eye.expand(5, 4, 4), rtol=0, atol=1e-9)
        finite(layer.eval(), X)


@pytest.mark.parametrize("case", ["equal", "condition 1e10", "EEG in volt"])
def test_gradients_at_hard_batches_are_right(spd, case):
    X = {"equal": spd(n=3).expand(3, 3, 3), "condition 1e10": spd(3, n=3, condition=1e10), "EEG in volt": 1e-12 * spd(3, n=3)}[case]
    layer = GBWBatchNorm(3, theta=0.5, stats_grad="unroll")  # so that the numbers are those of a function of X
    direction = sym(torch.randn(3, 3, 3, dtype=D)) * X.diagonal(dim1=-2, dim2=-1).amin(-1)[:, None, None]
    if case == "condition 1e10":  # move inside the cone: a congruence
        values, U = torch.linalg.eigh(X)
        root = (U * values.sqrt()[:, None]) @ U.mT
        direction = sym(root @ sym(torch.randn(3, 3, 3, dtype=D)) @ root)
    G = sym(torch.randn(3, 3, 3, dtype=D))
    Y = X.clone().requires_grad_()
    analytic = float((torch.autograd.grad((layer(Y) * G).sum(), Y)[0] * direction).sum())
    # the dispersion is 0 at equal matrices and quadratic in the step; rounding of values asks for a long step at condition 1e10
    h = {"equal": 1e-5, "EEG in volt": 1e-4, "condition 1e10": 1e-2}[case]
    with torch.no_grad():
        at = [float((layer(X + k * h * direction) * G).sum()) for k in (-2, -1, 1, 2)]
    numeric = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
    # at condition 1e10 any dense algorithm has eps * condition = 2e-6 of relative error
    allowed = 1e-5 if case == "condition 1e10" else 1e-6
    assert abs(analytic - numeric) < allowed * max(1.0, abs(numeric)), (analytic, numeric)
