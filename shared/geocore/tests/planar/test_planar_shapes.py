"""Angles, boxes, Gaussians and polygons."""

from math import pi

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapely import MultiPoint, Point, Polygon, minimum_rotated_rectangle
from torch.autograd import gradcheck

from geocore import planar
from geocore.planar.hull import _hull_by_directions

F64 = {"dtype": torch.float64}


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def boxes(n, seed=0):
    r = torch.rand(n, 5, generator=g(seed), **F64)
    return r * torch.tensor([100, 100, 40, 40, 12.0], **F64) + torch.tensor([0, 0, 1, 1, -6.0], **F64)


def same_rectangle(a, b, tol):
    p, q = planar.obb_to_corners(a), planar.obb_to_corners(b)
    return torch.cdist(p, q).amin(-1).max() < tol


# angles


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("period", "start"), [(pi, -pi / 2), (2 * pi, -pi), (pi / 2, 0.0), (pi, -pi / 4)])
def test_wrap_stays_in_range(dtype, period, start):
    k = torch.arange(-50, 51, **F64)
    special = torch.tensor([0.0, -0.0, 1e-9, -1e-9, 1e-30, -1e-30, 1e6, -1e6], **F64).clamp(-3e4, 3e4)
    a = torch.cat([k * pi, k * pi / 2, k * pi / 4, special, torch.randn(1_000_000, generator=g(), **F64) * 10]).to(dtype)
    out = planar.wrap(a, period, start)
    assert ((out >= start) & (out < start + period)).all()
    if dtype == torch.float64:
        turns = (out - a) / period
        assert (turns - turns.round()).abs().max() < 1e-9


def test_wrap_and_difference_have_gradient_one():
    a, b = (torch.randn(50, generator=g(s), **F64).requires_grad_() for s in (0, 1))
    assert (torch.autograd.grad(planar.wrap(10 * a).sum(), a)[0] == 10).all()
    da, db = torch.autograd.grad(planar.angle_diff(a, b).sum(), (a, b))
    assert (da == 1).all()
    assert (db == -1).all()
    assert planar.angle_diff(torch.tensor(1.5), torch.tensor(-1.5)).item() == pytest.approx(3.0 - pi, abs=1e-6)


def test_axial_mean():
    mean, length = planar.axial_mean(torch.deg2rad(torch.tensor([89.0, -89.0], **F64)))
    assert abs(abs(mean.item()) - pi / 2) < 1e-12
    assert length.item() == pytest.approx(np.cos(2 * np.deg2rad(1)), abs=1e-12)
    x = torch.tensor([0.1, 0.3, -0.2], **F64).requires_grad_()
    assert gradcheck(lambda a, w: planar.axial_mean(a, w), (x, torch.tensor([1.0, 2.0, 0.5], **F64).requires_grad_()))
    opposite = torch.tensor([0.0, pi / 2], **F64).requires_grad_()
    mean, length = planar.axial_mean(opposite)
    assert mean.item() == 0
    assert length.item() < 1e-15
    assert torch.autograd.grad(mean, opposite)[0].isfinite().all()
    weighted, _ = planar.axial_mean(torch.tensor([0.4, 9.0]), torch.tensor([3.0, 0.0]))
    assert weighted.item() == pytest.approx(0.4, abs=1e-6)
    none, nothing = planar.axial_mean(torch.tensor([0.4, 9.0]), torch.zeros(2))
    assert (none.item(), nothing.item()) == (0.0, 0.0)
    assert planar.axial_mean(torch.randn(4, 7, 3), dim=1)[0].shape == (4, 3)


def test_codes():
    t = torch.linspace(-1.5, 1.5, 31, **F64)
    codes = planar.encode_harmonics(t, (2, 4), (0.0, 2 * pi / 3, 4 * pi / 3))
    assert codes.shape == (31, 6)
    assert torch.allclose(codes[:, 1], torch.cos(2 * t + 2 * pi / 3))
    assert torch.allclose(codes[:, 3], torch.cos(4 * t))
    c, s = planar.encode_harmonics(t, 2).unbind(-1)
    assert torch.allclose(planar.decode_phase(3 * c, 3 * s) / 2, t, atol=1e-14)
    origin = torch.zeros(2, **F64).requires_grad_()
    angle = planar.decode_phase(origin[0], origin[1])
    assert angle.item() == 0
    assert (torch.autograd.grad(angle, origin)[0] == 0).all()


