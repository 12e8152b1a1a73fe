"""The decomposition against the literal steps, its optimality, damping, and ranks."""

import logging
import math

import pytest
import torch

from peft_loldu_corda import CalibrationError, decompose, energy_ranks
from peft_loldu_corda._reference import corda_reference

D = torch.float64
SHAPES = [(9, 6), (6, 9), (7, 7), (1, 5), (5, 1)]


def problem(m, n, dtype=D, seed=0):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(m, n, generator=g, dtype=D)
    x = torch.randn(300, n, generator=g, dtype=D) @ torch.randn(n, n, generator=g, dtype=D)
    return W.to(dtype), (x.T @ x / 300).to(dtype)


def weighting(C, whitening, damping=0.01, mean_abs=None):
    Cd = C + damping * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype)
    if whitening == "none":
        return torch.eye(len(C), dtype=C.dtype)
    if whitening == "cov":
        return Cd
    if whitening == "diag":
        size = (C.diagonal().sqrt() if mean_abs is None else mean_abs).sqrt()
        return torch.diag(size + damping * size.mean())
    values, vectors = torch.linalg.eigh(Cd)
    return vectors * values.sqrt() @ vectors.T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("whitening", ["cov", "sqrt", "diag", "none"])
def test_all_terms_give_the_weight_back(shape, whitening):
    W, C = problem(*shape)
    d = decompose(W, C, whitening=whitening)
    torch.testing.assert_close(d.U * d.S @ d.Vh, W, rtol=0, atol=1e-10)
    torch.testing.assert_close(d.U.T @ d.U, torch.eye(min(shape), dtype=D), rtol=0, atol=1e-12)
    assert (d.S.diff() <= 0).all()
    torch.testing.assert_close(d.S, torch.linalg.svdvals(W @ weighting(C, whitening)), rtol=1e-10, atol=1e-12)
    assert d.damping == (0.0 if whitening == "none" else 0.01)


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_equals_the_literal_steps(mode, shape):
    W, C = problem(*shape)
    A0, B0, residual = corda_reference(W, C, 2, mode, 0.5, 0.01)
    A, B = decompose(W, C, 2, mode=mode).factors(0.5)
    torch.testing.assert_close(B @ A, B0 @ A0, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(W - 0.5 * B @ A, residual, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(A.abs(), A0.abs(), rtol=1e-8, atol=1e-10)  # up to a sign for each term
    torch.testing.assert_close(B.abs(), B0.abs(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("whitening", ["cov", "sqrt", "diag", "none"])
@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_the_error_is_the_root_of_the_terms_taken(whitening, mode):
    """Eckart-Young: |s B0 A0 G|_F = sqrt(sum of the S^2 taken), and for kpm nothing of the remaining rank does better."""
    W, C = problem(8, 6)
    d = decompose(W, C, 2, mode=mode, whitening=whitening)
    A, B = d.factors(2.0)
    G = weighting(C, whitening)
    error = (2.0 * B @ A @ G).norm()
    torch.testing.assert_close(error, d.S.square().sum().sqrt(), rtol=1e-9, atol=0)
    if mode == "kpm":
        residual = W - 2.0 * B @ A
        assert torch.linalg.matrix_rank(residual, rtol=1e-9) == 4
        U, S, Vh = torch.linalg.svd(residual, full_matrices=False)
        g = torch.Generator().manual_seed(1)
        for size in (1e-3, 1e-1):
            for _ in range(20):
                left = U[:, :4] + size * torch.randn(8, 4, generator=g, dtype=D)
                other = left * S[:4] @ (Vh[:4] + size * torch.randn(4, 6, generator=g, dtype=D))
                assert ((W - other) @ G).norm() > error


def test_the_root_is_the_best_for_the_output():
    """Whitening by the square root minimises E|(W - W') x|^2 itself, so no other does better by that measure."""
    W, C = problem(8, 6)
    loss = {}
    for whitening in ("cov", "sqrt", "diag", "none"):
        A, B = decompose(W, C, 3, mode="kpm", whitening=whitening, damping=1e-6).factors()
        loss[whitening] = float(((B @ A) @ C @ (B @ A).T).trace())
    assert min(loss, key=loss.get) == "sqrt"


def test_splits_of_the_singular_values():
    W, C = problem(6, 9)
    d = decompose(W, C, 3)
    for split in ("UV", "U", "V"):
        A, B = d.factors(4.0, sigma_split=split)
        torch.testing.assert_close(4.0 * B @ A, d.U * d.S @ d.Vh)
    A, B = d.factors(4.0, sigma_split="U")
    assert torch.equal(A, d.Vh)
    A, B = d.factors(4.0, sigma_split="V")
    assert torch.equal(B, d.U)
    before = d.S.clone()
    d.factors(4.0)
    assert torch.equal(d.S, before), "S is divided once, and not in place"


def test_an_identity_makes_all_modes_alike():
    W, _ = problem(6, 9)
    products = []
    for whitening in ("cov", "sqrt", "diag", "none"):
        A, B = decompose(W, torch.eye(9, dtype=D), 3, whitening=whitening).factors()
        products.append(B @ A)
    for p in products[:-1]:
        torch.testing.assert_close(p, products[-1], rtol=1e-10, atol=1e-12)


def test_diag_takes_mean_magnitudes():
    W, C = problem(6, 9)
    mean_abs = torch.rand(9, dtype=D) + 0.1
    d = decompose(W, C, whitening="diag", mean_abs=mean_abs)
    torch.testing.assert_close(d.S, torch.linalg.svdvals(W @ weighting(C, "diag", mean_abs=mean_abs)))


def test_small_terms_keep_their_digits_in_single_precision():
    """kpm lives on the smallest terms: they are computed in float64 whatever the dtype."""
    g = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(40, 40, generator=g, dtype=D))[0] for _ in range(2))
    W = U * torch.logspace(0, -9, 40, dtype=D) @ V.T
    x = torch.randn(200, 40, generator=g, dtype=D)
    exact = decompose(W.float().double(), (x.T @ x / 200).float().double(), 4, mode="kpm")
    single = decompose(W.float(), (x.T @ x / 200).float(), 4, mode="kpm")
    assert single.S.dtype == torch.float32
    torch.testing.assert_close(single.S.double(), exact.S, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights(dtype):
    W, C = problem(6, 9)
    d = decompose(W.to(dtype), C.float(), 3)
    assert d.U.dtype == d.Vh.dtype == torch.float32
    torch.testing.assert_close(d.S, decompose(W.to(dtype).float(), C.float(), 3).S)


def test_randomized_finds_the_leading_terms():
    W, C = problem(60, 50)
    exact, fast = (decompose(W, C, 5, method=m, generator=torch.Generator().manual_seed(0)) for m in ("exact", "randomized"))
    torch.testing.assert_close(fast.S, exact.S, rtol=1e-6, atol=0)
    torch.testing.assert_close(fast.U * fast.S @ fast.Vh, exact.U * exact.S @ exact.Vh, rtol=0, atol=1e-4)


def test_damping_doubles_until_the_inverse_is_one():
    """Rank-deficient C of a size where float32 cannot invert at the first damping."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 600, generator=g, dtype=D)
    C = x.T @ x
    W = torch.randn(3, 600, generator=g, dtype=D)
    small = decompose(W, C, 2, damping=1e-7)
    steps = math.log2(small.damping / 1e-7)
    assert steps >= 1, "damped more"
    assert abs(steps - round(steps)) < 1e-9, "by doubling"
    torch.testing.assert_close(decompose(W, C, damping=1e-7).U.shape, torch.Size([3, 3]))


def test_a_dead_layer_counts_every_direction_alike(caplog):
    W, _ = problem(6, 9)
    with caplog.at_level(logging.WARNING, logger="peft_loldu_corda"):
        d = decompose(W, torch.zeros(9, 9, dtype=D), 3, name="mlp")
    assert "inputs of mlp are all zero" in caplog.text
    torch.testing.assert_close(d.S, torch.linalg.svdvals(W)[:3])
    assert torch.isfinite(decompose(W, torch.zeros(9, 9, dtype=D), 3, whitening="diag").Vh).all()


def test_full_rank_leaves_nothing():
    W, C = problem(6, 9)
    A, B = decompose(W, C, 6).factors()
    torch.testing.assert_close(B @ A, W, rtol=0, atol=1e-10)


def test_energy_ranks_keep_the_total():
    energies = {"flat": torch.ones(20), "steep": torch.logspace(0, -12, 20), "tiny": torch.ones(2)}
    ranks = energy_ranks(energies, 24)
    assert sum(ranks.values()) == 24
    assert ranks["steep"] > ranks["flat"] >= 1
    assert ranks["tiny"] <= 2
    assert energy_ranks(energies, 3) == dict.fromkeys(energies, 1)
    assert energy_ranks(energies, 1000) == {"flat": 20, "steep": 20, "tiny": 2}
    assert sum(energy_ranks({k: torch.zeros(4) for k in "ab"}, 5).values()) == 5


@pytest.mark.bad_input
def test_errors():
    W, C = problem(6, 9)
    for options, match in (
        ({"r": 7}, r"r must be at most min\(m, n\) = 6"),
        ({"mode": "both"}, "mode must be one of"),
        ({"whitening": "pca"}, "whitening must be one of"),
        ({"method": "randomized", "mode": "kpm"}, "needs mode='ipm'"),
        ({"damping": -1.0}, "damping must lie in"),
    ):
        with pytest.raises(ValueError, match=match):
            decompose(W, C, **options)
    with pytest.raises(ValueError, match="C must have shape"):
        decompose(W, torch.eye(5, dtype=D))
    with pytest.raises(ValueError, match="C must be given"):
        decompose(W, None)
    with pytest.raises(ValueError, match="W must be a matrix"):
        decompose(W[None], C)
    with pytest.raises(CalibrationError, match="second moment of q must be finite"):
        decompose(W, C.fill_diagonal_(float("nan")), name="q")
    with pytest.raises(CalibrationError, match="cannot be inverted even with damping 0.02"):
        decompose(W, -torch.eye(9, dtype=D) + 2 * torch.ones(9, 9, dtype=D), max_damping=0.02)
    d = decompose(W, torch.eye(9, dtype=D), 2)
    with pytest.raises(ValueError, match="scaling must be positive"):
        d.factors(0.0)
    with pytest.raises(ValueError, match="sigma_split must be one of"):
        d.factors(sigma_split="left")
    with pytest.raises(ValueError, match="total must be at least 1 for each"):
        energy_ranks({"a": torch.ones(3), "b": torch.ones(3)}, 1)
