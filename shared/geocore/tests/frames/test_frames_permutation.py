"""Frames under permutation, of whole groups, of products; and the frame object itself."""

import itertools
import math

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from geocore.frames import (
    Frame,
    FrameTooLargeError,
    GroupFrame,
    PCAFrame,
    PermutationFrame,
    ProductFrame,
    SortFrame,
    WeightedFrame,
)
from geocore.frames._reference import permutation_frame_reference
from geocore.groups import Euclidean, Motion, Octahedral, Orthogonal, Pair, ProductGroup, Symmetric, compose, inverse, transform
from geocore.testing import assert_equivariant, assert_not_equivariant

D = torch.float64


@pytest.fixture(scope="module")
def atlas():
    """All 853 connected graphs of seven nodes."""
    graphs = [g for g in nx.graph_atlas_g() if g.number_of_nodes() == 7 and nx.is_connected(g)]
    return torch.stack([torch.from_numpy(nx.to_numpy_array(g)) for g in graphs])


def mlp(n, out=10, seed=0):
    draw = torch.Generator().manual_seed(seed)
    Ws = [0.3 * torch.randn(*s, dtype=D, generator=draw) for s in ((n * n, 32), (32, 32), (32, out))]
    return lambda A: torch.tanh(torch.tanh(A.flatten(-2) @ Ws[0]) @ Ws[1]) @ Ws[2]


def in_buckets(A, fn, frame=None):
    out = None
    for index, F in (frame or PermutationFrame()).buckets(A):
        y = F.average(fn(F.canonicalize(A[index], "edge")))
        out = y.new_zeros(len(A), y.shape[-1]) if out is None else out
        out[index] = y
    return out


def as_set(elements):
    return {tuple(p) for p in elements.tolist()}


# --- graphs ---


def test_graph_atlas_sizes_invariance_and_separation(atlas):
    """Numbers of the specification: median size 4, 136 of size one, largest 7!; all pairs separated; invariant to rounding."""
    assert len(atlas) == 853
    sizes = torch.cat([torch.full((len(index),), F.size) for index, F in PermutationFrame().buckets(atlas)])
    assert sizes.median() == 4
    assert int((sizes == 1).sum()) == 136
    assert int(sizes.max()) == 5040
    y = in_buckets(atlas, mlp(7))
    p = Symmetric(7).random((853,), torch.Generator().manual_seed(0))
    assert (in_buckets(transform(p, atlas, "edge"), mlp(7)) - y).abs().max() < 3e-15
    distances = torch.pdist(y, p=1)
    assert len(distances) == 363_378
    assert distances.min() > 0.1


def test_graph_classes_agree_with_nauty(atlas):
    """Isomorphic if and only if nauty says so: on relabelled pairs and on different graphs."""
    pynauty = pytest.importorskip("pynauty", reason="built from source, so it is not in the test group; needs a C compiler")
    A = atlas[::25]
    p = Symmetric(7).random((len(A),), torch.Generator().manual_seed(1))
    B = transform(p, A, "edge")

    def certificate(M):
        lists = {i: [j for j in range(7) if M[i, j]] for i in range(7)}
        return pynauty.certificate(pynauty.Graph(7, adjacency_dict=lists))

    ours = in_buckets(torch.cat([A, B]), mlp(7))
    same = (ours[:, None] - ours).abs().amax(-1) < 1e-9
    names = [certificate(M) for M in torch.cat([A, B])]
    assert torch.equal(same, torch.tensor([[a == b for b in names] for a in names]))


def test_permutation_frame_equals_its_reference(atlas):
    A = atlas[3:850:29]
    A = A[[permutation_frame_reference(a).shape[0] <= 240 for a in A]]
    F = PermutationFrame()(A)
    for i, a in enumerate(A):
        want = permutation_frame_reference(a)
        assert F.sizes[i] == len(want)
        assert as_set(F.elements[i, : len(want)]) == as_set(want)
        torch.testing.assert_close(F.weights[i], torch.where(torch.arange(F.size) < len(want), 1 / len(want), 0.0).double())
        assert torch.equal(F.elements[i, len(want) :], F.elements[i, :1].expand(F.size - len(want), 7))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 6), seed=st.integers(0, 2**31), weighted=st.booleans(), features=st.booleans())