# boxes


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("pattern", planar.PATTERNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_canonical_forms(pattern, dtype, ties):
    edge = torch.tensor([-pi, -pi / 2, -pi / 4, 0.0, pi / 4, pi / 2, 3 * pi / 4, pi, -1e-9, 1e-9], **F64)
    special = torch.cat([torch.tensor([[5.0, 5.0, w, 4.0]], **F64).expand(10, 4) for w in (2.0, 4.0, 6.0)])
    a = torch.cat([boxes(500), torch.cat([special, edge.repeat(3)[:, None]], 1)]).to(dtype)
    b = planar.canonicalize(a, pattern, mmrotate_ties=ties)
    assert same_rectangle(a, b, 1e-4 if dtype == torch.float32 else 1e-12)
    start, period = {"le90": (-pi / 2, pi), "le135": (-pi / 4, pi), "oc": (-pi / 2, pi / 2), "ultra": (0.0, pi / 2), "r360": (-pi, 2 * pi)}[
        pattern
    ]
    assert ((b[:, 4] >= start) & (b[:, 4] < start + period)).all()
    if pattern.startswith("le"):
        assert (b[:, 2] >= b[:, 3]).all()
    if not ties:
        assert torch.equal(planar.canonicalize(b, pattern), b)


def test_squares_keep_their_angle_unless_asked():
    square = torch.tensor([0.0, 0.0, 3.0, 3.0, 0.0])
    assert torch.equal(planar.canonicalize(square), square)
    assert planar.canonicalize(square, mmrotate_ties=True)[4].item() == pytest.approx(-pi / 2)


def test_corners_there_and_back():
    a = boxes(500)
    corners = planar.obb_to_corners(a)
    back = planar.corners_to_obb(corners)
    assert torch.allclose(back[:, :4], a[:, :4], atol=1e-10)
    assert planar.angle_diff(back[:, 4], a[:, 4], 2 * pi).abs().max() < 1e-10
    assert (planar.signed_area(corners) > 0).all()
    assert same_rectangle(planar.corners_to_obb(corners.flip(-2)), a, 1e-9)
    upright = planar.corners_to_obb(planar.obb_to_corners(torch.tensor([1.0, 2.0, 0.0, 4.0, 0.5])))
    assert torch.allclose(upright, torch.tensor([1.0, 2.0, 0.0, 4.0, 0.5]), atol=1e-6)
    assert gradcheck(lambda x: planar.corners_to_obb(planar.obb_to_corners(x)), boxes(5).requires_grad_())
    assert planar.corners_to_obb(torch.zeros(2, 4, 2)).isfinite().all()


def test_upright_boxes():
    a = boxes(200)
    corners = planar.obb_to_corners(a)
    wanted = torch.cat([corners.amin(-2), corners.amax(-2)], -1)
    assert torch.allclose(planar.obb_to_aabb(a), wanted, atol=1e-12)
    assert torch.allclose(planar.obb_to_aabb(planar.aabb_to_obb(wanted)), wanted, atol=1e-12)
    assert gradcheck(planar.obb_to_aabb, boxes(5).requires_grad_())


def test_motions_move_the_corners():
    a = boxes(100)
    corners = planar.obb_to_corners(a)
    centre = torch.tensor([10.0, 20.0], **F64)
    c, s = np.cos(0.7), np.sin(0.7)
    R = torch.tensor([[c, -s], [s, c]], **F64)
    cases = {
        "rotate": (planar.rotate(a, 0.7, centre), (corners - centre) @ R.T + centre),
        "scale": (planar.scale(a, 0.5), corners * 0.5),
        "translate": (planar.translate(a, centre), corners + centre),
        "horizontal": (planar.flip(a, (200, 100)), torch.stack([200 - corners[..., 0], corners[..., 1]], -1)),
        "vertical": (planar.flip(a, (200, 100), "vertical"), torch.stack([corners[..., 0], 100 - corners[..., 1]], -1)),
        "diagonal": (planar.flip(a, (200, 100), "diagonal"), torch.stack([200 - corners[..., 0], 100 - corners[..., 1]], -1)),
    }
    for moved, wanted in cases.values():
        assert torch.cdist(planar.obb_to_corners(moved), wanted).amin(-1).max() < 1e-10
    A = torch.cat([1.5 * R, torch.tensor([[3.0], [4.0]], **F64)], 1)
    assert torch.allclose(planar.obb_to_corners(planar.transform_obb(a, A)), corners @ A[:, :2].T + A[:, 2], atol=1e-10)
    sheared = planar.transform_obb(a, torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0]], **F64))
    for box, quad in zip(sheared, corners @ torch.tensor([[1.0, 0.0], [0.5, 1.0]], **F64), strict=True):
        around = minimum_rotated_rectangle(Polygon(quad.numpy()))
        assert (box[2] * box[3]).item() == pytest.approx(around.area, rel=1e-9)


