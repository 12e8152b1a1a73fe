"""Bad input: the argument by its name, what was expected and what came; never NaN in silence."""

import pytest
import torch
from spd_cases import matrix, random_spd, random_sym
from torch._subclasses.fake_tensor import FakeTensorMode

from geocore import spd
from geocore.spd import cov, parametrize

pytestmark = pytest.mark.bad_input

X = random_spd(2, 3, seed=1)
V = random_sym(2, 3)
BAD = X.clone()
BAD[1, 2] = torch.diag(torch.tensor([1.0, -0.25, 2.0], dtype=torch.float64))
METRICS = [
    spd.AffineInvariant(),
    spd.LogEuclidean(),
    spd.LogCholesky(),
    spd.BuresWasserstein(),
    spd.GeneralizedBuresWasserstein(torch.eye(3, dtype=torch.float64)),
    spd.PowerEuclidean(0.5),
    spd.PowerCholesky(0.5),
    spd.BWCholesky(),
    spd.Deformed(spd.BuresWasserstein(), 0.5),
    spd.Stein(),
]
POSITIVE = {
    "sqrtm": spd.sqrtm,
    "invsqrtm": spd.invsqrtm,
    "sqrtm_invsqrtm": spd.sqrtm_invsqrtm,
    "logm": spd.logm,
    "powm": lambda X: spd.powm(X, 0.5),
    "powm learned": lambda X: spd.powm(X, torch.tensor(0.5)),
    "invm": spd.invm,
    "invm eigh": lambda X: spd.invm(X, method="eigh"),
    "newton_schulz": lambda X: spd.sqrtm(X, method="newton_schulz"),
    "lyapunov": lambda X: spd.lyapunov(X, V if X.shape == V.shape else torch.zeros_like(X)),
    "bw_transport": lambda X: spd.bw_transport(X, torch.zeros_like(X), 1),
    "cholesky_vector": spd.cholesky_vector,
    "frechet": lambda X: spd.frechet("log", X, torch.zeros_like(X)),
    "generalized_lyapunov": lambda X: spd.generalized_lyapunov(torch.eye(3, dtype=torch.float64), X, torch.zeros_like(X)),
    "of eigh": lambda X: spd.sqrtm(spd.eigh(X)),
    "assert_spd": spd.assert_spd,
}