def test_permutation_frames_move_with_the_graph(n, seed, weighted, features):
    draw = torch.Generator().manual_seed(seed)
    A = torch.rand(n, n, generator=draw, dtype=D)
    A = torch.triu(A if weighted else (A < 0.5).double(), 1)
    A = A + A.T
    f = torch.randint(2, (n, 2), generator=draw).double() if features else None
    g = Symmetric(n).random((), draw)
    frame = PermutationFrame()
    F = frame(A, features=f)
    G = frame(transform(g, A, "edge"), features=None if f is None else transform(g, f, "node"))
    assert as_set(G.elements) == as_set(compose(g, F.elements))
    canonical = F.canonicalize(A, "edge")
    for i, p in enumerate(F.elements):
        assert torch.equal(canonical[i], A[p][:, p])
    assert torch.equal(F.average(F.restore(canonical, "edge")).round(decimals=12), A.round(decimals=12))


def test_ties_are_found_by_gaps_and_keys_do_not_depend_on_eigenvectors():
    """The triangle with a pendant: by hand. Two nodes tie; the order of the others follows from the Fiedler projector."""
    A = torch.zeros(4, 4)
    for i, j in ((0, 1), (1, 2), (2, 0), (2, 3)):
        A[i, j] = A[j, i] = 1
    frame = PermutationFrame()
    classes = frame.classes(A)
    assert classes[0] == classes[1]
    assert len(classes.unique()) == 3
    F = frame(A)
    assert F.size == 2
    assert F.weights is None
    assert F.info.rank == 3
    assert torch.equal(frame(A.float()).elements, frame(A.double()).elements)
    noisy = A.double() + 1e-9 * torch.triu(torch.rand(4, 4, dtype=D), 1)
    assert frame(torch.triu(noisy, 1) + torch.triu(noisy, 1).T).size == 2


def test_symmetric_graphs_are_refused_or_sampled():
    cycle = torch.from_numpy(nx.to_numpy_array(nx.cycle_graph(9)))
    with pytest.raises(FrameTooLargeError, match="362880") as caught:
        PermutationFrame()(cycle)
    assert caught.value.size == 362880
    star = torch.from_numpy(nx.to_numpy_array(nx.star_graph(8)))
    frame = PermutationFrame(n_samples=4000)
    F = frame(torch.stack([cycle, star]), generator=torch.Generator().manual_seed(0))
    assert F.size == 4000
    assert F.info.degenerate.tolist() == [True, True]
    assert torch.equal(F.elements.sort(-1).values, torch.arange(9).expand_as(F.elements))
    counts = torch.stack([(F.elements[0] == i).float().mean(0) for i in range(9)])
    assert (counts - 1 / 9).abs().max() < 5 * math.sqrt(1 / 9 * 8 / 9 / 4000)
    centre = F.elements[1] == 0
    assert torch.equal(centre, centre[:1].expand_as(centre))  # the centre of the star ties with nobody
    with pytest.raises(FrameTooLargeError, match="max_size=3"):
        PermutationFrame(max_size=3)(torch.ones(3, 3) - torch.eye(3))


def test_padded_graphs_and_other_keys():
    A = torch.from_numpy(nx.to_numpy_array(nx.path_graph(4)))
    padded = torch.zeros(2, 6, 6, dtype=D)
    padded[:, :4, :4] = A
    padded[1, 4, 5] = padded[1, 5, 4] = 1  # garbage on padding
    mask = torch.tensor([1, 1, 1, 1, 0, 0]).expand(2, 6)
    F = PermutationFrame()(padded, mask)
    assert F.size == 4
    assert torch.equal(F.elements[0], F.elements[1])
    assert torch.equal(F.elements[0, :, 4:], torch.tensor([4, 5]).expand(4, 2))
    assert as_set(F.elements[0, :, :4]) == as_set(PermutationFrame()(A).elements)
    directed = torch.tensor([[0.0, 1, 1], [0, 0, 1], [0, 0, 0]])
    G = PermutationFrame(key=lambda A: torch.stack([A.sum(-1), A.sum(-2)], -1))(directed)
    assert G.elements.tolist() == [[2, 1, 0]]
    assert PermutationFrame()(torch.zeros(2, 3, 0 + 3, 3)).elements.shape == (2, 3, 6, 3)
    assert PermutationFrame()(torch.zeros(0, 3, 3)).batch_shape == (0,)


# --- points ---