def test_points_in_boxes():
    a, p = boxes(30), 100 * torch.rand(200, 2, generator=g(), **F64)
    found = planar.obb_contains(a[:, None], p)
    for box, row in zip(planar.obb_to_corners(a), found, strict=True):
        polygon = Polygon(box.numpy())
        assert row.tolist() == [polygon.covers(Point(*q)) for q in p.tolist()]


# Gaussians


def test_gaussian_distances_against_references():
    a, b = boxes(30), boxes(30, 1)
    (m1, S1), (m2, S2) = planar.obb_to_gaussian(a), planar.obb_to_gaussian(b)
    N1, N2 = (torch.distributions.MultivariateNormal(m, S) for m, S in ((m1, S1), (m2, S2)))
    assert torch.allclose(planar.kl(m1, S1, m2, S2), torch.distributions.kl_divergence(N1, N2), rtol=1e-9)
    for i in range(30):
        root = scipy.linalg.sqrtm(S1[i].numpy())
        middle = np.real(scipy.linalg.sqrtm(root @ S2[i].numpy() @ root))
        wanted = (m1[i] - m2[i]).square().sum().item() + np.trace(S1[i].numpy() + S2[i].numpy() - 2 * middle)
        assert planar.bures_wasserstein(m1[i], S1[i], m2[i], S2[i]).item() == pytest.approx(wanted, rel=1e-9)
        root = planar.bures_wasserstein(m1[i], S1[i], m2[i], S2[i], squared=False).item()
        assert root == pytest.approx(wanted**0.5, rel=1e-9)
    mid = 0.5 * (S1 + S2)
    d = (m1 - m2).unsqueeze(-1)
    wanted = (d.mT @ torch.linalg.solve(mid, d))[:, 0, 0] / 8 + 0.5 * (mid.det() / (S1.det() * S2.det()).sqrt()).log()
    assert torch.allclose(planar.bhattacharyya(m1, S1, m2, S2), wanted, rtol=1e-9)
    assert torch.allclose(planar.hellinger(m1, S1, m2, S2), (1 - (-wanted).exp()).sqrt(), rtol=1e-9)
    assert torch.allclose(planar.kfiou(S1, S1), torch.full((30,), 1 / 3, **F64))
    K = S1 @ torch.linalg.inv(S1 + S2) @ S2
    va, vb, vk = S1.det().sqrt(), S2.det().sqrt(), K.det().sqrt()
    assert torch.allclose(planar.kfiou(S1, S2), vk / (va + vb - vk), rtol=1e-9)
    for fn in (planar.kl, planar.bures_wasserstein, planar.bhattacharyya, planar.hellinger):
        assert fn(m1, S1, m1, S1).abs().max() < 1e-6
        leaves = [t[:3].detach().requires_grad_() for t in (m1, S1, m2, S2)]
        assert gradcheck(fn, leaves)


def test_gaussian_there_and_back():
    a = planar.canonicalize(boxes(200))
    for scale in ("std_half", "uniform", 7.0):
        back = planar.gaussian_to_obb(*planar.obb_to_gaussian(a, scale), scale)
        assert torch.allclose(back[:, :4], a[:, :4], atol=1e-8)
        assert planar.angle_diff(back[:, 4], a[:, 4]).abs().max() < 1e-8
    mu = torch.zeros(2, requires_grad=True)
    sigma = torch.eye(2, requires_grad=True)
    out = planar.gaussian_to_obb(mu, sigma)
    assert torch.allclose(out, torch.tensor([0, 0, 2.0, 2.0, 0]))
    assert torch.autograd.grad(out.sum(), sigma)[0].isfinite().all()
    square = torch.tensor([0.0, 0, 1, 1, 0])
    turned = torch.tensor([0.0, 0, 1, 1, pi / 4])
    blind = 1 - planar.hellinger(*planar.obb_to_gaussian(square, "uniform"), *planar.obb_to_gaussian(turned, "uniform"))
    assert blind > 0.999
    assert planar.obb_iou(square, turned) < 0.71


