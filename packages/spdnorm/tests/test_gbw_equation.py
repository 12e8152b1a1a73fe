"""The layer against the literal transcription, closed forms and the laws of the geometry (truth tests 1 to 4 and 7)."""

import pytest
import torch

from spdnorm import GBWBatchNorm
from spdnorm import functional as F
from spdnorm._reference import (
    bw_dist2_reference,
    bw_geodesic_reference,
    gbw_batch_norm_reference,
    pull_back_reference,
    released_batch_norm_reference,
)

THETAS = [0.25, 0.5, 1.0, 1.5]
D = torch.float64


def layer(theta=1.0, M=None, W=None, s=1.0, n=4, **options):
    made = GBWBatchNorm(n, theta=theta, **options)
    if M is not None:
        made.M = M
    if W is not None:
        made.W = W
    with torch.no_grad():
        made.s.fill_(s)
    return made


def relative(a, b):
    return float(((a - b).norm() / a.norm()).detach())


def symmetric(G):
    return (G + G.mT) / 2


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("theta", THETAS)
def test_equals_the_literal_transcription(spd, theta, variant):
    X, M, W = spd(7), spd() + torch.eye(4), spd() + torch.eye(4)
    made = layer(theta, M, W, 0.7, variant=variant)
    reference = released_batch_norm_reference if variant == "released" else gbw_batch_norm_reference
    X.requires_grad_()
    out = made(X)
    want, m, v = reference(X, M, W, 0.7, theta=theta)
    torch.testing.assert_close(out, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(made.running_mean, bw_geodesic_reference(torch.eye(4, dtype=D), m, 0.1), rtol=0, atol=1e-12)
    torch.testing.assert_close(made.running_var, 0.9 + 0.1 * v, rtol=0, atol=1e-12)
    made.eval()
    held_out = spd(3)
    want_eval, *_ = reference(held_out, M, W, 0.7, theta=theta, mean=made.running_mean, var=made.running_var)
    torch.testing.assert_close(made(held_out), want_eval, rtol=0, atol=1e-12)
    G = torch.randn(out.shape, dtype=D)
    got, expected = (symmetric(torch.autograd.grad((y * G).sum(), X, retain_graph=True)[0]) for y in (out, want))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("theta", THETAS)
def test_every_gradient_equals_that_of_the_transcription(spd, theta, detach):
    tensors = [spd(5), spd() + torch.eye(4), spd() + torch.eye(4), torch.tensor(0.8, dtype=D)]
    ours, theirs = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    out = F.gbw_batch_norm(*ours, theta=theta, steps=2, stats_grad=not detach).output
    want = gbw_batch_norm_reference(*theirs, theta=theta, steps=2, detach=detach)[0]
    torch.testing.assert_close(out, want, rtol=0, atol=1e-12)
    G = torch.randn(out.shape, dtype=D)
    for name, a, b in zip("XMWs", torch.autograd.grad((out * G).sum(), ours), torch.autograd.grad((want * G).sum(), theirs), strict=True):
        a, b = (symmetric(g) if g.ndim > 1 else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"gradient of {name}: {text}")


def test_unrolled_statistics_of_the_layer_are_those_of_the_function(spd):
    X = spd(5).requires_grad_()
    G = torch.randn(5, 4, 4, dtype=D)
    got = torch.autograd.grad((layer(0.5, stats_grad="unroll")(X) * G).sum(), X)[0]
    want = torch.autograd.grad((F.gbw_batch_norm(X, theta=0.5, stats_grad=True).output * G).sum(), X)[0]
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_implicit_gradient_is_that_of_many_unrolled_steps(spd):
    X = spd(5, n=3)
    G = torch.randn(5, 3, 3, dtype=D)
    grads = []
    for mode in ("implicit", "unroll"):
        Y = X.clone().requires_grad_()
        out = layer(0.5, n=3, stats_grad=mode, karcher_steps=60)(Y)
        grads.append(symmetric(torch.autograd.grad((out * G).sum(), Y)[0]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("theta", THETAS)
def test_diagonal_matrices_reduce_to_numbers(theta, steps):
    # y = x^theta / M, sqrt(m) = mean sqrt(y), v = theta^-2 mean sum (sqrt(y) - sqrt(m))^2: every eigenvalue on its own but for v
    g = torch.Generator().manual_seed(1)
    x, M, W = (0.5 + torch.rand(*shape, 4, generator=g, dtype=D) for shape in ((6,), (), ()))
    s, eps = 0.3, 1e-5
    y = x**theta / M
    root = y.sqrt().mean(0) if steps else y.mean(0).sqrt()
    v = (y.sqrt() - root).square().sum(-1).mean() / theta**2
    omega = W**theta / M
    want = ((omega.sqrt() + s * (y.sqrt() - root) / (v + eps).sqrt()).square() * M) ** (1 / theta)
    out = layer(theta, M.diag(), W.diag(), s, eps=eps, karcher_steps=steps)(torch.diag_embed(x))
    torch.testing.assert_close(out, torch.diag_embed(want), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("theta", [0.5, 1.0])
def test_output_has_barycentre_W_and_variance_s_squared(spd, theta):
    M, W, s = spd() + torch.eye(4), spd() + torch.eye(4), 0.05  # small enough to stay in the domain
    made = layer(theta, M, W, s, eps=0.0, karcher_steps=80)
    out = made(spd(9))
    assert made.diagnostics()["domain_violation_rate"] == 0
    assert made.diagnostics()["mean_residual"] < 1e-12
    pulled = torch.stack([pull_back_reference(x, M, theta) for x in out.detach()])
    mean = F.bures_barycentre(pulled, steps=80)
    torch.testing.assert_close(F.push_forward(mean, M, theta=theta), W, rtol=0, atol=1e-12)
    variance = torch.stack([bw_dist2_reference(y, mean) for y in pulled]).mean() / theta**2
    assert abs(float(variance) - s**2) < 1e-10


@pytest.mark.parametrize("theta", [0.5, 1.0])
def test_scale_of_the_data_does_not_matter(spd, theta):
    X = spd(6)
    a, b = (layer(theta, eps=0.0)(c * X) for c in (1.0, 7.3))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    a, b = (layer(theta, eps=0.0, variance="identity")(c * X) for c in (1.0, 7.3))
    assert relative(a, b) > 0.05  # the released dispersion notices


def test_orthogonal_equivariance_at_the_start(spd):
    X, Q = spd(6), torch.linalg.qr(torch.randn(4, 4, dtype=D))[0]
    torch.testing.assert_close(layer(0.5)(Q @ X @ Q.mT), Q @ layer(0.5)(X) @ Q.mT, rtol=0, atol=1e-12)


def test_metric_parameter_is_a_change_of_coordinates(spd):
    Z, M, W = spd(6), spd() + torch.eye(4), spd() + torch.eye(4)
    values, U = torch.linalg.eigh(M)
    root, inverse = (U * values.sqrt()) @ U.mT, (U / values.sqrt()) @ U.mT
    left = layer(1.0, M, W)(symmetric(root @ Z @ root))
    right = root @ layer(1.0, None, symmetric(inverse @ W @ inverse))(Z) @ root
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("theta", THETAS)
def test_identity_where_bias_and_scale_undo_the_statistics(spd, theta):
    X, M = spd(6), spd() + torch.eye(4)
    made = layer(theta, M)
    _, m, v = F.gbw_batch_norm(X, M, theta=theta)
    made.W = F.push_forward(m, M, theta=theta)
    with torch.no_grad():
        made.s.copy_((v + made.eps).sqrt())
    torch.testing.assert_close(made(X), X, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("space", ["phi", "data"])
def test_evaluation_after_many_equal_batches_is_training(spd, space):
    X = spd(6)
    made = layer(0.5, spd() + torch.eye(4), spd() + torch.eye(4), running_space=space)
    for _ in range(400):
        out = made(X)
    torch.testing.assert_close(made.eval()(X), out, rtol=0, atol=1e-10)


def test_a_running_mean_in_data_space_does_not_lag_behind_the_metric(spd):
    X = spd(6)
    phi, data = (layer(1.0, running_space=space, momentum=1.0, n=4) for space in ("phi", "data"))
    for made in (phi, data):
        made(X)
        made.M = spd() + torch.eye(4)
        made.eval()
    _, m, _ = F.gbw_batch_norm(X, data.M, steps=60)
    lag = {name: relative(m, made.geometry().load(made.running_mean)) for name, made in (("phi", phi), ("data", data))}
    assert lag["data"] < 0.05  # the two barycentres differ a little
    assert lag["phi"] > 0.3


def test_released_start_is_off_the_identity():
    W = GBWBatchNorm(3, variant="released").W
    torch.testing.assert_close(W - torch.eye(3, dtype=D), 1e-7 * torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=D)), rtol=0, atol=1e-15)
    assert GBWBatchNorm(3, variant="released").variance == "identity"
    assert torch.equal(GBWBatchNorm(3).W, torch.eye(3, dtype=D))


def test_released_folding_differs_where_vectors_are_long(spd):
    X, W, eye = spd(6), spd() + torch.eye(4), torch.eye(4, dtype=D)
    plain = gbw_batch_norm_reference(X, eye, W, 3.0, variance="identity", eps=1e-5)[0]
    made = layer(1.0, None, W, 3.0, variant="released")
    assert relative(plain, made(X)) > 1e-3


def test_options_of_the_domain(spd):
    V = torch.diag_embed(torch.tensor([[-5.0, 1.0, 0.0], [0.2, 0.1, 0.0]], dtype=D))
    eye = torch.eye(3, dtype=D)
    torch.testing.assert_close(F.rebias(V, eye), (eye + V / 2) @ (eye + V / 2), rtol=0, atol=1e-14)
    clipped = F.rebias(V, eye, domain="clip", clip=0.1)
    torch.testing.assert_close(clipped[0].diagonal(), torch.tensor([0.01, 2.25, 1.0], dtype=D), rtol=0, atol=1e-14)
    torch.testing.assert_close(clipped[1], F.rebias(V, eye)[1], rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="1 of 2 leave it"):
        F.rebias(V, eye, domain="raise")
    made = layer(1.0, s=40.0)
    made(spd(6))
    assert made.diagnostics()["domain_violation_rate"] > 0
