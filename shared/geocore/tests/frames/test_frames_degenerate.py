"""Inputs that have more symmetry than principal axes can see: every policy, the weighted frame's answer, and its continuity."""

import math
import warnings

import pytest
import torch

from geocore import son
from geocore.frames import DegenerateFrameError, FrameTooLargeError, MinimalFrame, PCAFrame, WeightedFrame
from geocore.groups import Euclidean, Motion, Octahedral, Orthogonal, SpecialEuclidean, SpecialOrthogonal, transform
from geocore.testing import equivariance_error

D = torch.float64
CUBE = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=D)] * 3)
_draw = torch.Generator().manual_seed(5)
W, U = torch.randn(2, 3, 16, dtype=D, generator=_draw)
V = torch.randn(16, 9, dtype=D, generator=_draw)
GENERIC = torch.randn(8, 3, dtype=D, generator=_draw)
LINE = torch.randn(8, 1, dtype=D, generator=_draw) * torch.tensor([1.0, 2.0, -1.0], dtype=D) + 1
PLANE = GENERIC * torch.tensor([1.0, 1.0, 0.0], dtype=D) @ son.haar(3, generator=_draw, dtype=D)


def fn(z):
    return (torch.cos(z @ W + 0.3) * (1 + z @ U)).sum(-2) @ V[:, :1]


def vector_fn(z):
    return (torch.cos(z @ W + 0.3) * (1 + z @ U)).sum(-2) @ V[:, :3]


def averaged(frame, f=fn, kind="invariant", **options):
    def g(x):
        F = frame(x, **options)
        return F.average(f(F.canonicalize(x)), kind)

    return g


def test_the_cube_defeats_principal_axes_and_not_the_weighted_frame():
    pca = equivariance_error(averaged(PCAFrame(3, degenerate="ignore")), CUBE, Orthogonal(3), "vector")
    assert pca > 0.1
    assert equivariance_error(averaged(WeightedFrame(3, "O")), CUBE, Orthogonal(3), "vector") < 1e-13
    assert equivariance_error(averaged(PCAFrame(3, degenerate="weighted")), CUBE, Orthogonal(3), "vector") < 1e-13
    near = CUBE * torch.tensor([1.0, 1.0, 1 + 1e-9], dtype=D)  # not exactly equal is no better
    assert equivariance_error(averaged(PCAFrame(3, degenerate="ignore")), near, Orthogonal(3), "vector") > 1e-9


