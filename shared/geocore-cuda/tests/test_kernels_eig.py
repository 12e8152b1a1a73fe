"""Eigen-decomposition of small symmetric matrices: Jacobi's kernel against LAPACK, and the code of the warp run by one thread."""

import ctypes
import math

import pytest
import torch

from geocore import _ops, so3, spd
from geocore._dispatch import eigh, eigvalsh
from geocore.frames._jacobi import symmetric_eigh
from geocore.testing import check_op, check_transforms, nan_filled_empty

OPS = torch.ops.geocore
DTYPES = (torch.float32, torch.float64)


def symmetric(*shape, dtype=torch.float64, seed=0):
    A = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return (A + A.mT) / 2


def check_decomposition(A, values, vectors):
    """Ascending, orthonormal, and the residual and eigenvalues within a few eps of the largest one; against float64 LAPACK."""
    n, eps = A.shape[-1], torch.finfo(A.dtype).eps
    A, values, vectors = A.double(), values.double(), vectors.double()
    wanted = torch.linalg.eigvalsh(A)
    scale = wanted.abs().amax(-1).clamp(min=1e-300)
    assert (values.diff(dim=-1) >= 0).all()
    assert ((values - wanted).abs().amax(-1) / scale).max() <= 4 * math.sqrt(n) * eps
    assert ((A @ vectors - vectors * values[..., None, :]).abs().amax((-1, -2)) / scale).max() <= 4 * math.sqrt(n) * eps
    assert (vectors.mT @ vectors - torch.eye(n, dtype=torch.float64)).abs().max() <= (4 + 2 * n) * eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13, 32])
def test_values_are_those_of_lapack(n, dtype):
    for count in (0, 1, 3, 17, 1000 if n <= 5 else 40):
        A = symmetric(count, n, n, dtype=dtype, seed=count)
        with nan_filled_empty():
            values, vectors = OPS.sym_eig(A)
        assert values.shape == (count, n)
        assert vectors.shape == (count, n, n)
        if count:
            check_decomposition(A, values, vectors)


def spectra(n):
    step = torch.arange(n, dtype=torch.float64)
    few = torch.rand(30, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return {
        "graded": 10.0 ** (-3 * step).expand(30, n),
        "nearly equal": 1 + 1e-6 * few,
        "equal": torch.ones(30, n, dtype=torch.float64),
        "two clusters": (step > n // 2).double() + 1e-9 * few,
        "zero": torch.zeros(30, n, dtype=torch.float64),
        "rank one": (step == 0).double().expand(30, n),
        "tiny": 1e-35 * few,
        "huge": 1e35 * few,
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 4, 7])
@pytest.mark.parametrize("kind", spectra(2))
def test_special_spectra(kind, n, dtype):
    Q = torch.linalg.qr(symmetric(30, n, n, seed=1) + torch.eye(n)).Q
    A = ((Q * spectra(n)[kind][:, None, :]) @ Q.mT).to(dtype)
    A = (A + A.mT) / 2
    check_decomposition(A, *OPS.sym_eig(A))


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_extremes_of_float64(n):
    for size in (1e-310, 1e-290, 1e-160, 1e160, 1e300):
        unit = symmetric(20, n, n)
        values, vectors = OPS.sym_eig(unit * size)
        scale = unit.abs().max()
        assert ((values / size - torch.linalg.eigvalsh(unit)) / scale).abs().max() <= (1e-12 if size == 1e-310 else 1e-14)
        assert (vectors.mT @ vectors - torch.eye(n, dtype=torch.float64)).abs().max() <= 1e-14


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_diagonal_matrices_are_exact(dtype):
    d = torch.tensor([3.0, -1.0, 2.0], dtype=dtype)
    values, vectors = OPS.sym_eig(torch.diag(d))
    assert torch.equal(values, d.sort().values)
    assert torch.equal(vectors.abs(), torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=dtype))


@pytest.mark.parametrize("n", [2, 3, 4, 9])
def test_only_the_lower_triangle_is_read(n):
    A = symmetric(5, n, n)
    filled = A.tril() + torch.full_like(A, 7.0).triu(1)
    assert all(torch.equal(a, b) for a, b in zip(OPS.sym_eig(A), OPS.sym_eig(filled), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 4, 9])
def test_an_item_does_not_depend_on_its_neighbours(n, dtype):
    A = symmetric(37, n, n, dtype=dtype)
    A[3] = torch.eye(n)
    A[5, -1, 0] = float("nan")
    A[6, 0, 0] = float("inf")
    values, vectors = OPS.sym_eig(A)
    for i in (0, 3, 4, 7, 36):
        w, V = OPS.sym_eig(A[i])
        assert torch.equal(values[i], w)
        assert torch.equal(vectors[i], V)
    assert values[5:7].isnan().all()
    assert vectors[5:7].isnan().all()
    assert values[7:].isfinite().all()


def test_leading_dimensions_and_strides():
    A = symmetric(10, 3, 4, 4).movedim(0, 1)[:, ::2]
    values, vectors = OPS.sym_eig(A)
    assert values.shape == (3, 5, 4)
    again = OPS.sym_eig(A.contiguous())
    assert torch.equal(values, again[0])
    assert torch.equal(vectors, again[1])


