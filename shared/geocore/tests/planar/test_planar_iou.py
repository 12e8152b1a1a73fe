"""Overlap of oriented boxes against shapely, in every regime where other implementations fail."""

from math import pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapely import Polygon

from geocore import planar

TOL = {torch.float32: 5e-6, torch.float64: 1e-12}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def boxes(n, size=100.0, seed=0):
    """Random boxes whose coordinates float32 holds exactly, as float64."""
    r = torch.rand(n, 5, generator=generator(seed), dtype=torch.float64)
    low = torch.tensor([0, 0, 0.01, 0.01, -3.0], dtype=torch.float64)
    high = torch.tensor([1, 1, 0.41, 0.41, 3.0], dtype=torch.float64)
    b = low + r * (high - low)
    b[:, :4] *= size
    return b.float().double()


def shapely_iou(a, b):
    out = []
    for p, q in zip(planar.obb_to_corners(a.double()), planar.obb_to_corners(b.double()), strict=True):
        p, q = Polygon(p.numpy()), Polygon(q.numpy())
        shared = p.intersection(q).area
        out.append(shared / (p.area + q.area - shared))
    return torch.tensor(out, dtype=torch.float64)


def noisy(a, sigma):
    return (a + sigma * torch.randn(a.shape, generator=generator(9), dtype=a.dtype)).float().double()


def whole_numbers(n):
    b = torch.randint(0, 12, (n, 5), generator=generator()).double()
    b[:, 2:4] += 1
    b[:, 4] = torch.randint(0, 8, (n,), generator=generator(1)) * pi / 4
    return b.float().double()


def swapped(a):
    return torch.cat([a[:, :2], a[:, 3:4], a[:, 2:3], a[:, 4:] + pi / 2], 1).float().double()


REGIMES = {
    "random, 100 px": lambda n: (boxes(n), boxes(n, seed=1)),
    "random, unit square": lambda n: (boxes(n, 1.0), boxes(n, 1.0, seed=1)),
    "coordinates of 0.01": lambda n: (boxes(n, 0.01), boxes(n, 0.01, seed=1)),
    "whole numbers, multiples of 45 degrees": lambda n: (whole_numbers(n), whole_numbers(n).flip(0)),
    "nearly the same, 1e-6 px": lambda n: (boxes(n), noisy(boxes(n), 1e-6)),
    "nearly the same, 1e-7 px": lambda n: (boxes(n), noisy(boxes(n), 1e-7)),
    "the same with sides swapped": lambda n: (boxes(n), swapped(boxes(n))),
}


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("regime", REGIMES)
def test_agrees_with_shapely(regime, dtype):
    a, b = REGIMES[regime](1000)
    found = planar.obb_iou(a.to(dtype), b.to(dtype)).double()
    assert (found - shapely_iou(a, b)).abs().max() < TOL[dtype]


@pytest.mark.parametrize("dtype", TOL)
def test_far_from_the_origin_nothing_is_lost(dtype):
    """Coordinates of a map: the boxes are the same up to a shift that the dtype holds exactly."""
    a, b = (torch.round(boxes(500, seed=s) * 64) / 64 for s in (0, 1))
    shift = torch.tensor([8192.0, 4096.0, 0, 0, 0], dtype=torch.float64)
    near = planar.obb_iou(a.to(dtype), b.to(dtype))
    far = planar.obb_iou((a + shift).to(dtype), (b + shift).to(dtype))
    assert (near - far).abs().max() < TOL[dtype]


KNOWN = [
    ([0.0, 0.0, 1.0, 1.0, 0.0], [0.5, 0.0, 1.0, 1.0, 0.0], 1 / 3),
    ([0.0, 0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0, pi / 4], 0.5**0.5),
    ([160.0, 153.0, 230.0, 23.0, -37 * pi / 180], [160.0, 153.0, 230.0, 23.0, -37 * pi / 180], 1.0),
    ([0.0, 0.0, 4.0, 2.0, 0.3], [10.0, 0.0, 4.0, 2.0, -1.0], 0.0),
    ([5.0, 5.0, 10.0, 10.0, 0.0], [5.0, 5.0, 5.0, 5.0, 0.7], 0.25),
    ([2.0, 2.0, 2.0, 2.0, 0.0], [2.0, 2.0, 2.0, 2.0, pi / 2], 1.0),
    ([0.0, 0.0, 2.0, 2.0, 0.0], [2.0, 0.0, 2.0, 2.0, 0.0], 0.0),
]


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize(("a", "b", "wanted"), KNOWN)
def test_known_values(a, b, wanted, dtype):
    a, b = torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)
    assert planar.obb_iou(a, b).item() == pytest.approx(wanted, abs=1e-6 if dtype == torch.float32 else 1e-12)