# polygons


def star(n=9, seed=0):
    rng = np.random.default_rng(seed)
    angle = 2 * pi * (np.arange(n) + rng.uniform(-0.3, 0.3, n)) / n
    radius = rng.uniform(5, 40, n)
    return torch.tensor(np.stack([50 + radius * np.cos(angle), 50 + radius * np.sin(angle)], -1))


def test_area_perimeter_and_centroid():
    for seed in range(30):
        p = star(seed=seed)
        q = Polygon(p.numpy())
        padded, mask = torch.cat([p, torch.full((3, 2), torch.nan, **F64)]), torch.arange(12) < 9
        for poly, valid in ((p, None), (padded, mask)):
            assert planar.signed_area(poly, valid).item() == pytest.approx(q.area, rel=1e-12)
            assert planar.perimeter(poly, valid).item() == pytest.approx(q.length, rel=1e-12)
            assert planar.centroid(poly, valid).tolist() == pytest.approx([q.centroid.x, q.centroid.y], rel=1e-9)
            assert planar.orientation(poly, valid).item() == 1
            turned = planar.ensure_orientation(poly, ccw=False, mask=valid)
            assert planar.signed_area(turned, valid).item() == pytest.approx(-q.area, rel=1e-12)
            assert torch.equal(turned[0], poly[0])
            assert planar.is_simple(poly, valid).item() == q.is_valid
    line = torch.tensor([[0.0, 0], [2, 0], [4, 0]])
    assert planar.centroid(line).tolist() == [2.0, 0.0]


