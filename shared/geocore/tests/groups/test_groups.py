"""Groups: axioms, orders, Haar moments, actions, and their errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from geocore import groups
from geocore.groups import (
    Cyclic,
    Dihedral,
    Euclidean,
    Group,
    Icosahedral,
    Motion,
    Octahedral,
    Orthogonal,
    Pair,
    ProductGroup,
    Sign,
    SpecialEuclidean,
    SpecialOrthogonal,
    Symmetric,
    Translation,
    compose,
    grid_action,
    inverse,
    transform,
)
from geocore.structured import Permutation

D = torch.float64
MOTIONS = [Orthogonal(3), SpecialOrthogonal(1), SpecialOrthogonal(4), Euclidean(2), SpecialEuclidean(3, 5.0), Translation(3)]
FINITE = [Sign(3), Sign(2, special=True), Cyclic(5), Dihedral(4), Dihedral(3), Octahedral(), Octahedral(improper=True), Icosahedral()]
PERMUTING = [Symmetric(1), Symmetric(5)]
PRODUCTS = [ProductGroup(Euclidean(3), Symmetric(4)), ProductGroup(ProductGroup(Sign(2), Symmetric(3)), Cyclic(3))]
ALL = [*MOTIONS, *FINITE, *PERMUTING, *PRODUCTS]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(D)
    yield
    torch.set_default_dtype(torch.float32)


def leaves(g):
    if isinstance(g, Pair):
        return [*leaves(g.first), *leaves(g.second)]
    if isinstance(g, Motion):
        return [g.Q, g.Q.new_zeros(g.Q.shape[:-1]) if g.t is None else g.t]
    return [g]


def same(g, h, atol=1e-12):
    for a, b in zip(leaves(g), leaves(h), strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize("G", ALL, ids=repr)
def test_axioms_and_protocol(G):
    assert isinstance(G, Group)
    draw = torch.Generator().manual_seed(0)
    g, h, k = (G.random((7,), draw) for _ in range(3))
    e = G.identity((7,))
    same(G.compose(G.compose(g, h), k), G.compose(g, G.compose(h, k)))
    same(G.compose(g, e), g)
    same(G.compose(e, g), g)
    same(G.compose(g, G.inverse(g)), e)
    same(G.compose(G.inverse(g), g), e)
    assert all(v.shape[0] == 7 for v in leaves(g))
    assert all(v.shape[:2] == (2, 0) for v in leaves(G.random((2, 0), draw)))
    assert G.name == repr(G)


@pytest.mark.parametrize("G", [*FINITE, Symmetric(1), Symmetric(4), ProductGroup(Sign(2), Symmetric(3))], ids=repr)
def test_finite_groups_are_closed_and_of_the_right_order(G):
    orders = {
        "Sign(3)": 8,
        "Sign(2, special=True)": 2,
        "Cyclic(5)": 5,
        "Dihedral(4)": 8,
        "Dihedral(3)": 6,
        "Octahedral()": 24,
        "Octahedral(improper=True)": 48,
        "Icosahedral()": 60,
        "Symmetric(1)": 1,
        "Symmetric(4)": 24,
        "ProductGroup(Sign(2), Symmetric(3))": 24,
    }
    assert G.is_finite
    flat = torch.cat([v.flatten(1).double() for v in leaves(G.elements())], -1)
    assert len(flat) == orders[repr(G)]
    assert (torch.cdist(flat, flat) + 9 * torch.eye(len(flat))).min() > 0.1  # all different
    all_of = G.elements()
    index = torch.arange(len(flat))

    def pick(g, i):
        if isinstance(g, Pair):
            return Pair(pick(g.first, i), pick(g.second, i))
        return Motion(g.Q[i]) if isinstance(g, Motion) else g[i]

    products = G.compose(pick(all_of, index.repeat_interleave(len(flat))), pick(all_of, index.repeat(len(flat))))
    flat_products = torch.cat([v.flatten(1).double() for v in leaves(products)], -1)
    assert torch.cdist(flat_products, flat, p=torch.inf).amin(-1).max() <= 1e-14
    same(pick(all_of, 0), G.identity())


@pytest.mark.parametrize(("G", "name"), [(Octahedral(), "O"), (Icosahedral(), "I")])
def test_polyhedral_groups_are_those_of_scipy(G, name):
    theirs = torch.from_numpy(Rotation.create_group(name).as_matrix())
    assert (theirs[:, None] - G.matrices()).abs().amax((-1, -2)).amin(-1).max() < 1e-14
    assert torch.equal(G.index(Motion(G.matrices())), torch.arange(G.order))


@pytest.mark.parametrize(("G", "trace_of_square"), [(Orthogonal(3), 1.0), (SpecialOrthogonal(3), 1.0), (SpecialOrthogonal(2), 0.0)])
def test_haar_moments(G, trace_of_square):
    """E[Q] = 0; E[tr Q^2] is the Frobenius-Schur indicator of the vector representation: 1, but 0 for SO(2), where it splits."""
    n = 40_000
    Q = G.random((n,), torch.Generator().manual_seed(3)).Q
    assert Q.mean(0).abs().max() < 5 / math.sqrt(n)
    square = (Q @ Q).diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(square.mean() - trace_of_square) < 5 * square.std() / math.sqrt(n)
    det = torch.linalg.det(Q)
    assert det.mean().abs() < 5 / math.sqrt(n) if G.name == "Orthogonal(3)" else torch.allclose(det, torch.ones(n))


def test_translations_have_the_given_scale_and_random_is_reproducible():
    G = SpecialEuclidean(2, scale=3.0)
    g = G.random((20_000,), torch.Generator().manual_seed(1))
    assert abs(g.t.std() - 3.0) < 0.1
    same(g, G.random((20_000,), torch.Generator().manual_seed(1)), atol=0)
    assert G.random(2, dtype=torch.float32).Q.dtype == torch.float32
    assert torch.equal(Translation(2).random().Q, torch.eye(2))


def test_symmetric_group_parity_order_and_uniformity():
    S = Symmetric(4)
    p = S.elements()
    assert torch.equal(S.parity(p), torch.tensor([Permutation(q).sign() for q in p]))
    assert torch.equal(S.parity(compose(p[:, None], p)), S.parity(p)[:, None] * S.parity(p))
    draws = S.random((24_000,), torch.Generator().manual_seed(0)) @ torch.tensor([64, 16, 4, 1])
    counts = draws.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)
    x = torch.randn(4, 2)
    assert torch.equal(transform(p[7], x, "node", invert=True), Permutation(p[7])(x, dim=0))


# --- actions ---

SHAPES = {
    "invariant": (4,),
    "vector": (3,),
    "position": (3,),
    "tensor(0)": (),
    "tensor(1)": (3,),
    "tensor(2)": (3, 3),
    "tensor(3)": (3, 3, 3),
    "pseudovector": (3,),
    "pseudoscalar": (),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("batch", "extra"), [((), ()), ((), (5,)), ((2,), ()), ((2, 3), (5,)), ((2,), (5, 2)), ((0,), (4,))])
def test_motions_act_as_a_homomorphism(kind, batch, extra):
    draw = torch.Generator().manual_seed(4)
    G = Euclidean(3)
    g, h = G.random(batch, draw), G.random(batch, draw)
    x = torch.randn((*batch, *extra, *SHAPES[kind]), generator=draw)
    one = transform(g, transform(h, x, kind), kind)
    torch.testing.assert_close(one, transform(compose(g, h), x, kind), atol=1e-12, rtol=0)
    torch.testing.assert_close(transform(g, transform(g, x, kind), kind, invert=True), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(transform(inverse(g), x, kind), transform(g, x, kind, invert=True), atol=1e-12, rtol=0)
    assert transform(g, x.float(), kind).dtype == torch.float32


def test_motions_act_by_their_formulas():
    g = Orthogonal(3).random((6,), torch.Generator().manual_seed(0))
    g = Motion(g.Q, torch.randn(6, 3))
    det = torch.linalg.det(g.Q)
    assert det.min() < 0 < det.max()
    v, T, s = torch.randn(6, 3), torch.randn(6, 3, 3), torch.randn(6)
    torch.testing.assert_close(transform(g, v, "vector"), torch.einsum("bij,bj->bi", g.Q, v))
    torch.testing.assert_close(transform(g, v, "position"), torch.einsum("bij,bj->bi", g.Q, v) + g.t)
    torch.testing.assert_close(transform(g, T, "tensor(2)"), g.Q @ T @ g.Q.mT)
    torch.testing.assert_close(transform(g, s, "pseudoscalar"), det * s)
    cross = torch.linalg.cross(transform(g, v, "vector"), transform(g, T[:, 0], "vector"))
    torch.testing.assert_close(transform(g, torch.linalg.cross(v, T[:, 0]), "pseudovector"), cross)


@pytest.mark.parametrize(
    ("kind", "shape"), [("node", (5, 2)), ("node(0)", (5,)), ("node(2)", (5, 2, 3)), ("edge", (5, 5)), ("edge(1)", (5, 5, 2))]
)
@pytest.mark.parametrize(("batch", "extra"), [((), ()), ((2,), ()), ((2, 3), (4,))])
def test_permutations_act_as_a_homomorphism(kind, shape, batch, extra):
    draw = torch.Generator().manual_seed(4)
    S = Symmetric(5)
    g, h = S.random(batch, draw), S.random(batch, draw)
    x = torch.randn(*batch, *extra, *shape, generator=draw)
    moved = transform(g, x, kind)
    assert torch.equal(transform(g, transform(h, x, kind), kind), transform(compose(g, h), x, kind))
    assert torch.equal(transform(g, moved, kind, invert=True), x)
    if not batch:  # row i goes to row g[i]
        for i in range(5):
            assert torch.equal(
                moved[int(g[i])] if kind.startswith("node") else moved[int(g[i]), int(g[0])], x[i] if "node" in kind else x[i, 0]
            )
    labels = torch.arange(5).expand(*batch, 5)
    assert torch.equal(transform(g, labels, "node(0)"), inverse(g))


def test_elements_broadcast_over_data_and_data_over_elements():
    Q = Octahedral().matrices()
    x = torch.randn(1, 7, 3)
    torch.testing.assert_close(transform(Motion(Q), x, "vector"), torch.stack([x[0] @ q.T for q in Q]))
    torch.testing.assert_close(transform(Motion(Q[:, None]), torch.randn(1, 2, 3), "vector").shape, torch.Size([24, 2, 3]))
    p = Symmetric(3).elements()
    assert transform(p, torch.randn(1, 3, 2), "node").shape == (6, 3, 2)
    assert transform(p, torch.randn(1, 4), "invariant").shape == (6, 4)


def test_trees_functions_and_integers():
    g = Euclidean(3).random((), torch.Generator().manual_seed(1))
    data = {"pos": torch.randn(4, 3), "z": torch.arange(4), "more": [torch.randn(4, 3), "name", None], "cell": torch.randn(3, 3)}
    types = {"pos": "position", "z": "invariant", "more": ["vector", None, None], "cell": lambda g, x: 2 * x}
    out = transform(g, data, types)
    assert torch.equal(out["pos"], transform(g, data["pos"], "position"))
    assert torch.equal(out["more"][0], transform(g, data["more"][0], "vector"))
    assert out["z"] is not None
    assert torch.equal(out["z"], data["z"])
    assert out["more"][1:] == ["name", None]
    assert torch.equal(out["cell"], 2 * data["cell"])
    assert torch.equal(transform(g, (data["pos"], data["z"]), "vector")[1], data["z"])
    assert torch.equal(transform((g.Q, g.t), data["pos"], "position"), out["pos"])
    assert torch.equal(transform(g.Q, data["pos"], "vector"), transform(g, data["pos"], "vector"))


def test_half_precision_is_computed_in_float32_and_inversion_does_not_cancel():
    g = SpecialEuclidean(3).random((), torch.Generator().manual_seed(0))
    x = torch.randn(50, 3)
    for dtype in (torch.float16, torch.bfloat16):
        got = transform(g, x.to(dtype), "position")
        assert got.dtype == dtype
        assert torch.equal(got, transform(g, x.to(dtype).float(), "position").to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        inside = transform(g, x.float(), "position")
    assert torch.equal(inside, transform(g, x.float(), "position"))
    far = Motion(g.Q.float(), torch.full((3,), 1e5))
    y = torch.full((3,), 1e5) + torch.tensor([0.25, 0.5, -0.125])
    torch.testing.assert_close(transform(far, y.float(), "position", invert=True).double(), (y - 1e5) @ g.Q, atol=1e-6, rtol=0)


def test_products_act_with_both_factors():
    G = ProductGroup(Euclidean(3), Symmetric(5))
    draw = torch.Generator().manual_seed(2)
    g, h = G.random((2,), draw), G.random((2,), draw)
    x = torch.randn(2, 4, 5, 3)
    torch.testing.assert_close(
        G.action(g, G.action(h, x, "position*node"), "position*node"), G.action(G.compose(g, h), x, "position*node"), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(G.action(g, x, "vector*invariant"), transform(g.first, x, "vector"))
    assert torch.equal(G.action(g, x, "invariant"), x)
    nested = ProductGroup(G, Symmetric(4))
    k = nested.random((), draw)
    assert nested.action(k, x[0], "position*node*node(2)").shape == (4, 5, 3)


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 5), n=st.integers(0, 6), seed=st.integers(0, 2**31), kind=st.sampled_from(["vector", "position", "pseudovector"]))
def test_distances_survive_any_motion(d, n, seed, kind):
    draw = torch.Generator().manual_seed(seed)
    g = Euclidean(d).random((), draw, dtype=D)
    x = torch.randn(n, d, generator=draw, dtype=D)
    y = transform(g, x, kind)
    torch.testing.assert_close((y[:, None] - y).norm(dim=-1), (x[:, None] - x).norm(dim=-1), atol=1e-12, rtol=0)


# --- images ---


def test_right_angles_are_exact_on_images():
    x = torch.randn(2, 3, 5, 5)
    Q = Dihedral(4).elements().Q
    for k in range(4):
        assert torch.equal(grid_action(Motion(Q[k]), x), torch.rot90(x, k, (-2, -1)))
        assert torch.equal(grid_action(Motion(Q[4 + k]), x), torch.rot90(x.flip(-2), k, (-2, -1)))
    even = torch.randn(8, 4, 4)
    assert torch.equal(grid_action(Motion(Q), even)[1], torch.rot90(even[1]))
    torch.testing.assert_close(transform(Motion(Q[1]), x, grid_action), torch.rot90(x, 1, (-2, -1)))
    wide = torch.randn(3, 7)
    assert torch.equal(grid_action(Motion(Q[2]), wide), wide.flip(-1, -2))


def test_other_angles_are_interpolated():
    y, x = torch.meshgrid(*(torch.linspace(-2, 2, 41),) * 2, indexing="ij")
    blob = lambda a, b: torch.exp(-3 * ((x - a) ** 2 + (-y - b) ** 2))  # noqa: E731
    g = Motion(Cyclic(12).elements().Q[1])
    got = grid_action(g, blob(0.5, 0.0))
    # Bilinear interpolation errs by h^2 / 8 times the sum of second derivatives: 0.1^2 / 8 * (6 + 6).
    torch.testing.assert_close(got, blob(0.5 * math.cos(math.pi / 6), 0.5 * math.sin(math.pi / 6)), atol=0.015, rtol=0)
    assert not torch.equal(got, blob(0.5, 0.0))


# --- composition with torch ---


def test_actions_differentiate_batch_and_compile():
    g = Euclidean(3).random((4,), torch.Generator().manual_seed(0))
    x = torch.randn(4, 5, 3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda Q, t, x: transform(Motion(Q, t), x, "position"), (g.Q.requires_grad_(), g.t.requires_grad_(), x))
    g = Motion(g.Q.detach(), g.t.detach())
    T = torch.randn(4, 5, 3, 3)
    assert torch.allclose(torch.vmap(lambda Q, T: transform(Motion(Q), T, "tensor(2)"))(g.Q, T), transform(g, T, "tensor(2)"))
    fn = torch.compile(lambda T: transform(g, T, "tensor(2)"), fullgraph=True, dynamic=True, backend="aot_eager")
    assert torch.allclose(fn(T), transform(g, T, "tensor(2)"))


# --- errors ---


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: transform(Motion(torch.eye(3)), torch.ones(3), "vektor"), ValueError, "invariant, vector, position, tensor"),
        (lambda: transform(Motion(torch.eye(3)), torch.ones(3), "tensor"), ValueError, "type must be"),
        (lambda: transform(Motion(torch.eye(3)), torch.ones(3), "vector(2)"), ValueError, "type must be"),
        (lambda: transform(Motion(torch.eye(3)), torch.ones(3), 7), TypeError, "a name or a function"),
        (lambda: transform(Motion(torch.eye(3)), torch.ones(5, 4), "vector"), ValueError, r"of size 3.*\(5, 4\)"),
        (lambda: transform(Motion(torch.eye(3)), torch.ones(3), "tensor\x282)"), ValueError, "2 more"),
        (lambda: transform(Motion(torch.eye(3)), torch.ones(3, dtype=torch.int64), "vector"), TypeError, "floating-point"),
        (lambda: transform(Motion(torch.eye(3)), torch.ones(3, 1), "node"), ValueError, "by permutations"),
        (lambda: transform(torch.arange(3), torch.ones(3), "vector"), ValueError, "by motions"),
        (lambda: transform(torch.arange(3), torch.ones(4, 2), "node"), ValueError, "of size 3"),
        (lambda: transform(Motion(torch.eye(3).expand(2, 3, 3)), torch.ones(4, 3), "vector"), ValueError, "must begin with the batch"),
        (lambda: transform(Motion(torch.eye(3).expand(2, 3, 3)), torch.ones(3), "vector"), ValueError, "batch dimensions"),
        (lambda: transform(Pair(torch.eye(3), torch.arange(2)), torch.ones(2, 3), "vector"), ValueError, r"position\*node"),
        (lambda: transform(Motion(torch.eye(3)), {"a": torch.ones(3)}, {"b": "vector"}), ValueError, "structure of the data"),
        (lambda: transform(Motion(torch.eye(3)), [torch.ones(3)], ["vector", "vector"]), ValueError, "structure of the data"),
        (lambda: transform(Motion(torch.eye(3)), torch.ones(3), ["vector"]), ValueError, "structure of the data"),
        (lambda: transform("g", torch.ones(3), "vector"), TypeError, "g must be a Motion"),
        (lambda: transform(Motion(torch.ones(3, 2)), torch.ones(3), "vector"), ValueError, "square"),
        (lambda: inverse(Motion(torch.eye(3), torch.ones(2))), ValueError, "t must have shape"),
        (lambda: inverse(Motion(torch.eye(3), torch.ones(4, 3))), ValueError, "t must have shape"),
        (lambda: compose(torch.arange(3), torch.arange(4)), ValueError, "same number"),
        (lambda: compose(Motion(torch.eye(3)), Motion(torch.eye(2))), ValueError, "same dimension"),
        (lambda: compose(Motion(torch.eye(3)), torch.arange(3)), TypeError, "of one kind"),
        (lambda: Orthogonal(0), ValueError, "d must be at least 1"),
        (lambda: Euclidean(2, scale=-1.0), ValueError, "scale"),
        (lambda: Orthogonal(2).elements(), ValueError, "infinitely many"),
        (lambda: Orthogonal(2).random(dtype=torch.int64), TypeError, "floating-point"),
        (lambda: Sign(17), ValueError, "at most 16"),
        (lambda: Symmetric(9).elements(), ValueError, "362880"),
        (lambda: Symmetric(3).parity(torch.arange(4)), ValueError, "shape"),
        (lambda: Symmetric(3).parity(torch.ones(3)), TypeError, "integer"),
        (lambda: Octahedral().index(Motion(SpecialOrthogonal(3).random((), torch.Generator().manual_seed(0)).Q)), ValueError, "away from"),
        (lambda: ProductGroup(Orthogonal(3), 3), TypeError, "second must be a Group"),
        (lambda: grid_action(Motion(torch.eye(3)), torch.ones(3, 3)), ValueError, "of the plane"),
        (lambda: grid_action(Motion(Cyclic(4).elements().Q[1]), torch.ones(3, 5)), ValueError, "square"),
        (lambda: grid_action(Motion(Cyclic(4).elements().Q), torch.ones(3, 5, 5)), ValueError, "shape"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_every_type_is_listed_and_parsed():
    for name in groups.TYPES:
        assert groups._types.parse_type(name.replace("k", "2") if "(" in name else name)