def degrees(*box):
    """Boxes of detectron2: degrees, counter-clockwise."""
    return [*box[:4], -box[4] * pi / 180]


# Boxes that users reported to other libraries, with the answer that shapely gives. What those returned: 0.60, 0.58, 0.27, 0.37 (right,
# although reported), 0.33, 1.35, 0.33, 0, -12128368.
REPORTED = {
    "detectron2 issue 2154": (
        degrees(296.6620178222656, 458.73883056640625, 23.515729904174805, 47.677001953125, 0.08795166015625),
        degrees(296.66201, 458.73882000000003, 23.51573, 47.67702, 0.087951),
        1.0,
    ),
    "detectron2 issue 2167": (
        degrees(2563.744628906250, 1436.790161132812500, 2174.703369140625, 214.095001220703125, 115.11834716796875),
        degrees(2563.744628906250, 1436.790283203125, 2174.702880859375, 214.0949554443359375, 115.11835479736328125),
        1.0,
    ),
    "detectron2 issue 1207": (degrees(160.0, 153.0, 230.0, 23.0, -37.0), degrees(190.0, 127.0, 80.0, 21.0, -46.0), 0.0),
    "detectron2 issue 4961": (
        degrees(1010.5, 860.00012207, 12.20655537, 48.82622528, 55.00798035),
        degrees(1022.0, 870.49993896, 10.81665134, 43.26660919, 56.30992889),
        0.36876,
    ),
    "mmcv issue 2621": (
        [0.0, 0.0, 180.6422271729, 136.3633728027, 0.9559648633],
        [0.0, 0.0, 180.6422271729, 136.3633728027, 0.9559648633],
        1.0,
    ),
    "RRPN issue 44": ([46.83, 44.03, 3.9, 1.63, 0.0], [46.83, 44.03, 1.63, 3.9, 1.45], 0.85483),
    "rotated_maskrcnn issue 46": (
        degrees(672.4067, 290.7776, 791.0275, 38.9333, 34.1454),
        degrees(672.4067, 290.7776, 791.0275, 38.9333, 34.1454),
        1.0,
    ),
    "Rotated_IoU issue 38": ([0.0, 0.0, 2.0, 2.0, pi / 4], [0.0, 0.0, 2.0, 2.0, pi / 4], 1.0),
    "mmcv issue 2952": ([135.07, 406.72, 7.9445e-7, 1971.1, 1.7708], [151.0080, 436.2173, 302.0159, 313.7347, 3.1184], 0.0),
}


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("name", REPORTED)
def test_boxes_that_others_got_wrong(name, dtype):
    a, b, wanted = REPORTED[name]
    a, b = torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)
    found = planar.obb_iou(a, b).item()
    assert found == pytest.approx(shapely_iou(a[None], b[None]).item(), abs=5e-6 if dtype == torch.float32 else 1e-9)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert planar.obb_iou(b, a).item() == pytest.approx(found, abs=2e-6)