def test_the_weighted_frame_is_continuous_across_the_degeneracy_and_principal_axes_are_not():
    step = 1e-5
    a, b = CUBE + step * torch.randn(2, 8, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    distance = (a - b).norm()

    def ratio(frame):
        f = averaged(frame)
        return ((f(a) - f(b)).norm() / (f(CUBE).norm() * distance)).item()

    assert ratio(WeightedFrame(3, "O")) < 10
    assert ratio(PCAFrame(3, degenerate="ignore")) > 1e3


@pytest.mark.parametrize("group", ["O", "SO", "E", "SE"])
def test_weights_are_volumes(group):
    F = WeightedFrame(3, group)(CUBE)
    signs = 1 if group.startswith("S") else 2
    assert F.size == 8 * 7 * signs
    assert int((F.weights > 1e-12).sum()) == 8 * 6 * signs  # a corner and its opposite span nothing
    torch.testing.assert_close(F.weights.sum(-1), torch.tensor(1.0, dtype=D))
    Q = F.elements.Q
    torch.testing.assert_close(Q.mT @ Q, torch.eye(3, dtype=D).expand_as(Q), atol=1e-12, rtol=0)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_weighted_frame_sizes_in_other_dimensions(d):
    x = torch.randn(5, d, dtype=D)
    F = WeightedFrame(d, "SO")(x)
    assert F.size == math.perm(5, d - 1)
    if d == 2:
        y = x - x.mean(0)
        torch.testing.assert_close(F.weights, y.square().sum(-1) / y.square().sum())
        torch.testing.assert_close(F.elements.Q[..., 0], y / y.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("group", ["SO", "O"])
def test_sampling_is_unbiased(group):
    """The mean over 1e5 draws within 4 standard errors of the whole weighted average."""
    frame = WeightedFrame(3, group)
    F = frame(GENERIC)
    values = fn(F.canonicalize(GENERIC))[:, 0]
    exact = (F.weights * values).sum()
    spread = ((F.weights * values.square()).sum() - exact**2).sqrt()
    n = 100_000
    sampled = F.sample(n, torch.Generator().manual_seed(0))
    assert sampled.weights is None
    assert abs(fn(sampled.canonicalize(GENERIC)).mean() - exact) < 4 * spread / math.sqrt(n)
    inside = WeightedFrame(3, group, n_samples=n)(GENERIC, generator=torch.Generator().manual_seed(1))
    assert inside.size == n
    assert abs(fn(inside.canonicalize(GENERIC)).mean() - exact) < 4 * spread / math.sqrt(n)


def test_truncation_reports_its_tail_and_stays_equivariant_at_ties():
    frame = WeightedFrame(3, "SO", top_k=10)
    F, whole = frame(GENERIC), WeightedFrame(3, "SO")(GENERIC)
    assert F.size == 10
    best = whole.weights.sort(descending=True).values
    torch.testing.assert_close(F.info.tail, 1 - best[:10].sum())
    torch.testing.assert_close(F.weights, (best[:10] - best[10]) / (best[:10] - best[10]).sum())
    assert not F.info.degenerate
    assert equivariance_error(averaged(frame), GENERIC, SpecialOrthogonal(3), "vector") < 1e-12
    # twelve pairs share the largest weight: a cut through them is a matter of rounding, and is flagged
    box = CUBE * torch.tensor([1.0, 1.0, 1.5], dtype=D)
    assert WeightedFrame(3, "SO", top_k=3)(box).info.degenerate
    fits = WeightedFrame(3, "SO", top_k=1000)(GENERIC)
    assert fits.info.tail == 0
    torch.testing.assert_close(fits.weights.sort().values, whole.weights.sort().values)


@pytest.mark.parametrize("group", ["O", "SO"])
def test_collinear_points_are_flagged_and_right_in_the_mean(group):
    frame = WeightedFrame(3, group)
    F = frame(LINE, generator=torch.Generator().manual_seed(0))
    assert F.info.degenerate
    assert F.info.rank == 1
    y = LINE - LINE.mean(0)
    torch.testing.assert_close(F.elements.Q[..., 0].abs(), (y[0] / y[0].norm()).abs().expand(F.size, 3), atol=1e-6, rtol=0)
    # invariant averages only see the line, on which every element agrees
    G = WeightedFrame(3, group, tol=1e-6)
    report = equivariance_error(averaged(G), LINE - LINE.mean(0), Orthogonal(3) if group == "O" else SpecialOrthogonal(3), "vector")
    assert report < 1e-6
    one_place = frame(torch.ones(4, 3, dtype=D))
    assert one_place.info.degenerate
    assert one_place.info.rank == 0
    assert torch.isfinite(one_place.elements.Q).all()
    assert frame(torch.ones(1, 3, dtype=D)).size == F.size // 28  # one point, completed to a pair


def test_planar_points_leave_nothing_open():
    """One zero eigenvalue is no degeneracy: both signs of the null axis for O, its orientation for SO."""
    for frame, group in (
        (PCAFrame(3, "E", degenerate="raise"), Euclidean(3)),
        (PCAFrame(3, "SE", degenerate="raise"), SpecialEuclidean(3)),
    ):
        assert frame(PLANE).info.rank == 2
        assert equivariance_error(averaged(frame, vector_fn, "vector"), PLANE, group, "position", "vector") < 1e-12
    assert not MinimalFrame("SO", 3)(PLANE).info.degenerate
    assert (
        equivariance_error(averaged(MinimalFrame("SE", 3), vector_fn, "vector"), PLANE, SpecialEuclidean(3), "position", "vector") < 1e-12
    )
    minimal = MinimalFrame("O", 3)
    assert minimal(PLANE).info.degenerate
    assert equivariance_error(averaged(minimal), PLANE, Orthogonal(3), "vector") < 1e-12  # invariant outputs all the same


def test_lines_are_flagged_though_invariants_and_vectors_are_exact():
    frame = PCAFrame(3, "SE", degenerate="ignore")
    assert frame(LINE).info.degenerate
    assert frame(LINE).info.rank == 1
    assert equivariance_error(averaged(frame), LINE, SpecialEuclidean(3), "position") < 1e-6
    assert equivariance_error(averaged(frame, vector_fn, "vector"), LINE, SpecialEuclidean(3), "position", "vector") < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("group", ["O", "SE"])
def test_points_in_one_place_have_the_identity(dtype, group):
    frame = PCAFrame(3, group, degenerate="ignore")
    for x, w in (
        (torch.full((1, 3), 3.3, dtype=dtype), None),
        (torch.full((7, 3), 3.3, dtype=dtype), None),
        (torch.randn(5, 3, dtype=dtype), torch.zeros(5)),
    ):
        F = frame(x, w)
        assert torch.equal(F.elements.Q[0], torch.eye(3, dtype=dtype))
        assert F.info.degenerate
        assert F.info.rank == 0
        assert F.info.gap == 0
        assert torch.isfinite(F.canonicalize(x)).all()


# --- policies ---


def test_warning_comes_once_with_the_share():
    frame = PCAFrame(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame(GENERIC)
    both = torch.stack([CUBE, GENERIC, GENERIC, GENERIC])
    with pytest.warns(UserWarning, match=r"25\.0% of the inputs"):
        frame(both)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame(both)
        PCAFrame(3, degenerate="ignore")(both)
        PCAFrame(3)(both[:0])


def test_raise_tells_which():
    frame = PCAFrame(3, degenerate="raise")
    batch = torch.stack([GENERIC, CUBE, GENERIC, CUBE]).reshape(2, 2, 8, 3)
    with pytest.raises(DegenerateFrameError, match="2 of 4 items, at positions 1, 3") as caught:
        frame(batch)
    assert caught.value.indices.tolist() == [1, 3]
    assert isinstance(caught.value, ValueError)
    frame(batch[:, 0])
    with pytest.raises(DegenerateFrameError, match="no derivative"):
        PCAFrame(3, degenerate="ignore", detach=False)(batch)


def test_average_samples_the_eigenspaces():
    """Elements stay in the eigenspaces, an axis that is alone stays, and the average is right in the mean."""
    box = CUBE * torch.tensor([1.0, 1.0, 2.0], dtype=D)
    F = PCAFrame(3, "O", degenerate="average")(torch.stack([box, GENERIC]), generator=torch.Generator().manual_seed(0))
    Q = F.elements.Q
    torch.testing.assert_close(Q.mT @ Q, torch.eye(3, dtype=D).expand_as(Q), atol=1e-12, rtol=0)
    torch.testing.assert_close(Q[0, :, :, 0].abs(), torch.tensor([0.0, 0, 1], dtype=D).expand(8, 3), atol=1e-12, rtol=0)
    assert (Q[0, 0, :2, 1] - Q[0, 3, :2, 1]).abs().min() > 0
    plain = PCAFrame(3, "O", degenerate="ignore")(GENERIC)
    torch.testing.assert_close(Q[1], plain.elements.Q, atol=1e-12, rtol=0)
    assert torch.linalg.det(PCAFrame(3, "SO", degenerate="average")(CUBE).elements.Q).min() > 0.99
    turned = box @ son.haar(3, generator=torch.Generator().manual_seed(7), dtype=D)
    frame, n = PCAFrame(3, "O", degenerate="average"), 4000

    def mean(x):
        many = averaged(frame, generator=torch.Generator().manual_seed(1))(x.expand(n, 8, 3))
        return many.mean(), many.std() / math.sqrt(n)

    (a, s), (b, r) = mean(box), mean(turned)
    assert abs(a - b) < 4 * math.hypot(s, r)
    arbitrary = averaged(PCAFrame(3, degenerate="ignore"))
    assert abs(arbitrary(box) - arbitrary(turned)) > 8 * math.hypot(s, r)


@pytest.mark.parametrize("ragged", [False, True])
def test_weighted_policy_pads_only_when_it_must(ragged):
    frame = PCAFrame(3, "SE", degenerate="weighted")
    both = torch.stack([GENERIC, CUBE])
    options = {"batch": torch.arange(2).repeat_interleave(8)} if ragged else {}
    flat = both.reshape(-1, 3) if ragged else both
    F = frame(flat, **options)
    assert F.size == 56
    assert F.sizes.tolist() == [4, int((WeightedFrame(3, "SE")(CUBE).weights > 0).sum())]
    assert F.info.degenerate.tolist() == [False, True]
    torch.testing.assert_close(F.weights.sum(-1), torch.ones(2, dtype=D))
    torch.testing.assert_close(F.elements.Q[0, :4], frame(GENERIC).elements.Q)
    assert torch.equal(F.elements.Q[0, 4:], F.elements.Q[0, :1].expand(52, 3, 3))
    torch.testing.assert_close(F.elements.Q[1], WeightedFrame(3, "SE")(CUBE).elements.Q)
    assert frame(GENERIC).size == 4
    bounded = PCAFrame(3, "SE", degenerate="weighted", weighted=WeightedFrame(3, "SE", n_samples=6))
    assert bounded(both).size == 6
    f = averaged(frame)
    for g in (Motion(Q) for Q in SpecialOrthogonal(3).random((3,), torch.Generator().manual_seed(0), dtype=D).Q):
        torch.testing.assert_close(f(transform(g, both, "vector")), f(both), atol=1e-11, rtol=0)


def test_octahedral_symmetry_is_what_the_cube_has():
    """The stabiliser acts trivially, so the invariant average over it is the function itself."""
    for Q in Octahedral().matrices():
        gap = (CUBE @ Q.T)[:, None] - CUBE
        assert gap.abs().amax(-1).amin(-1).max() == 0


# --- errors ---


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: PCAFrame(3, "U"), ValueError, "group must be one of"),
        (lambda: PCAFrame(3, order="up"), ValueError, "order must be one of"),
        (lambda: PCAFrame(3, degenerate="hope"), ValueError, "degenerate must be one of"),
        (lambda: PCAFrame(0), ValueError, "dim must be at least 1"),
        (lambda: PCAFrame(3, tol=-1.0), ValueError, "tol"),
        (lambda: PCAFrame(20, "SO"), FrameTooLargeError, "524288"),
        (lambda: PCAFrame(3, "O", weighted=WeightedFrame(3, "SO")), ValueError, "weighted must be a frame for"),
        (lambda: PCAFrame(3)(torch.ones(5, 2)), ValueError, r"shape \(\.\.\., n, 3\), got \(5, 2\)"),
        (lambda: PCAFrame(3)(torch.ones(3)), ValueError, "shape"),
        (lambda: PCAFrame(3)(torch.ones(2, 0, 3)), ValueError, "n = 0"),
        (lambda: PCAFrame(3)(torch.ones(5, 3, dtype=torch.int64)), TypeError, "floating-point"),
        (lambda: PCAFrame(3)(torch.ones(2, 5, 3), torch.ones(2, 4)), ValueError, "weights must have shape"),
        (lambda: PCAFrame(3)(torch.ones(2, 5, 3), torch.ones(2, 1)), ValueError, "weights must have shape"),
        (lambda: PCAFrame(3)(torch.ones(5, 3), batch=torch.zeros(4, dtype=torch.int64)), ValueError, "batch must have shape"),
        (lambda: PCAFrame(3)(torch.ones(2, 5, 3), batch=torch.zeros(5, dtype=torch.int64)), ValueError, "batch must have shape"),
        (lambda: PCAFrame(3)(torch.ones(5, 3), batch=torch.zeros(5)), TypeError, "int64"),
        (lambda: PCAFrame(3)(torch.ones(5, 3), n_items=2), ValueError, "n_items"),
        (lambda: PCAFrame(3)(torch.tensor([1.0, float("nan"), 1.0]).reshape(1, 3).expand(4, 3)), ValueError, "x must be finite"),
        (lambda: PCAFrame(3)(1e30 * torch.randn(3000, 4, 3)), ValueError, "x must be finite"),
        (lambda: WeightedFrame(3)(torch.full((4, 3), float("inf"))), ValueError, "x must be finite"),
        (lambda: MinimalFrame("O", 3)(torch.full((4, 3), float("inf"))), ValueError, "x must be finite"),
        (lambda: WeightedFrame(3, power=0), ValueError, "power"),
        (lambda: WeightedFrame(3, top_k=0), ValueError, "top_k"),
        (lambda: WeightedFrame(3, top_k=3, n_samples=3), ValueError, "exclude"),
        (lambda: WeightedFrame(4)(torch.ones(200, 4)), FrameTooLargeError, "7880400"),
        (lambda: MinimalFrame("GL", 3), ValueError, "group must be one of"),
        (lambda: MinimalFrame("O", 3, tol=-1.0), ValueError, "tol"),
        (lambda: MinimalFrame("O", 3, degenerate="raise")(torch.ones(4, 3)), DegenerateFrameError, "too few"),
        (lambda: MinimalFrame("O", 3)(torch.ones(4, 2)), ValueError, "shape"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match) as caught:
        call()
    if isinstance(caught.value, FrameTooLargeError):
        assert str(caught.value.size) in str(caught.value)


def test_minimal_frame_warns_once():
    frame = MinimalFrame("O", 3, degenerate="warn")
    frame(GENERIC)
    with pytest.warns(UserWarning, match="too few dimensions"):
        frame(PLANE)
    frame(PLANE)
