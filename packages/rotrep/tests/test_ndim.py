"""Beyond SO(3)."""

import copy
import pickle

import pytest
import torch

from geocore import sim3, so3, son
from geocore.testing import assert_finite, check_batching, check_derivatives, check_half, check_transforms
from rotrep import NDRotation, Orthogonal, Similarity, get_representation, sampling

CASES = [
    NDRotation(1),
    NDRotation(2),
    NDRotation(4),
    NDRotation(5, convention="rows"),
    NDRotation(4, layout="interleaved"),
    Orthogonal(1),
    Orthogonal(3),
    Orthogonal(4, method="svd"),
    Similarity(3),
    Similarity(3, rotation="9d", scale="softplus"),
    Similarity(2),
    Similarity(4),
    Similarity(1),
]
cases = pytest.mark.parametrize("rep", CASES, ids=repr)


def test_dimensions():
    assert [NDRotation(n).dim for n in (1, 2, 3, 5)] == [0, 2, 6, 20]
    assert [Orthogonal(n).dim for n in (1, 3, 4)] == [1, 9, 16]
    assert (Similarity(3).dim, Similarity(3, rotation="quaternion").dim, Similarity(4).dim) == (10, 8, 17)
    assert get_representation("nd", n=4) == NDRotation(4)
    assert get_representation("On", n=4, method="svd") == Orthogonal(4, method="svd")
    assert get_representation("sim", n=2) == Similarity(2)
    assert all(rep.is_continuous for rep in CASES)


