"""Frames of principal axes: exactness, closed forms, sets, parity, masks, precision, gradients."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geocore import son
from geocore.frames import MinimalFrame, PCAFrame, WeightedFrame, cluster_eigenvalues
from geocore.frames._jacobi import jacobi_eigh
from geocore.frames._reference import minimal_frame_reference, pca_frame_reference, weighted_frame_reference
from geocore.groups import Euclidean, Motion, Orthogonal, SpecialEuclidean, SpecialOrthogonal, compose, inverse, transform
from geocore.testing import assert_close_eps, assert_equivariant, assert_not_equivariant

D = torch.float64
GROUPS = {"O": Orthogonal, "SO": SpecialOrthogonal, "E": Euclidean, "SE": SpecialEuclidean}
MAKERS = {"pca": PCAFrame, "weighted": WeightedFrame, "minimal": lambda d, group: MinimalFrame(group, d)}


def backbone(d, shape):
    """A function of point sets with no symmetry but that of order: sum of products and cosines of random projections."""
    draw = torch.Generator().manual_seed(5)
    W, U = (torch.randn(d, 16, dtype=D, generator=draw) for _ in range(2))
    V = torch.randn(16, max(1, math.prod(shape)), dtype=D, generator=draw)

    def fn(z):
        return ((torch.cos(z @ W + 0.3) * (1 + z @ U)).sum(-2) @ V).unflatten(-1, shape or (1,))

    return fn


def averaged(frame, fn, kind, in_type="position"):
    def f(x):
        F = frame(x)
        return F.average(fn(F.canonicalize(x, in_type)), kind)

    return f


def sets_equal(A, B, atol):
    """Two sets of matrices ``(*, k, d, d)`` are the same."""
    gap = (A[..., :, None, :, :] - B[..., None, :, :, :]).abs().amax((-1, -2))
    assert gap.amin(-1).max() < atol
    assert gap.amin(-2).max() < atol


# --- exactness ---


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
def test_averages_are_exact(maker, group, d):
    frame = MAKERS[maker](d, group=group)
    x = 1.5 + torch.randn(2, 6, d, dtype=D, generator=torch.Generator().manual_seed(d))
    for kind, shape in (("invariant", (2,)), ("vector", (d,)), ("position", (d,)), ("tensor(2)", (d, d)), ("pseudovector", (d,))):
        report = assert_equivariant(averaged(frame, backbone(d, shape), kind), x, GROUPS[group](d), "position", kind, n=4, tol=1e-11)
        assert report < 1e-12 or maker != "pca"


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("small", "large"), [("SE", "E"), ("SO", "O"), ("O", "E")])
def test_averages_know_no_more_than_their_group(maker, small, large):
    frame = MAKERS[maker](3, group=small)
    x = 1 + torch.randn(2, 6, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    assert_not_equivariant(averaged(frame, backbone(3, (2,)), "invariant"), x, GROUPS[large](3), "position", "invariant")


def test_closed_form_averages():
    """Spectrum of four points by hand; odd terms cancel over E(3), and z1 z2 z3 survives over SE(3)."""
    x = torch.tensor([[2.0, 0, 0], [0, 1, 0], [-1, 0, 0.5], [0, -0.5, 1]], dtype=D)
    y = x - x.mean(0)
    values = torch.linalg.eigvalsh(y.T @ y).flip(0)
    expected = torch.tensor([4.930520877319619, 1.624239924826441, 0.0702391978539], dtype=D)
    torch.testing.assert_close(values, expected, atol=1e-12, rtol=0)

    def phi(z):
        return (z[..., 0] ** 3 + z[..., 1] * z[..., 2] ** 2 + z[..., 0] * z[..., 1] * z[..., 2] + z[..., 2] ** 2).sum(-1)

    E, SE = PCAFrame(3, "E")(x), PCAFrame(3, "SE")(x)
    assert abs(E.average(phi(E.canonicalize(x))).item() - 0.0702391978539) < 1e-12
    assert abs(SE.average(phi(SE.canonicalize(x))).item() - 0.1062561750662) < 1e-12
    assert abs(E.info.gap.item() - (1.624239924826441 - 0.0702391978539) / 4.930520877319619) < 1e-12
    assert (E.size, SE.size, E.info.rank.item()) == (8, 4, 3)
    up = PCAFrame(3, "E", order="ascending")(x).canonicalize(x)
    torch.testing.assert_close(up.flip(-1).square(), E.canonicalize(x).square(), atol=1e-12, rtol=0)


def test_one_dimension_is_the_mean_of_both_directions():
    x = torch.randn(7, 1, dtype=D)
    phi = lambda z: torch.exp(z).sum((-1, -2))  # noqa: E731
    F = PCAFrame(1, "E")(x)
    m = x.mean(0)
    torch.testing.assert_close(F.average(phi(F.canonicalize(x))), (phi(x - m) + phi(m - x)) / 2)
    assert PCAFrame(1, "SE")(x).size == 1


def test_symmetries_of_the_backbone_are_kept():
    x = torch.randn(9, 3, dtype=D)
    f = averaged(PCAFrame(3), backbone(3, (4,)), "invariant", "vector")
    torch.testing.assert_close(f(x), f(x[torch.randperm(9)]), atol=1e-10, rtol=0)


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 5), group=st.sampled_from(list(GROUPS)), seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_frames_move_with_the_input(d, group, seed, scale):
    """F(g X) = g F(X) as sets, and every element is orthogonal, of determinant one for SO and SE."""
    draw = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(7, d, dtype=D, generator=draw)
    g = GROUPS[group](d).random((), draw, dtype=D)
    frame = PCAFrame(d, group, degenerate="ignore", tol=1e-3)
    F, G = frame(x), frame(transform(g, x, "position"))
    if F.info.degenerate:
        return
    moved = compose(Motion(g.Q, g.t), F.elements)
    sets_equal(G.elements.Q, moved.Q, 1e-9)
    if group.endswith("E"):
        torch.testing.assert_close(G.elements.t, moved.t, atol=1e-10 * scale, rtol=0)
    torch.testing.assert_close(F.elements.Q.mT @ F.elements.Q, torch.eye(d, dtype=D).expand(F.size, d, d), atol=1e-12, rtol=0)
    if group.startswith("S"):
        assert torch.linalg.det(F.elements.Q).min() > 0.99


# --- references and peers ---


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_pca_frame_equals_its_reference(group, d):
    draw = torch.Generator().manual_seed(d)
    x, w = torch.randn(3, 2, 7, d, dtype=D, generator=draw), torch.rand(3, 2, 7, dtype=D, generator=draw)
    for weights in (None, w):
        F = PCAFrame(d, group)(x, weights)
        for i, j in itertools.product(range(3), range(2)):
            want = pca_frame_reference(x[i, j], None if weights is None else w[i, j], group=group)
            sets_equal(F.elements.Q[i, j], want.Q, 1e-10)
            if want.t is not None:
                torch.testing.assert_close(F.elements.t[i, j], want.t, atol=1e-13, rtol=0)


@pytest.mark.parametrize("group", GROUPS)
def test_other_frames_equal_their_references(group):
    x = torch.randn(5, 6, 3, dtype=D, generator=torch.Generator().manual_seed(1))
    F, M = WeightedFrame(3, group, power=1.5)(x), MinimalFrame(group, 3)(x)
    for i in range(5):
        want, w = weighted_frame_reference(x[i], group=group, power=1.5)
        torch.testing.assert_close(F.elements.Q[i], want.Q, atol=1e-10, rtol=0)
        torch.testing.assert_close(F.weights[i], w, atol=1e-13, rtol=0)
        torch.testing.assert_close(M.elements.Q[i, 0], minimal_frame_reference(x[i], group=group), atol=1e-10, rtol=0)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_parity_with_frame_averaging_pytorch():
    """It orders axes ascending, and returns vectors from the mean."""
    from frame_averaging_pytorch import FrameAverage

    x = torch.randn(3, 20, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    fn = backbone(3, (3,))
    wrap = torch.nn.Module()
    wrap.forward = lambda z: fn(z)[..., None, :].expand(z.shape) + z.sin()
    theirs = FrameAverage(wrap, dim=3)(x)
    F = PCAFrame(3, "E", order="ascending")(x)
    ours = F.average(wrap(F.canonicalize(x).flatten(0, 1)).unflatten(0, (3, 8)), "vector")
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


# --- masks, ragged batches, batch shapes ---


@pytest.mark.parametrize("maker", MAKERS)
def test_padding_changes_nothing_and_ragged_is_dense(maker):
    frame = PCAFrame(3, "E", degenerate="ignore") if maker == "pca" else MAKERS[maker](3, group="E")
    draw = torch.Generator().manual_seed(3)
    sets = [torch.randn(n, 3, dtype=D, generator=draw) for n in (4, 6, 5)]
    padded, mask = torch.full((3, 6, 3), float("nan"), dtype=D), torch.zeros(3, 6, dtype=D)
    for i, s in enumerate(sets):
        padded[i, : len(s)], mask[i, : len(s)] = s, 1
    shuffle = torch.randperm(15, generator=draw) if maker == "pca" else torch.arange(15)  # a minimal frame depends on the order
    flat = torch.cat(sets)[shuffle]
    batch = torch.tensor([0] * 4 + [1] * 6 + [2] * 5)[shuffle]
    dense, ragged = frame(padded, mask), frame(flat, batch=batch)
    assert torch.equal(frame(padded, mask > 0).elements.Q, dense.elements.Q)
    fn = lambda z: z.sin().cos() + z * z  # noqa: E731
    y = ragged.average(fn(ragged.canonicalize(flat)), "position")
    for i, s in enumerate(sets):
        one = frame(s)
        want = one.average(fn(one.canonicalize(s)), "position")
        torch.testing.assert_close(dense.average(fn(dense.canonicalize(padded)), "position")[i, : len(s)], want, atol=1e-10, rtol=0)
        got = y[batch == i]
        order = shuffle[batch == i] - [0, 4, 10][i]
        torch.testing.assert_close(got, want[order], atol=1e-10, rtol=0)
    per_item = torch.randn(ragged.size, 3, 3, dtype=D, generator=draw)
    assert ragged.average(per_item, "vector", per="item").shape == (3, 3)
    assert frame(flat, batch=batch, n_items=5).batch_shape == (5,)
    assert frame(flat, batch=batch, n_items=5).info.degenerate.tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_any_batch_shape(maker, batch):
    x = torch.randn(*batch, 5, 3, generator=torch.Generator().manual_seed(0))
    F = MAKERS[maker](3, group="SE")(x)
    assert F.batch_shape == batch
    assert F.canonicalize(x).shape == (*batch, F.size, 5, 3)
    assert F.info.gap.shape == F.info.rank.shape == F.info.degenerate.shape == batch
    torch.testing.assert_close(F.average(F.canonicalize(x), "position"), x, atol=1e-5, rtol=0)


def test_masses_and_many_points():
    """Weights count like repetitions; the sums of very many float32 points are as exact as float64 ones."""
    x = torch.randn(5, 3, dtype=D)
    twice = torch.cat([x, x[:2]])
    a = PCAFrame(3, "E")(x, torch.tensor([2.0, 2, 1, 1, 1]))
    b = PCAFrame(3, "E")(twice)
    sets_equal(a.elements.Q, b.elements.Q, 1e-10)
    torch.testing.assert_close(a.elements.t[0], b.elements.t[0])
    big = torch.randn(150_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2]) + 100
    single, double = PCAFrame(2, "E")(big), PCAFrame(2, "E")(big.double())
    assert_close_eps(single.elements.t, double.elements.t, 2.0, scale=100.0)
    weighted = PCAFrame(2, "E")(big, torch.ones(len(big)))
    torch.testing.assert_close(weighted.elements.Q, single.elements.Q, atol=1e-6, rtol=0)
    sets_equal(single.elements.Q.double(), double.elements.Q, 1e-6)


# --- precision and gradients ---


@pytest.mark.parametrize("maker", MAKERS)
def test_half_precision_builds_in_float32(maker):
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    frame = MAKERS[maker](3, group="SE")
    F, full = frame(x), frame(x.float())
    assert F.elements.Q.dtype == torch.float32
    assert torch.equal(F.elements.Q, full.elements.Q)
    assert F.canonicalize(x).dtype == torch.bfloat16
    assert F.average(F.canonicalize(x), "position").dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        inside = frame(x.float())
        poses = inside.canonicalize(x.float())
    assert torch.equal(inside.elements.Q, full.elements.Q)
    assert torch.equal(poses, full.canonicalize(x.float()))


@pytest.mark.parametrize("maker", [lambda detach: PCAFrame(3, "SE", detach=detach), lambda detach: WeightedFrame(3, "SE", detach=detach)])
def test_gradients_attached_and_detached(maker, check_directional):
    x = torch.randn(5, 3, dtype=D, generator=torch.Generator().manual_seed(2))
    fn = backbone(3, (1,))
    energy = lambda frame: lambda v: averaged(frame, fn, "invariant")(v).sum()  # noqa: E731
    check_directional(energy(maker(False)), x, second=False, forward=False)
    live = x.clone().requires_grad_()
    assert not maker(True)(live).elements.Q.requires_grad

    def gradient(detach):
        def field(v):
            v = v.detach().requires_grad_()
            with torch.enable_grad():
                return torch.autograd.grad(energy(maker(detach))(v), v)[0]

        return field

    for detach in (True, False):  # equivariant as a field in both modes, though only one is the derivative
        assert_equivariant(gradient(detach), x, SpecialEuclidean(3), "position", "vector", n=4, tol=1e-9)
    assert (gradient(True)(x) - gradient(False)(x)).abs().max() > 1e-3


def test_minimal_frame_differentiates(check_directional):
    x = torch.randn(4, 3, dtype=D, generator=torch.Generator().manual_seed(2))
    frame = MinimalFrame("SE", 3, detach=False)
    check_directional(lambda v: frame(v).canonicalize(v), x, second=False, forward=False)


# --- composition ---


@pytest.mark.parametrize("maker", MAKERS)
def test_frames_vmap(maker):
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    f = averaged(MAKERS[maker](3, group="E"), torch.cos, "position")
    torch.testing.assert_close(torch.vmap(f, randomness="different")(x), f(x), atol=1e-5, rtol=0)


def test_frames_compile():
    """Principal axes with any batch and number of points; the others, in one graph to save time, for the shapes they get: the size of a
    weighted frame is a polynomial in n, on which torch's shape guards warn.
    """
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    pca = averaged(PCAFrame(3, "SE"), torch.cos, "position")
    compiled = torch.compile(pca, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), pca(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(compiled(x[:3, :4]), pca(x[:3, :4]), atol=1e-5, rtol=0)
    others = [averaged(frame, torch.cos, "position") for frame in (WeightedFrame(3, "E"), MinimalFrame("SE", 3))]
    both = lambda v: [f(v) for f in others]  # noqa: E731
    got = torch.compile(both, fullgraph=True, dynamic=False, backend="eager")(x)
    torch.testing.assert_close(got, both(x), atol=1e-5, rtol=0)


# --- eigenvalues ---


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    tol=st.sampled_from([1e-7, 1e-4, 1e-2]),
    top=st.sampled_from([1e-8, 1.0, 1e6]),
)
def test_clusters_are_found_whatever_the_order_and_scale(sizes, seed, tol, top):
    draw = torch.Generator().manual_seed(seed)
    levels = torch.linspace(1, 2, len(sizes), dtype=D)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    n = len(labels)
    noise = 0.2 * tol * torch.rand(n, dtype=D, generator=draw)
    order = torch.randperm(n, generator=draw)
    values = top * (levels[labels] + noise)[order]
    assert torch.equal(cluster_eigenvalues(values, tol), labels[order])
    assert torch.equal(cluster_eigenvalues(values.expand(2, 3, n), tol)[1, 2], labels[order])


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("spectrum", ["generic", "graded", "near", "equal", "zero", "tiny", "huge"])
def test_jacobi_is_as_good_as_lapack(d, dtype, spectrum):
    draw = torch.Generator().manual_seed(d)
    values = torch.rand(500, d, dtype=D, generator=draw)
    step = torch.arange(d, dtype=D)
    values = {
        "graded": 10.0 ** (-4 * step).expand(500, d),
        "near": 1 + 1e-6 * values,
        "equal": torch.ones(500, d, dtype=D),
        "zero": torch.zeros(500, d, dtype=D),
        "tiny": 1e-30 * values,
        "huge": 1e30 * values,
    }.get(spectrum, values)
    Q = son.haar(d, 500, generator=draw, dtype=D)
    C = ((Q * values[:, None, :]) @ Q.mT).to(dtype)
    C = (C + C.mT) / 2
    got, V = jacobi_eigh(C)
    want, U = torch.linalg.eigh(C)
    scale = want.abs().amax(-1).clamp(min=torch.finfo(dtype).tiny)
    assert_close_eps(got / scale[:, None], want / scale[:, None], 16)
    residual = lambda w, X: ((C @ X - X * w[:, None, :]).abs().amax((-1, -2)) / scale).max().item()  # noqa: E731
    assert residual(got, V) <= residual(want, U) + 4 * torch.finfo(dtype).eps
    assert_close_eps(V.mT @ V, torch.eye(d).expand(500, d, d), 24)
    assert torch.equal(got, got.sort(-1).values)


def test_many_clouds_take_the_fast_way_to_the_same_frames():
    x = torch.randn(2500, 6, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    frame = PCAFrame(3, "SE", degenerate="ignore")
    many, few = frame(x), frame(x[:50])
    sets_equal(many.elements.Q[:50], few.elements.Q, 1e-9)
    assert jacobi_eigh(torch.full((1, 3, 3), float("nan")))[0].isnan().all()


def test_clusters_at_the_edges():
    assert cluster_eigenvalues(torch.zeros(3)).tolist() == [0, 0, 0]
    assert cluster_eigenvalues(torch.zeros(2, 0)).shape == (2, 0)
    assert cluster_eigenvalues(torch.tensor([0.0, 1.0, 1.0 + 5e-5])).tolist() == [0, 1, 1]
    assert cluster_eigenvalues(torch.tensor([0.0, 1.0, 1.0 + 5e-5], dtype=D)).tolist() == [0, 1, 2]
    below, above = 0.495 - 1e-12, 0.495 + 1e-12  # on both sides of a rounding boundary
    assert cluster_eigenvalues(torch.tensor([below, above, 1.0], dtype=D)).tolist() == [0, 0, 1]
    torch.testing.assert_close(inverse(Motion(son.haar(3, dtype=D))).Q.shape, torch.Size([3, 3]))