def test_convex_and_simple():
    square = torch.tensor([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    dart = torch.tensor([[0.0, 0], [2, 0], [0.5, 0.5], [0, 2]])
    bow = torch.tensor([[0.0, 0], [2, 2], [2, 0], [0, 2]])
    twice = torch.cat([square, square])
    collinear = torch.tensor([[0.0, 0], [1, 0], [2, 0], [2, 2], [0, 2]])
    assert planar.is_convex(torch.stack([square, dart, bow])).tolist() == [True, False, False]
    assert planar.is_convex(square.flip(0)).item()
    assert planar.is_convex(collinear).item()
    assert not planar.is_convex(twice).item()
    assert planar.is_simple(torch.stack([square, dart, bow])).tolist() == [True, True, False]
    assert not planar.is_simple(twice).item()
    padded = torch.cat([torch.stack([square, dart]), torch.zeros(2, 2, 2)], 1)
    mask = (torch.arange(6) < 4).expand(2, 6)
    assert planar.is_convex(padded, mask).tolist() == [True, False]
    assert planar.is_simple(padded, mask).tolist() == [True, True]


def test_winding():
    p = 100 * torch.rand(500, 2, generator=g(), **F64)
    for seed in range(10):
        poly = star(seed=seed)
        shape = Polygon(poly.numpy())
        off = torch.tensor([shape.exterior.distance(Point(*q)) > 1e-6 for q in p.tolist()])
        wanted = torch.tensor([shape.contains(Point(*q)) for q in p.tolist()])
        assert ((planar.winding_number(p, poly) == wanted) | ~off).all()
        assert ((planar.contains(p, poly, "evenodd") == wanted) | ~off).all()
        total = planar.angle_sum(p, poly, "signed") / (2 * pi)
        assert ((total - wanted.double()).abs()[off] < 1e-9).all()
    bow = torch.tensor([[0.0, 0], [2, 2], [2, 0], [0, 2]])
    q = torch.tensor([[1.7, 1.0], [0.3, 1.0], [1.0, 1.7], [5.0, 1.0]])
    assert planar.winding_number(q, bow).tolist() == [-1, 1, 0, 0]
    square = torch.tensor([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    double = torch.cat([square, square])
    assert planar.winding_number(torch.tensor([1.0, 1.0]), double).item() == 2
    assert planar.contains(torch.tensor([1.0, 1.0]), double).item()
    assert not planar.contains(torch.tensor([1.0, 1.0]), double, "evenodd").item()


def test_angle_sums():
    poly = star()
    inside = planar.centroid(poly).requires_grad_()
    signed = planar.angle_sum(inside, poly, "signed")
    assert torch.autograd.grad(signed, inside)[0].abs().max() < 1e-12
    outside = torch.tensor([120.0, 40.0], **F64).requires_grad_()
    unsigned = planar.angle_sum(outside, poly, "unsigned")
    assert 0 < unsigned.item() < 2 * pi
    assert torch.autograd.grad(unsigned, outside)[0].abs().max() > 1e-4
    assert planar.angle_sum(outside, poly, "soft", tau=1e-9).item() == pytest.approx(unsigned.item(), abs=1e-6)
    for point in (poly[0], 0.5 * (poly[0] + poly[1])):
        x = point.clone().requires_grad_()
        for kind in ("signed", "unsigned", "soft"):
            assert torch.autograd.grad(planar.angle_sum(x, poly, kind), x)[0].isfinite().all()


@pytest.mark.parametrize("convex", [False, True])
def test_clipping(convex):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        hull = np.array(MultiPoint(rng.uniform(0, 10, (8, 2))).convex_hull.exterior.coords)[:-1]
        subject = np.array(MultiPoint(rng.uniform(3, 13, (7, 2))).convex_hull.exterior.coords)[:-1] if convex else star(7, seed).numpy() / 6
        wanted = Polygon(subject).buffer(0).intersection(Polygon(hull)).area
        clipped = planar.clip_convex(torch.tensor(subject), torch.tensor(hull), convex_subject=convex)
        assert abs(planar.signed_area(clipped).item()) == pytest.approx(wanted, abs=1e-10)
        if convex:
            assert len(clipped) == len(subject) + 2 * len(hull)
            area = planar.convex_intersection_area(torch.tensor(subject), torch.tensor(hull))
            assert area.item() == pytest.approx(wanted, abs=1e-10)
    a, b = planar.obb_to_corners(boxes(20)), planar.obb_to_corners(boxes(20, 1))
    assert torch.allclose(planar.convex_intersection_area(a, b), planar.obb_intersection_area(boxes(20), boxes(20, 1)), atol=1e-9)
    assert torch.allclose(planar.convex_intersection_area(a, a), planar.signed_area(a), rtol=1e-9)
    assert gradcheck(planar.convex_intersection_area, (a[:5].requires_grad_(), b[:5].requires_grad_()))


def hull_of(points):
    around = MultiPoint(points).convex_hull
    return set() if around.geom_type != "Polygon" else set(map(tuple, np.array(around.exterior.coords)[:-1]))


@pytest.mark.parametrize("n", [3, 5, 8, 20, 60])
def test_hull(n):
    rng = np.random.default_rng(n)
    for kind in ("random", "grid"):
        p = rng.normal(size=(20, n, 2)) if kind == "random" else rng.integers(0, 4, (20, n, 2)).astype(float)
        index, count = planar.convex_hull(torch.tensor(p))
        for row, k, points in zip(index, count, p, strict=True):
            wanted = hull_of(points)
            if wanted:
                assert set(map(tuple, points[row[:k].numpy()])) == wanted
                assert planar.signed_area(torch.tensor(points)[row[:k]]) > 0
            assert (row[k:] == -1).all()
            single, size = planar.convex_hull(torch.tensor(points))
            assert size == k
            assert np.array_equal(points[single[:k].numpy()], points[row[:k].numpy()])


def test_hull_of_few_and_masked_points():
    same = torch.ones(4, 2)
    line = torch.tensor([[0.0, 0], [1, 1], [2, 2], [3, 3]])
    assert _hull_by_directions(torch.stack([same, line]), None)[1].tolist() == [1, 2]
    square = torch.tensor([[[0.0, 0], [9, 9], [1, 0], [1, 1], [0, 1]]])
    index, count = planar.convex_hull(square, torch.tensor([[True, False, True, True, True]]))
    assert count.item() == 4
    assert index[0, :4].tolist() == [0, 2, 3, 4]
    assert planar.convex_hull(torch.zeros(2, 0, 2))[1].tolist() == [0, 0]
    assert planar.convex_hull(torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool))[1].item() == 0


@pytest.mark.parametrize("n", [1, 2, 4, 8, 30])
def test_rectangle_of_least_area(n):
    p = 100 * torch.rand(100, n, 2, generator=g(n), **F64)
    box = planar.min_area_rect(p)
    grown = box + torch.tensor([0, 0, 1e-9, 1e-9, 0], **F64)
    assert planar.obb_contains(grown[:, None], p).all()
    for points, area in zip(p, box[:, 2] * box[:, 3], strict=True):
        wanted = minimum_rotated_rectangle(MultiPoint(points.numpy())).area
        assert area.item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    if n == 4:
        padded = torch.cat([p, torch.full((100, 2, 2), torch.nan, **F64)], 1)
        found = planar.min_area_rect(padded, (torch.arange(6) < 4).expand(100, 6))
        # around an acute triangle all three directions have the same area, so the boxes may differ
        assert torch.allclose(found[:, 2] * found[:, 3], box[:, 2] * box[:, 3], rtol=1e-9)
        assert gradcheck(planar.min_area_rect, p[:4].requires_grad_())


def test_contours():
    square = torch.tensor([[2.0, 2], [0, 2], [0, 0], [2, 0]])
    points = planar.resample_contour(square, 8, "topleft")
    assert points.tolist() == [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1.0], [2.0, 2.0], [1.0, 2.0], [0.0, 2.0], [0.0, 1.0]]
    assert torch.equal(planar.resample_contour(square, 4), square)
    assert gradcheck(lambda p: planar.resample_contour(p, 7), star().requires_grad_())
    circle = torch.stack([torch.linspace(0, 2 * pi, 201)[:-1].cos(), torch.linspace(0, 2 * pi, 201)[:-1].sin()], -1)
    fewer = planar.simplify(circle, 0.01)
    assert 10 < len(fewer) < 60
    outline = Polygon(fewer).exterior
    assert max(outline.distance(Point(*q)) for q in circle.tolist()) < 0.01
    assert len(planar.simplify(circle, 0.0)) >= 190


def test_masks():
    box = torch.tensor([8.0, 6.0, 9.0, 4.0, 0.4])
    mask = planar.rasterize(planar.obb_to_corners(box), (12, 16))
    assert mask.shape == (12, 16)
    assert abs(mask.sum().item() - 36) <= 4
    assert mask[5, 7]
    for i in range(12):
        for j in range(16):
            assert mask[i, j] == planar.obb_contains(box, torch.tensor([j + 0.5, i + 0.5]))
    corners = planar.obb_to_corners(box).requires_grad_()
    soft = planar.soft_rasterize(corners, (12, 16), tau=0.3)
    assert ((soft > 0.5) == mask).all()
    assert torch.autograd.grad(soft.sum(), corners)[0].isfinite().all()


@given(st.integers(0, 3), st.integers(0, 2))
def test_leading_dimensions_and_nothing(a, b):
    x = boxes(max(a * b, 1))[: a * b].reshape(a, b, 5)
    assert planar.obb_to_corners(x).shape == (a, b, 4, 2)
    assert planar.corners_to_obb(planar.obb_to_corners(x)).shape == (a, b, 5)
    assert planar.obb_to_aabb(x).shape == (a, b, 4)
    assert planar.canonicalize(x, "oc").shape == (a, b, 5)
    assert planar.obb_to_gaussian(x)[1].shape == (a, b, 2, 2)
    assert planar.signed_area(planar.obb_to_corners(x)).shape == (a, b)
    assert planar.convex_hull(planar.obb_to_corners(x))[0].shape == (a, b, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_are_kept(dtype):
    x = boxes(5).to(dtype)
    results = [
        planar.obb_to_corners(x),
        planar.corners_to_obb(planar.obb_to_corners(x)),
        planar.obb_to_aabb(x),
        planar.canonicalize(x),
        planar.rotate(x, 0.3),
        planar.gaussian_to_obb(*planar.obb_to_gaussian(x)),
        planar.min_area_rect(planar.obb_to_corners(x)),
        planar.wrap(x[:, 4]),
        planar.axial_mean(x[:, 4])[0],
        planar.centroid(planar.obb_to_corners(x)),
        planar.convex_intersection_area(planar.obb_to_corners(x), planar.obb_to_corners(x)),
    ]
    for y in results:
        assert y.dtype == dtype
        assert y.isfinite().all()


def test_compile():
    x = boxes(6).float()
    corners = planar.obb_to_corners(x)
    affine = torch.tensor([[1.0, 0.2, 0], [0.1, 1.0, 0]])

    def every(x, corners, angle, affine):
        return (
            planar.wrap(x[:, 4]),
            planar.axial_mean(x[:, 4]),
            planar.canonicalize(x),
            planar.corners_to_obb(corners),
            planar.transform_obb(x, affine),
            planar.rotate(x, angle),
            planar.convex_intersection_area(corners, corners.flip(0)),
            planar.winding_number(x[:, :2], corners),
        )

    args = (x, corners, torch.tensor(0.3), affine)
    torch._dynamo.reset()
    compiled = torch.compile(every, fullgraph=True, backend="aot_eager")(*args)
    for a, b in zip(torch.utils._pytree.tree_leaves(compiled), torch.utils._pytree.tree_leaves(every(*args)), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: planar.wrap(torch.tensor([1])), TypeError, "a must have a floating-point dtype"),
        (lambda: planar.wrap(torch.zeros(2), 0.0), ValueError, "period must be positive"),
        (lambda: planar.canonicalize(torch.zeros(2, 4)), ValueError, "obb must have shape"),
        (lambda: planar.canonicalize(torch.zeros(2, 5), "le180"), ValueError, "pattern must be one of"),
        (lambda: planar.flip(torch.zeros(2, 5), (4, 4), "up"), ValueError, "direction must be one of"),
        (lambda: planar.obb_to_gaussian(torch.zeros(5), "third"), ValueError, "scale must be a number"),
        (lambda: planar.obb_to_gaussian(torch.zeros(5), -1), ValueError, "scale must be positive"),
        (lambda: planar.signed_area(torch.zeros(3, 2), torch.ones(4, dtype=torch.bool)), ValueError, "mask must have one entry"),
        (lambda: planar.contains(torch.zeros(2), torch.zeros(3, 2), "odd"), ValueError, "rule must be one of"),
        (lambda: planar.min_area_rect(torch.zeros(0, 2)), ValueError, "points"),
        (lambda: planar.simplify(torch.zeros(3), 1.0), ValueError, "poly must have shape"),
        (lambda: planar.simplify(torch.zeros(3, 2), -1.0), ValueError, "tolerance must not be negative"),
        (lambda: planar.soft_rasterize(torch.zeros(3, 2), (4, 4), 0.0), ValueError, "tau must be positive"),
        (lambda: planar.angle_sum(torch.zeros(2), torch.zeros(3, 2), "round"), ValueError, "kind must be one of"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def differences(f, p, h=1e-6):
    steps = h * torch.eye(p.numel(), **F64).unflatten(-1, p.shape)
    return torch.stack([(f(p + e) - f(p - e)) / (2 * h) for e in steps]).reshape(p.shape)


@pytest.mark.parametrize("convex", [False, True])
@pytest.mark.parametrize("other", [[[0.2, 0.8]], [[1.5, 0.8], [0.3, 0.7]]], ids=["neighbours inside", "one outside"])
def test_clipping_is_smooth_where_a_vertex_lies_on_the_line(other, convex):
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], **F64)
    p = torch.tensor([[0.2, 0.2], [1.0, 0.5], *other], **F64).requires_grad_()

    def area(q):
        return planar.signed_area(planar.clip_convex(q, square, convex_subject=convex))

    torch.testing.assert_close(torch.autograd.grad(area(p), p)[0], differences(area, p.detach()), rtol=0, atol=1e-5)


def test_a_flat_polygon_can_grow():
    p = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]], **F64).requires_grad_()
    square = torch.tensor([[-2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, 2.0]], **F64)
    area = planar.convex_intersection_area(p, square)
    assert area.item() == 0
    torch.testing.assert_close(torch.autograd.grad(area, p)[0][2], torch.tensor([0.0, 0.5], **F64))


@pytest.mark.parametrize(("name", "variance", "mean"), [("bures_wasserstein", 0.5, 2.0), ("bhattacharyya", 0.125, 0.25)])
def test_curvature_of_divergences_where_both_are_equal(name, variance, mean):
    one, nowhere = torch.eye(2, **F64), torch.zeros(2, **F64)

    def along(x):
        return getattr(planar, name)(nowhere + x[0] * one[0], one + x[1] * torch.outer(one[0], one[0]), nowhere, one)

    at = torch.zeros(2, **F64)
    assert along(at).item() == 0
    found = torch.autograd.functional.hessian(along, at)
    torch.testing.assert_close(found, torch.diag(torch.tensor([mean, variance], **F64)), rtol=0, atol=1e-12)