@pytest.mark.parametrize("rep", [c for c in CASES if not isinstance(c, Similarity)], ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_orthogonal_and_right_inverse(rep, dtype, tolerance, rng):
    R = rep.decode(torch.randn(2000, rep.dim, generator=rng, dtype=dtype))
    assert (R.mT @ R - torch.eye(rep.n, dtype=dtype)).abs().max() <= tolerance
    det = torch.linalg.det(R.double())
    if isinstance(rep, NDRotation):
        assert (det - 1).abs().max() <= 4 * tolerance
        X = sampling.haar(rep.n, 500, rng, dtype=dtype)
    else:
        assert ((det.abs() - 1).abs()).max() <= 4 * tolerance
        assert 0.4 < (det > 0).double().mean() < 0.6  # both halves of the group
        X = son.haar(rep.n, 500, special=False, generator=rng, dtype=dtype)
    assert (rep.decode(rep.encode(X)) - X).abs().max() <= tolerance
    assert torch.equal(rep.decode(rep.identity_bias(dtype=dtype)), torch.eye(rep.n, dtype=dtype))
    assert rep.random((3, 2), rng).shape == (3, 2, rep.dim)


def test_orthogonal_keeps_reflections_and_the_nearest_matrix(rng):
    M = torch.randn(50, 3, 3, generator=rng, dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(M)
    torch.testing.assert_close(Orthogonal(3, method="svd").decode(M.flatten(-2)), U @ Vh, atol=1e-12, rtol=0)
    Q = Orthogonal(3).decode(M.flatten(-2))
    T = Q.mT @ M  # Gram-Schmidt is QR with a positive diagonal
    assert T.tril(-1).abs().max() < 1e-13
    assert (T.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert torch.equal(torch.linalg.det(Q).sign(), torch.linalg.det(M).sign())


@cases
def test_derivatives_batches_precision(rep, rng):
    v = torch.randn(3, rep.dim, generator=rng)
    if rep.dim:
        check_derivatives(rep.decode, v, second=rep.n < 4, atol=1e-6)
    check_batching(rep.decode, v)
    check_half(rep.decode, v)
    assert rep.decode(torch.zeros(0, rep.dim)).shape == (0, rep.matrix_size, rep.matrix_size)


@pytest.mark.parametrize("rep", [NDRotation(4), Orthogonal(3, method="svd"), Similarity(3)], ids=repr)
def test_transforms(rep, rng):
    check_transforms(rep.decode, torch.randn(3, rep.dim, generator=rng, dtype=torch.float64), compiled_transforms=False)


@pytest.mark.parametrize("rep", [NDRotation(2), NDRotation(4), Orthogonal(3), Orthogonal(3, method="svd"), Similarity(3)], ids=repr)
def test_degenerate_input(rep, rng):
    zero = torch.zeros(1, rep.dim, requires_grad=True)
    R = rep.decode(zero)
    weight = torch.randn(R.shape, generator=rng)
    (gradient,) = torch.autograd.grad((R * weight).sum(), zero)
    assert_finite("gradient", gradient)
    block = R[..., : rep.n, : rep.n]
    torch.testing.assert_close(block.mT @ block, torch.eye(rep.n)[None], atol=1e-6, rtol=0)
    assert rep.degenerate_mask(zero).tolist() == [True]
    assert rep.degenerate_mask(rep.random(2, rng)).tolist() == [False, False]
    options = {k: getattr(rep, k) for k in ("method",) if hasattr(rep, k)}
    assert torch.isnan(type(rep)(rep.n, degenerate="nan", **options).decode(zero)[..., : rep.n, : rep.n]).all()
    with pytest.raises(ValueError, match="items do not"):
        type(rep)(rep.n, degenerate="raise", **options).decode(zero)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", ["exp", "softplus"])
def test_similarity_group(n, scale, rng):
    rep = Similarity(n, scale=scale)
    a, b = rep.random((2, 20), rng, dtype=torch.float64).unbind(0)
    A, B = rep.decode(a), rep.decode(b)
    close = lambda x, y: torch.testing.assert_close(x, y, atol=1e-12, rtol=1e-12)  # noqa: E731
    close(rep.decode(rep.compose(a, b)), A @ B)
    close(rep.decode(rep.inverse(a)), torch.linalg.inv(A))
    close(rep.decode(rep.compose(a, rep.inverse(a))), torch.eye(n + 1, dtype=torch.float64).expand_as(A))
    close(rep.decode(rep.encode(A)), A)
    p = torch.randn(20, n, generator=rng, dtype=torch.float64)
    homogeneous = torch.cat([p, p.new_ones(20, 1)], dim=-1)
    close(rep.apply(a, p), (A @ homogeneous[..., None])[:, :n, 0])
    close(rep.decode(rep.identity_bias(dtype=torch.float64)), torch.eye(n + 1, dtype=torch.float64))


def test_similarity_parts_and_geocore(rng):
    rep = Similarity(3, rotation="9d")
    v = torch.randn(10, rep.dim, generator=rng, dtype=torch.float64)
    parts = rep.decode_parts(v)
    torch.testing.assert_close(parts.scale, v[:, 9].exp())
    assert torch.equal(parts.translation, v[:, 10:])
    assert parts.confidence is not None
    torch.testing.assert_close(rep.decode(v), sim3.from_srt(parts.scale, parts.rotation, parts.translation), atol=1e-14, rtol=0)
    hand = Similarity(3).decode(torch.tensor([0.0, 1, 0, -1, 0, 0, 0.0, 5, 6, 7]))
    assert hand.tolist() == [[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]]
    soft = Similarity(3, scale="softplus")
    torch.testing.assert_close(soft.decode_parts(torch.zeros(10)).scale, torch.tensor(2.0).log())
    big = so3.random((), generator=rng)
    T = soft.assemble(big, torch.tensor(300.0), torch.zeros(3))  # e^300 overflows
    torch.testing.assert_close(soft.encode(T)[6], torch.tensor(300.0))


def test_instances_are_values():
    for rep in CASES:
        assert pickle.loads(pickle.dumps(rep)) == rep
        assert copy.deepcopy(rep) == rep
        assert hash(rep) == hash(copy.deepcopy(rep))
    assert NDRotation(3) != NDRotation(4)


@pytest.mark.bad_input
def test_errors(rng):
    for cls in (NDRotation, Orthogonal, Similarity):
        with pytest.raises(TypeError, match="n must be an int"):
            cls(2.0)
        with pytest.raises(ValueError, match="n must be at least 1"):
            cls(0)
        with pytest.raises(ValueError, match="v must have shape"):
            cls(3).decode(torch.zeros(4))
    with pytest.raises(ValueError, match="method must be one of"):
        Orthogonal(3, method="qr")
    with pytest.raises(ValueError, match="layout must be one of"):
        NDRotation(3, layout="C")
    with pytest.raises(ValueError, match="scale must be one of"):
        Similarity(3, scale="log")
    with pytest.raises(ValueError, match="rotation must represent rotations of 4-space"):
        Similarity(4, rotation="9d")
    with pytest.raises(ValueError, match="rotation must represent rotations of 3-space"):
        Similarity(3, rotation=Orthogonal(3))
    with pytest.raises(ValueError, match="rotation must be one of"):
        Similarity(3, rotation="7d")
    rep = Similarity(3)
    T = rep.decode(rep.random(2, rng))
    assert rep.encode(T, validate=True).shape == (2, 10)
    with pytest.raises(ValueError, match="last row"):
        rep.encode(T * 2, validate=True)
    with pytest.raises(ValueError, match="must be a rotation"):
        rep.encode(T @ torch.diag(torch.tensor([1.0, 2, 1, 1])), validate=True)
    assert Orthogonal(3).encode(-torch.eye(3), validate=True).shape == (9,)
    with pytest.raises(ValueError, match="orthogonal"):
        Orthogonal(3).encode(2 * torch.eye(3), validate=True)