def test_sort_frame_sorts_and_weighs_by_the_smallest_gap():
    x = torch.tensor([[0.0, 3.0], [1.0, 0.0], [4.0, 1.0]], dtype=D)
    F = SortFrame(torch.eye(2, dtype=D))(x)
    assert F.elements.tolist() == [[0, 1, 2], [1, 2, 0]]
    torch.testing.assert_close(F.weights, torch.tensor([0.5, 0.5], dtype=D))
    assert not F.info.degenerate
    padded = SortFrame(torch.eye(2, dtype=D))(torch.cat([x, torch.full((2, 2), -9.0, dtype=D)]), torch.tensor([1, 1, 1, 0, 0]))
    assert padded.elements.tolist() == [[0, 1, 2, 3, 4], [1, 2, 0, 3, 4]]
    torch.testing.assert_close(padded.weights, F.weights)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 6), d=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_sort_frames_are_equivariant_and_continuous(n, d, seed):
    draw = torch.Generator().manual_seed(seed)
    frame = SortFrame.random(d, 7, draw, dtype=D)
    x = torch.randn(2, n, d, dtype=D, generator=draw)
    W = torch.randn(n * d, n * d, dtype=D, generator=draw)

    def f(x):
        F = frame(x)
        z = F.canonicalize(x, "node")
        return F.average(torch.sin(z.flatten(-2) @ W).reshape(z.shape), "node")

    assert_equivariant(f, x, Symmetric(n), "node", "node", n=3, tol=1e-12)
    step = 1e-7 * torch.randn(2, n, d, dtype=D, generator=draw)
    assert (f(x + step) - f(x)).abs().max() < 1e-2