def test_identical_boxes_and_invariances():
    a, b = boxes(2000).float(), boxes(2000, seed=1).float()
    iou = planar.obb_iou(a, b)
    assert (planar.obb_iou(a, a) - 1).abs().max() < 1e-6
    assert (planar.obb_iou(b, a) - iou).abs().max() < 2e-6
    a64, b64 = a.double(), b.double()
    exact = planar.obb_iou(a64, b64)
    A = torch.tensor([[1.2, -0.9, 30.0], [0.9, 1.2, -7.0]], dtype=torch.float64)
    mirrored = torch.tensor([[1.2, 0.9, 30.0], [0.9, -1.2, -7.0]], dtype=torch.float64)
    for moved in (A, mirrored):
        assert (planar.obb_iou(planar.transform_obb(a64, moved), planar.transform_obb(b64, moved)) - exact).abs().max() < 1e-12
    turned = a64 + torch.tensor([0, 0, 0, 0, pi], dtype=torch.float64)
    swap = torch.cat([a64[:, :2], a64[:, 3:4], a64[:, 2:3], a64[:, 4:] + pi / 2], 1)
    for same in (turned, swap):
        assert (planar.obb_iou(same, b64) - exact).abs().max() < 1e-12


@given(st.floats(0, 2 * pi), st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.05, 1.0))
def test_contained_box_has_the_ratio_of_areas(t, w, h, share):
    inner = torch.tensor([1.0, 2.0, w * share, h * share, t], dtype=torch.float64)
    outer = torch.tensor([1.0, 2.0, w, h, t], dtype=torch.float64)
    assert planar.obb_iou(inner, outer).item() == pytest.approx(share**2, rel=1e-10)
    assert planar.obb_iou(inner, outer, "iof").item() == pytest.approx(1.0, rel=1e-10)