def invariant(A):
    """A smooth function of both results that no choice of signs changes."""
    values, vectors = eigh((A + A.mT) / 2)
    return values.sin().sum(-1) + (vectors.square() * torch.arange(1.0, A.shape[-1] + 1, dtype=A.dtype)).square().sum((-1, -2))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_derivatives_are_those_of_torch(n):
    A = symmetric(16, n, n).requires_grad_()

    def derivatives():
        value = invariant(A)
        (first,) = torch.autograd.grad(value.sum(), A, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), A)
        return value.detach(), first.detach(), second

    assert _ops.kernel_may_run("sym_eig", A, size=n, count=16)
    ours = derivatives()
    with _ops.without_kernels():
        wanted = derivatives()
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))
    A = symmetric(16, n, n).requires_grad_()
    assert torch.autograd.gradcheck(invariant, A)


def test_gradient_without_symmetrisation_is_torch_s_too():
    A = symmetric(16, 3, 3).requires_grad_()
    g = symmetric(16, 3, 3, seed=1)
    (got,) = torch.autograd.grad((OPS.sym_eig(A)[1].square() * g).sum(), A)
    (wanted,) = torch.autograd.grad((torch.linalg.eigh(A)[1].square() * g).sum(), A)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11 * float(wanted.abs().max()))


def test_eigenvalues_of_equal_ones_have_a_finite_gradient():
    A = torch.eye(3, dtype=torch.float64).expand(16, 3, 3).clone().requires_grad_()
    (g,) = torch.autograd.grad(eigvalsh(A).sum(), A)
    torch.testing.assert_close(g, torch.eye(3, dtype=torch.float64).expand(16, 3, 3))


def test_transforms_mean_the_same():
    check_transforms(invariant, symmetric(10, 3, 3), atol=1e-8)


@pytest.mark.parametrize("n", [3, 6])
def test_opcheck(n):
    check_op(OPS.sym_eig.default, symmetric(9, n, n).requires_grad_())


def moments(*shape):
    X = torch.randn(*shape, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return X.mT @ X + 0.1 * torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize(
    "public",
    [
        spd.logm,
        spd.sqrtm,
        lambda X: spd.funcm(X, torch.sin),
        lambda X: spd.eigh(X).values,
        lambda X: spd.AffineInvariant(3).mean(X.reshape(8, 5, 3, 3), dim=1),
        lambda X: so3.mean(so3.exp(X[..., 0])),
    ],
    ids=["logm", "sqrtm", "funcm", "eigh", "karcher mean", "so3 mean"],
)
def test_public_functions_are_the_same_with_and_without(public):
    X = moments(40)

    def both():
        live = X.clone().requires_grad_()
        value = public(live)
        return value.detach(), torch.autograd.grad(value.pow(2).sum(), live)[0]

    ours = both()
    with _ops.without_kernels():
        wanted = both()
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * max(1.0, float(b.abs().max())))


def test_frames_are_the_same_with_and_without():
    X = moments(3000)
    values, V = symmetric_eigh(X)
    with _ops.without_kernels():
        wanted, U = symmetric_eigh(X)
    torch.testing.assert_close(values, wanted, rtol=0, atol=1e-13 * float(wanted.abs().max()))
    assert ((V * U).sum(-2).abs() - 1).abs().max() <= 1e-9  # the same axes; signs are free


@pytest.fixture(scope="module")
def serial(one_thread):
    """The warp's algorithm compiled for one thread."""
    body = "".join(
        f"""extern "C" void eig_{name}(const {t}* A, {t}* w, {t}* v, int n, long count) {{
          {t} memory[geo::team_memory(32)];
          for (long i = 0; i < count; ++i) geo::team_eigen(Alone{{}}, A + i * n * n, n, w + i * n, v + i * n * n, memory);
        }}
        """
        for name, t in (("f32", "float"), ("f64", "double"))
    )
    return one_thread('#include "math/team_jacobi.h"\n' + body)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 5, 8, 11, 31, 32])
def test_the_warp_s_algorithm_run_by_one_thread(serial, n, dtype):
    """Items of a step in reverse order: what a step reads, no item of it may write."""
    A = symmetric(24, n, n, dtype=dtype, seed=n)
    A[0], A[1], A[2], A[3] = 0, torch.eye(n), A[2] * 1e-36, A[3] * 1e36
    A[4] = 1
    values, vectors = torch.full((24, n), float("nan"), dtype=dtype), torch.full_like(A, float("nan"))
    run = serial.eig_f32 if dtype == torch.float32 else serial.eig_f64

    def call():
        run(*(ctypes.c_void_p(t.data_ptr()) for t in (A, values, vectors)), ctypes.c_int(n), ctypes.c_long(24))

    call()
    check_decomposition(A, values, vectors)
    A[5, n - 1, 0], A[6, 0, 0] = float("nan"), float("inf")
    call()
    assert values[5:7].isnan().all()
    assert vectors[5:7].isnan().all()
    assert values[7:].isfinite().all()


@pytest.mark.bad_input
def test_what_the_kernel_refuses():
    for bad in (torch.zeros(3), torch.zeros(2, 3), torch.zeros(1, 1), torch.zeros(33, 33)):
        with pytest.raises(RuntimeError, match=r"sym_eig: expected A of shape \(\.\.\., n, n\) with n from 2 to 32"):
            OPS.sym_eig(bad)
    with pytest.raises(RuntimeError, match="sym_eig: expected float32 or float64"):
        OPS.sym_eig(torch.zeros(3, 3, dtype=torch.float16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13, 32])
def test_cuda_kernel(n, dtype):
    A = symmetric(1003, n, n, dtype=dtype)
    values, vectors = OPS.sym_eig(A.cuda())
    check_decomposition(A, values.cpu(), vectors.cpu())