@pytest.mark.parametrize("name", POSITIVE)
def test_an_indefinite_matrix_is_named_with_its_index_and_eigenvalue(name):
    with pytest.raises(spd.NotPositiveDefiniteError, match=r"at batch index \(1, 2\) has smallest eigenvalue -0\.25") as caught:
        POSITIVE[name](BAD)
    assert caught.value.index == (1, 2)
    assert caught.value.smallest == pytest.approx(-0.25)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(spd.NotPositiveDefiniteError, match=r"the matrix has smallest eigenvalue 0 "):
        POSITIVE[name](torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize("m", METRICS, ids=repr)
def test_metrics_name_the_argument(m):
    with pytest.raises(spd.NotPositiveDefiniteError, match=r"P must be positive definite; the matrix at batch index \(1, 2\)"):
        m.dist(BAD, X)
    with pytest.raises(spd.NotPositiveDefiniteError, match=r"Q must be positive definite; the matrix at batch index \(1, 2\)"):
        m.dist2(X, BAD)
    if isinstance(m, spd.Stein):
        for call in (
            lambda: m.exp(X, V),
            lambda: m.log(X, X),
            lambda: m.geodesic(X, X, 0.5),
            lambda: m.transport(X, X, V),
            lambda: m.vectorize(X),
        ):
            with pytest.raises(NotImplementedError, match="Stein has no"):
                call()
        return
    with pytest.raises(spd.NotPositiveDefiniteError, match="P must be positive definite"):
        m.exp(BAD, V)
    with pytest.raises(spd.NotPositiveDefiniteError, match="Q must be positive definite"):
        m.log(X, BAD)
    with pytest.raises(ValueError, match="same size"):
        m.dist(X, torch.eye(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="Q must be symmetric"):
        m.dist(X, X + torch.triu(torch.ones(3, 3), 1))
    with pytest.raises(TypeError, match="P must be real"):
        m.dist(X.to(torch.complex128), X)
    with pytest.raises(TypeError, match="Q must have a floating-point dtype"):
        m.dist(X, X.long())
    assert (
        torch.isnan(type(m)(check=False).dist(X, BAD)).any()
        if type(m) in (spd.AffineInvariant, spd.LogEuclidean, spd.LogCholesky)
        else True
    )


@pytest.mark.parametrize(
    "f", [*POSITIVE.values(), spd.expm, spd.sym, spd.eigh, spd.vech, spd.nearest_spd, spd.is_spd, lambda X: spd.clamp_eig(X, 1.0)]
)
def test_shapes_and_dtypes(f):
    with pytest.raises(ValueError, match="square"):
        f(torch.ones(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="square"):
        f(torch.ones(3, dtype=torch.float64))
    with pytest.raises(TypeError, match="must have a floating-point dtype, got torch.int64"):
        f(torch.eye(3, dtype=torch.long))
    with pytest.raises(TypeError, match="must be real, got torch.complex128"):
        f(torch.eye(3, dtype=torch.complex128))


@pytest.mark.parametrize("f", [spd.sqrtm, spd.logm, spd.expm, spd.eigh, spd.invm, spd.cholesky_vector, lambda X: spd.clamp_eig(X, 1.0)])
def test_asymmetric_and_infinite_matrices(f):
    skewed = X.clone()
    skewed[0, 1, 0, 2] += 0.1
    with pytest.raises(ValueError, match=r"must be symmetric; the matrix at batch index \(0, 1\) differs from its transpose"):
        f(skewed)
    for value in (float("nan"), float("inf")):
        broken = X.clone()
        broken[1, 0] = value
        with pytest.raises(ValueError, match=r"must be finite, but at batch index \(1, 0\) holds NaN"):
            f(broken)


def test_unchecked_is_not_a_number_and_never_clamped():
    for name in ("sqrtm", "invsqrtm", "logm"):
        out = getattr(spd, name)(BAD, check=False)
        assert torch.isnan(out[1, 2]).any()
        assert torch.isfinite(out[0]).all()
    assert torch.isnan(spd.powm(BAD, 0.3, check=False)[1, 2]).any()
    assert torch.isnan(spd.invm(BAD, check=False)[1, 2]).any()
    assert torch.isnan(torch.vmap(spd.logm)(BAD[1])[2]).any()


def test_checks_are_skipped_where_values_cannot_be_read():
    torch._dynamo.reset()
    compiled = torch.compile(spd.logm, fullgraph=True, backend="aot_eager")
    assert torch.isnan(compiled(BAD)[1, 2]).any()
    assert spd.logm(torch.eye(3, device="meta")).device.type == "meta"
    with FakeTensorMode():
        assert spd.AffineInvariant().dist(torch.eye(3), torch.eye(3)).shape == ()


def test_options():
    with pytest.raises(ValueError, match="method must be one of"):
        spd.sqrtm(X, method="svd")
    with pytest.raises(ValueError, match="min_eig must be"):
        spd.sqrtm(X, min_eig=-1.0)
    with pytest.raises(ValueError, match="min_eig must be one of"):
        spd.sqrtm(X, min_eig="tiny")
    with pytest.raises(ValueError, match="min_eig must be"):
        spd.nearest_spd(X, min_eig=None)
    with pytest.raises(TypeError, match="compute_dtype"):
        spd.sqrtm(X, compute_dtype=torch.float16)
    with pytest.raises(ValueError, match=r"sign must be \+1 or -1"):
        spd.bw_transport(X, V, 2)
    with pytest.raises(ValueError, match="f must be one of"):
        spd.frechet("sin", X, V)
    with pytest.raises(TypeError, match="f must be callable"):
        spd.funcm(X, 3.0)
    with pytest.raises(ValueError, match="E must have the size of X"):
        spd.frechet("log", X, torch.eye(2, dtype=torch.float64))
    with pytest.raises(TypeError, match="p must"):
        spd.powm(X, torch.tensor(2))
    with pytest.raises(ValueError, match="regular"):
        spd.sylvester(torch.eye(2), -torch.eye(2), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"C must have shape \(..., 2, 3\)"):
        spd.sylvester(torch.eye(2), torch.eye(3), torch.ones(3, 2))
    with pytest.raises(ValueError, match="length n"):
        spd.unvech(torch.ones(4))
    with pytest.raises(ValueError, match="scale must not be 0"):
        spd.unvech(torch.ones(3), scale=0.0)
    with pytest.raises(ValueError, match="size must end in two equal"):
        spd.LogEuclidean().random(3, 2)


def test_parameters_of_metrics():
    with pytest.raises(ValueError, match="alpha must be positive"):
        spd.AffineInvariant(alpha=0.0)
    for m in (spd.AffineInvariant(1.0, -0.4), spd.LogEuclidean(1.0, -0.4)):
        with pytest.raises(ValueError, match="beta must be greater than"):
            m.dist(X, X)
    for make in (spd.PowerEuclidean, spd.PowerCholesky, lambda t: spd.Deformed(spd.BuresWasserstein(), t)):
        with pytest.raises(ValueError, match="theta must not be 0"):
            make(0.0)
        with pytest.raises(TypeError, match="theta must be a number"):
            make("half")
    with pytest.raises(TypeError, match="metric must be a Metric"):
        spd.Deformed("bures", 0.5)
    with pytest.raises(spd.NotPositiveDefiniteError, match="M must be positive definite"):
        spd.GeneralizedBuresWasserstein(-torch.eye(3))
    with pytest.raises(ValueError, match="M must be symmetric"):
        spd.GeneralizedBuresWasserstein(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="domain must be one of"):
        spd.BuresWasserstein(domain="fold")
    with pytest.raises(ValueError, match="clip must be positive"):
        spd.BuresWasserstein(clip=0.0)
    with pytest.raises(ValueError, match="method must be one of"):
        spd.BuresWasserstein().transport(X, X, V, method="rk")


def test_validation_and_projection():
    assert spd.is_spd(X).all()
    mask = spd.is_spd(BAD)
    assert mask.shape == (2, 3)
    assert int((~mask).sum()) == 1
    assert not mask[1, 2]
    nan = X.clone()
    nan[0, 0] = float("nan")
    assert not spd.is_spd(nan)[0, 0]
    assert not spd.is_spd(X + 0.1 * torch.triu(torch.ones(3, 3), 1)).any()
    spd.assert_spd(X)
    with pytest.raises(ValueError, match="finite"):
        spd.nearest_spd(nan)
    for dtype in (torch.float64, torch.float32):
        bad = matrix([-1.0, 0.0, 1e-30, 1.0, 3.0]).to(dtype)
        near = spd.nearest_spd(bad)
        spd.assert_spd(near)
        floor = spd.nearest_spd(bad, min_eig=0.5)
        assert torch.linalg.eigvalsh(floor.double())[0] > 0.5 - 1e-5
    # Nearest: the distance to the cone is that of the negative eigenvalues (Higham).
    bad = matrix([-1.0, -0.5, 1.0, 3.0])
    torch.testing.assert_close((spd.nearest_spd(bad) - bad).norm(), torch.tensor(1.25**0.5, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(spd.nearest_spd(X), X, rtol=0, atol=1e-14)
    assert spd.nearest_spd(torch.zeros(2, 2)).diagonal().min() > 0


def test_covariances_and_parametrizations():
    with pytest.raises(ValueError, match="estimator must be one of"):
        cov.cov(torch.randn(3, 10), "huber")
    with pytest.raises(ValueError, match="at least one of each"):
        cov.cov(torch.randn(10))
    with pytest.raises(ValueError, match="at least 2 samples"):
        cov.cov(torch.randn(3, 1), "cov")
    with pytest.raises(ValueError, match="at least 2 samples"):
        cov.cov(torch.randn(3, 1), "sch")
    with pytest.raises(TypeError, match="floating-point"):
        cov.oas(torch.ones(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="below the number of samples"):
        cov.lagged_cov(torch.randn(3, 10), 10)
    with pytest.raises(ValueError, match="at least one lag"):
        cov.lagged_cov(torch.randn(3, 10), [])
    with pytest.raises(ValueError, match="map must be one of"):
        parametrize.SPD("square")
    with pytest.raises(spd.NotPositiveDefiniteError):
        spd.SPDParameter(-torch.eye(3))
    with pytest.raises(ValueError, match="X must have shape"):
        spd.SPDParameter(3).set_(torch.eye(2))
    with pytest.raises(ValueError, match="init must be at least 1"):
        spd.SPDParameter(0)