def test_points_in_one_place_do_not_break_the_sort_frame():
    x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]], dtype=D)
    F = SortFrame(torch.eye(2, dtype=D))(x)
    assert F.info.degenerate
    assert F.info.rank == 2
    torch.testing.assert_close(F.weights, torch.tensor([2.0, 1.0], dtype=D) / 3)
    g = torch.tensor([1, 0, 2])
    G = SortFrame(torch.eye(2, dtype=D))(transform(g, x, "node"))
    torch.testing.assert_close(G.canonicalize(transform(g, x, "node"), "node"), F.canonicalize(x, "node"))
    tied = SortFrame(torch.tensor([[1.0, 0.0]]))(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    assert tied.info.degenerate
    assert tied.weights.tolist() == [1.0]


# --- whole groups and products ---


@pytest.mark.parametrize("name", ["O", "T"])
def test_group_frame_is_the_average_over_a_group_of_scipy(name):
    array = Rotation.create_group(name).as_matrix()
    Q = torch.from_numpy(array)
    W = torch.randn(3, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 5, 3, dtype=D, generator=torch.Generator().manual_seed(1))
    f = lambda z: (z @ W).sin() + (z**2).cumsum(-2)  # noqa: E731
    frame = GroupFrame(array)

    def average(v):
        F = frame(v)
        return F.average(f(F.canonicalize(v, "vector")), "vector")

    want = torch.stack([f(x @ q) @ q.T for q in Q]).mean(0)
    torch.testing.assert_close(average(x), want, atol=1e-13, rtol=0)
    assert_equivariant(average, x, [Motion(q) for q in Q], "vector", "vector")
    assert_not_equivariant(average, x, Orthogonal(3), "vector", "vector")
    assert GroupFrame(Octahedral())(x).size == 24
    assert GroupFrame(Symmetric(4))(torch.randn(3, 4, 2)).canonicalize(torch.randn(3, 4, 2), "node").shape == (3, 24, 4, 2)
    ragged = GroupFrame(Octahedral())(torch.randn(7, 3), batch=torch.tensor([0, 0, 1, 1, 1, 2, 2]))
    assert ragged.canonicalize(torch.randn(7, 3), "vector").shape == (24, 7, 3)


def test_product_frame_is_exact_for_both_groups():
    """Principal axes, then sorting in every pose: 8 * 5 elements."""
    frame = ProductFrame(PCAFrame(3, "E"), SortFrame.random(3, 5, torch.Generator().manual_seed(0), dtype=D))
    W = torch.randn(18, 18, dtype=D, generator=torch.Generator().manual_seed(1))
    x = 1 + torch.randn(2, 6, 3, dtype=D, generator=torch.Generator().manual_seed(2))

    def f(x):
        F = frame(x)
        z = F.canonicalize(x, "position*node")
        return F.average(torch.sin(z.flatten(-2) @ W).reshape(z.shape), "position*node")

    assert frame(x).size == 40
    assert isinstance(frame(x).elements, Pair)
    assert_equivariant(f, x, ProductGroup(Euclidean(3), Symmetric(6)), "position*node", "position*node", n=6, tol=1e-10)
    both = ProductFrame(PCAFrame(3), PermutationFrame())
    A = torch.from_numpy(nx.to_numpy_array(nx.path_graph(6))).expand(2, 6, 6)
    F = both((x, A))
    assert F.size == 8 * PermutationFrame()(A[0]).size
    assert F.canonicalize(x, "vector*node").shape == (2, F.size, 6, 3)
    assert F.canonicalize(A, "invariant*edge").shape == (2, F.size, 6, 6)
    weighted = ProductFrame(WeightedFrame(3, "SO"), SortFrame(torch.eye(3, dtype=D)))(x)
    torch.testing.assert_close(weighted.weights.sum(-1), torch.ones(2, dtype=D))


# --- the object ---


def test_frames_sample_each_item_on_its_own_and_reproducibly():
    x = torch.randn(400, 5, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    F = PCAFrame(3, "SE")(x)
    S = F.sample(1, torch.Generator().manual_seed(1))
    assert S.size == 1
    assert torch.equal(S.elements.Q, F.sample(1, torch.Generator().manual_seed(1)).elements.Q)
    which = (S.elements.Q[:, 0, None] - F.elements.Q).abs().amax((-1, -2)).argmin(-1)
    counts = which.bincount(minlength=4)
    assert counts.min() > 60  # 100 expected, deviation 9
    torch.testing.assert_close(S.average(S.canonicalize(x), "position"), x, atol=1e-12, rtol=0)
    chosen = F.select(which[:, None])
    assert torch.equal(chosen.elements.Q, S.elements.Q)
    torch.testing.assert_close(chosen.elements.t, S.elements.t)
    w = WeightedFrame(3, "SE")(x)
    best = w.select(w.weights.topk(3).indices)
    torch.testing.assert_close(best.weights.sum(-1), torch.ones(400, dtype=D))
    assert w.sample(4).weights is None
    assert "size=4" in repr(F)
    assert "weighted" in repr(w)
    ragged = PCAFrame(3)(x.reshape(-1, 3), batch=torch.arange(400).repeat_interleave(5), n_items=400).sample(2)
    assert ragged.canonicalize(x.reshape(-1, 3)).shape == (2, 2000, 3)
    torch.testing.assert_close(ragged.average(ragged.canonicalize(x.reshape(-1, 3)), "position"), x.reshape(-1, 3), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["position", "vector", "tensor(2)", "pseudovector", "pseudoscalar", "invariant"])
@pytest.mark.parametrize("ragged", [False, True])
def test_fast_ways_equal_the_elements_written_out(kind, ragged):
    """Axes and signs, one after the other, are the same as the ``2^d`` matrices; so is the average in the cheap order."""
    shape = {"tensor(2)": (3, 3), "pseudoscalar": (), "invariant": (4,)}.get(kind, (3,))
    x = torch.randn(2, 5, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    y = torch.randn((2, 5, *shape), dtype=D, generator=torch.Generator().manual_seed(1))
    options = {"batch": torch.arange(2).repeat_interleave(5)} if ragged else {}
    flat = (lambda v: v.flatten(0, 1)) if ragged else (lambda v: v)
    F = PCAFrame(3, "E")(flat(x), **options)
    plain = Frame(F.elements, None, F.info, F.batch)
    same = lambda g, v: v if kind == "invariant" else transform(g, v, kind)  # noqa: E731
    z = F.canonicalize(flat(y), kind)
    torch.testing.assert_close(z, plain.canonicalize(flat(y), kind), atol=1e-12, rtol=0)
    noise = torch.randn(z.shape, dtype=D, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(F.restore(noise, kind), plain.restore(noise, kind), atol=1e-12, rtol=0)
    torch.testing.assert_close(F.average(noise, kind), plain.average(plain.restore(noise, kind)), atol=1e-12, rtol=0)
    if not ragged:
        by_hand = torch.stack([same(inverse(Motion(F.elements.Q[:, k], F.elements.t[:, k])), y) for k in range(8)], 1)
        torch.testing.assert_close(z, by_hand, atol=1e-12, rtol=0)
        called = F.canonicalize(y, lambda g, v: transform(g, v, kind))
        torch.testing.assert_close(called, z.expand_as(called), atol=1e-12, rtol=0)


def test_trees_go_through_a_frame():
    x = torch.randn(2, 5, 3, dtype=D)
    F = PCAFrame(3, "SE")(x)
    data = {"pos": x, "vel": x.cos(), "z": torch.arange(10).reshape(2, 5)}
    types = {"pos": "position", "vel": "vector", "z": "invariant"}
    poses = F.canonicalize(data, types)
    assert {k: tuple(v.shape[:3]) for k, v in poses.items()} == dict.fromkeys(data, (2, 4, 5))
    back = F.average({k: poses[k] for k in ("pos", "vel")}, {"pos": "position", "vel": "vector"})
    torch.testing.assert_close(back["pos"], x)
    torch.testing.assert_close(back["vel"], x.cos())
    live = PCAFrame(3, "SE", detach=False)(x.requires_grad_())
    assert live.elements.Q.requires_grad
    assert not live.detach().elements.Q.requires_grad


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: PermutationFrame(key="degree"), ValueError, "key must be"),
        (lambda: PermutationFrame(tol=-1), ValueError, "tol"),
        (lambda: PermutationFrame(max_size=0), ValueError, "max_size"),
        (lambda: PermutationFrame()(torch.ones(3, 4)), ValueError, r"\(\.\.\., n, n\)"),
        (lambda: PermutationFrame()(torch.triu(torch.ones(3, 3), 1)), ValueError, "symmetric"),
        (lambda: PermutationFrame()(torch.zeros(3, 3), torch.ones(2)), ValueError, "weights must have shape"),
        (lambda: PermutationFrame()(torch.zeros(3, 3), features=torch.ones(2, 1)), ValueError, "features must"),
        (lambda: PermutationFrame(key=lambda A: A.sum())(torch.zeros(3, 3)), ValueError, "key must return"),
        (lambda: PermutationFrame()(torch.zeros(3, 3), batch=torch.zeros(3)), NotImplementedError, "pad"),
        (lambda: PermutationFrame().buckets(torch.zeros(3, 3)), ValueError, "items"),
        (lambda: SortFrame(torch.ones(3)), ValueError, "directions must"),
        (lambda: SortFrame.random(3, 0), ValueError, "count"),
        (lambda: SortFrame(torch.eye(3))(torch.ones(4, 2)), ValueError, "shape"),
        (lambda: SortFrame(torch.eye(3))(torch.ones(4, 3), batch=torch.zeros(4)), NotImplementedError, "pad"),
        (lambda: GroupFrame(Orthogonal(3)), ValueError, "finite group"),
        (lambda: GroupFrame(torch.eye(3)), ValueError, "one batch dimension"),
        (lambda: GroupFrame(Octahedral().matrices()[:5]), ValueError, "not among the 5"),
        (lambda: GroupFrame(torch.eye(2)[None])(torch.ones(3)), ValueError, "shape"),
        (lambda: ProductFrame(PCAFrame(3), 4), TypeError, "second must be"),
        (lambda: ProductFrame(PCAFrame(3), SortFrame(torch.eye(3)))(torch.ones(4, 3), batch=torch.zeros(4)), NotImplementedError, "pad"),
        (lambda: PCAFrame(2)(torch.randn(4, 5, 2)).canonicalize(torch.ones(3, 5, 2)), ValueError, "must begin with"),
        (lambda: PCAFrame(2)(torch.randn(4, 5, 2)).restore(torch.ones(4, 3, 5, 2)), ValueError, "batch and frame"),
        (lambda: PCAFrame(2)(torch.randn(4, 5, 2)).canonicalize(torch.ones(4, 5, 3)), ValueError, "of size 2"),
        (lambda: PCAFrame(2)(torch.randn(4, 5, 2)).canonicalize(torch.ones(4, 5, 2), "spinor"), ValueError, "type must be"),
        (lambda: PCAFrame(2)(torch.randn(4, 5, 2)).sample(0), ValueError, "k must be"),
        (lambda: PCAFrame(2)(torch.randn(4, 5, 2)).select(torch.zeros(3, 1, dtype=torch.int64)), ValueError, "index must"),
        (lambda: PCAFrame(2)(torch.randn(4, 5, 2)).average(torch.ones(4, 4, dtype=torch.int64)), ValueError, "floating"),
        (lambda: PCAFrame(2)(torch.randn(6, 2), batch=torch.arange(6) // 3).canonicalize(torch.ones(2, 2)), ValueError, "per='item'"),
        (
            lambda: PCAFrame(2)(torch.randn(6, 2), batch=torch.arange(6) // 3).average(torch.ones(4, 6), per="row"),
            ValueError,
            "per must be",
        ),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_tie_groups_are_enumerated_once():
    from geocore.frames._permutation import _tie_groups

    for sizes in ((1,), (3,), (2, 1, 2)):
        table = _tie_groups(sizes)
        assert len(as_set(table)) == len(table) == math.prod(math.factorial(s) for s in sizes)
        assert table[0].tolist() == list(range(sum(sizes)))
    assert as_set(_tie_groups((2, 2))) == {a + tuple(i + 2 for i in b) for a, b in itertools.product([(0, 1), (1, 0)], repeat=2)}