@pytest.mark.parametrize("dtype", TOL)
def test_disjoint_and_empty_boxes_are_exactly_zero(dtype):
    a = boxes(500).to(dtype).requires_grad_()
    gap = torch.hypot(a[:, 2], a[:, 3]).detach()
    b = a.detach().clone()
    b[:, 0] += gap * 1.01  # circles that overlap, boxes that mostly do not
    b[:, 4] += 0.3
    iou = planar.obb_iou(a, b)
    apart = shapely_iou(a.detach().double(), b.double()) == 0
    assert apart.sum() > 300
    assert (iou[apart] == 0).all()
    (grad,) = torch.autograd.grad(iou[apart].sum(), a)
    assert grad.abs().max() < 1e-6
    thin = a.detach() * torch.tensor([1, 1, 0, 1, 1], dtype=dtype)
    for x, y in ((thin, a), (a, thin), (thin, thin)):
        x = x.detach().requires_grad_()
        value = planar.obb_iou(x, y.detach())
        assert (value == 0).all()
        assert torch.autograd.grad(value.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("place", range(5))
def test_a_number_that_is_not_one_gives_nan_for_that_pair_only(place):
    """Also where the rest of the box is far from the other, so that an axis separates them."""
    a, b = boxes(8), boxes(8, seed=1)
    b[:4, 0] += 1e3
    wanted = planar.obb_intersection_area(a, b)
    bad = a.clone()
    bad[::2, place] = torch.nan
    for found in (planar.obb_intersection_area(bad, b), planar.obb_intersection_area(b, bad)):
        assert found[::2].isnan().all()
        assert torch.allclose(found[1::2], wanted[1::2], rtol=1e-12)


@pytest.mark.parametrize(
    ("mode", "enclosing"), [("iou", "hull"), ("iof", "hull"), ("giou", "hull"), ("giou", "aabb"), ("diou", "hull"), ("diou", "aabb")]
)
def test_derivatives(mode, enclosing, check_directional):
    check_directional(
        lambda x, y: planar.obb_iou(x, y, mode, enclosing=enclosing), boxes(40), boxes(40, seed=1), second=False, forward=False
    )


def test_gradient_in_the_angle():
    def iou(t):
        a = torch.tensor([0.0, 0.0, 2.0, 1.0], dtype=torch.float64)
        return planar.obb_iou(torch.cat([a, t[None]]), torch.cat([a, torch.zeros(1, dtype=torch.float64)]))

    angles = torch.linspace(0.1, 1.4, 20, dtype=torch.float64)
    for t in angles:
        x = t.clone().requires_grad_()
        (slope,) = torch.autograd.grad(iou(x), x)
        assert slope.item() == pytest.approx((iou(t + 1e-5) - iou(t - 1e-5)).item() / 2e-5, abs=1e-6)
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(iou(zero), zero)[0].abs() < 1e-9


@pytest.mark.parametrize("mode", ["iou", "iof", "giou", "diou"])
@pytest.mark.parametrize("turn", [0.0, 0.3, pi / 2])
@pytest.mark.parametrize("common", [0.0, 0.7])
def test_gradients_of_boxes_with_parallel_sides(mode, turn, common):
    """Level edges add no area, but they sweep some when they tilt; against central differences."""
    a, b = boxes(300, size=1.0), boxes(300, size=1.0, seed=1)
    a[:, 2:4] += 0.3
    b[:, 2:4] += 0.3
    a[:, 4], b[:, 4] = common + turn, common
    a.requires_grad_(), b.requires_grad_()
    found = torch.cat(torch.autograd.grad(planar.obb_iou(a, b, mode).sum(), (a, b)), 1)
    with torch.no_grad():
        steps = 1e-6 * torch.eye(10, dtype=torch.float64)
        plus, minus = (planar.obb_iou(a + sign * steps[:, None, :5], b + sign * steps[:, None, 5:], mode) for sign in (1, -1))
        wide = [planar.obb_iou(a + 2 * s * steps[:, None, :5], b + 2 * s * steps[:, None, 5:], mode) for s in (1, -1)]
    wanted = ((plus - minus) / 2e-6).mT
    smooth = (wanted - ((wide[0] - wide[1]) / 4e-6).mT).abs().amax(1) < 1e-6  # no kink within the steps
    assert smooth.float().mean() > 0.9
    torch.testing.assert_close(found[smooth], wanted[smooth], rtol=0, atol=2e-7)


@pytest.mark.parametrize("dtype", TOL)
def test_gradients_are_finite_and_bounded_where_edges_coincide(dtype):
    """Moving a box by its short side changes the ratio by four at most, and stretching it by its length by two, however near they are."""
    a = boxes(2000)
    for b in (a, noisy(a, 1e-6), noisy(a, 1e-4), a + torch.tensor([0, 0, 0, 0, pi], dtype=torch.float64)):
        x = a.to(dtype).requires_grad_()
        (grad,) = torch.autograd.grad(planar.obb_iou(x, b.to(dtype)).sum(), x)
        assert grad.isfinite().all()
        assert (grad[:, 0].abs() * a[:, 2:4].amin(-1)).max() < 4.0
        assert (grad[:, 2].abs() * a[:, 2]).max() < 2.0


def test_giou_and_diou_against_shapely():
    a, b = boxes(200), boxes(200, seed=1)
    for i in range(200):
        p, q = (Polygon(c.numpy()) for c in planar.obb_to_corners(torch.stack([a[i], b[i]])))
        union, hull = p.union(q), p.union(q).convex_hull
        iou = p.intersection(q).area / union.area
        assert planar.obb_iou(a[i], b[i], "giou").item() == pytest.approx(iou - (hull.area - union.area) / hull.area, abs=1e-10)
        xy = np.array(hull.exterior.coords)
        span = np.square(xy[:, None] - xy[None]).sum(-1).max()
        centre = (a[i, :2] - b[i, :2]).square().sum().item()
        assert planar.obb_iou(a[i], b[i], "diou").item() == pytest.approx(iou - centre / span, abs=1e-10)


@pytest.mark.parametrize("mode", ["iou", "iof", "giou", "diou"])
def test_matrix_equals_pairs(mode):
    a, b = boxes(40, 60.0).requires_grad_(), boxes(30, 60.0, seed=1)
    wanted = planar.obb_iou(a[:, None], b[None], mode)
    found = planar.obb_iou_matrix(a, b, mode, chunk=97)
    assert torch.allclose(found, wanted, atol=1e-14)
    g = torch.randn_like(wanted)
    assert torch.allclose(torch.autograd.grad(found, a, g)[0], torch.autograd.grad(wanted, a, g)[0], atol=1e-12)
    i, j, value = planar.obb_iou_matrix(a, b, mode, sparse=True)
    assert torch.allclose(torch.zeros_like(wanted).index_put((i, j), value), wanted, atol=1e-14)
    assert (value != 0).all()


def test_matrix_shapes():
    a, b = boxes(6).reshape(2, 3, 5), boxes(8, seed=1).reshape(2, 4, 5)
    assert torch.allclose(planar.obb_iou_matrix(a, b), planar.obb_iou(a[:, :, None], b[:, None]), atol=1e-14)
    assert planar.obb_iou_matrix(a, b[0]).shape == (2, 3, 4)
    assert planar.obb_iou_matrix(a[0, :0], b[0]).shape == (0, 4)
    i, j, value = planar.obb_iou_matrix(a[0], b[0, :0], sparse=True)
    assert i.shape == j.shape == value.shape == (0,)


def test_polygon_and_box():
    rng = np.random.default_rng(0)
    for _ in range(100):
        angle = 2 * pi * (np.arange(9) + rng.uniform(-0.3, 0.3, 9)) / 9
        radius = rng.uniform(5, 40, 9)
        poly = np.stack([50 + radius * np.cos(angle), 50 + radius * np.sin(angle)], -1)
        box = torch.tensor([50.0, 45.0, 40.0, 15.0, rng.uniform(-3, 3)], dtype=torch.float64)
        wanted = Polygon(poly).intersection(Polygon(planar.obb_to_corners(box).numpy())).area
        found = planar.poly_obb_intersection_area(torch.tensor(poly), box)
        assert found.item() == pytest.approx(wanted, abs=1e-9)
        back = planar.poly_obb_intersection_area(torch.tensor(poly[::-1].copy()), box, signed=True)
        assert back.item() == pytest.approx(-wanted, abs=1e-9)
    eight = torch.tensor([[0.0, 0], [2, 2], [2, 0], [0, 2]])
    assert planar.poly_obb_intersection_area(eight, torch.tensor([1.0, 1.0, 4.0, 4.0, 0.0])).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_batches_and_layouts(dtype):
    a, b = boxes(12).to(dtype), boxes(12, seed=1).to(dtype)
    wanted = planar.obb_iou(a.double(), b.double())
    found = planar.obb_iou(a.reshape(2, 3, 2, 5), b.reshape(2, 3, 2, 5))
    assert found.dtype == dtype
    assert found.shape == (2, 3, 2)
    tol = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-5)
    assert (found.flatten().double() - wanted).abs().max() < tol
    strided = torch.stack([a, a], -1)[..., 0]
    assert torch.equal(planar.obb_iou(strided, b), planar.obb_iou(a, b))
    assert planar.obb_iou(a[:0], b[:0]).shape == (0,)
    assert planar.obb_iou(a[0], b).shape == (12,)


def test_compile_and_vmap():
    a, b = boxes(20).float(), boxes(20, seed=1).float()
    compiled = torch.compile(planar.obb_iou, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(a, b), planar.obb_iou(a, b), atol=1e-6)
    assert torch.allclose(compiled(a, b, "giou", enclosing="aabb"), planar.obb_iou(a, b, "giou", enclosing="aabb"), atol=1e-6)
    assert torch.allclose(torch.vmap(planar.obb_iou)(a, b), planar.obb_iou(a, b), atol=1e-6)


@pytest.mark.bad_input
def test_bad_input_is_refused():
    a = boxes(3)
    with pytest.raises(ValueError, match="a must have shape"):
        planar.obb_iou(a[:, :4], a)
    with pytest.raises(ValueError, match="mode must be one of"):
        planar.obb_iou(a, a, "ciou")
    with pytest.raises(ValueError, match="enclosing must be one of"):
        planar.obb_iou(a, a, "giou", enclosing="circle")
    with pytest.raises(ValueError, match="sparse needs two sets"):
        planar.obb_iou_matrix(a[None], a[None], sparse=True)
    with pytest.raises(TypeError, match="a must have a floating-point dtype"):
        planar.obb_iou(a.long(), a)


def test_a_collapsed_box_can_grow():
    a = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64).requires_grad_()
    b = torch.tensor([0.0, 0.0, 4.0, 2.0, 0.0], dtype=torch.float64)
    area = planar._overlap.intersection_reference(a, b)
    assert area.item() == 0
    grad = torch.autograd.grad(area, a)[0]
    torch.testing.assert_close(grad, torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(torch.autograd.grad(planar.obb_iou(a, b), a)[0], grad / 8)
