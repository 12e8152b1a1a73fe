"""Oriented boxes: overlap, its gradient, tables and lists of pairs, suppression; kernel against the plain formula and shapely."""

from math import inf, nan, pi

import pytest
import shapely
import torch
from torch.autograd import gradcheck

from geocore import _ops, planar
from geocore.planar import _overlap, _suppress
from geocore.testing import check_op, check_transforms, nan_filled_empty

OPS = torch.ops.geocore
DTYPES = (torch.float32, torch.float64)
TOL = {torch.float32: 5e-6, torch.float64: 1e-12}
NONE = torch.empty(0, dtype=torch.int64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def boxes(*shape, size=100.0, seed=0, dtype=torch.float64):
    """Random boxes whose numbers float32 holds exactly."""
    r = torch.rand(*shape, 5, generator=generator(seed), dtype=torch.float64)
    low = torch.tensor([0, 0, 0.01, 0.01, -3.0], dtype=torch.float64)
    high = torch.tensor([1, 1, 0.41, 0.41, 3.0], dtype=torch.float64)
    b = low + r * (high - low)
    b[..., :4] *= size
    return b.float().to(dtype)


def whole_numbers(n, turn=pi / 2):
    """Boxes with edges and corners in common, where minima tie."""
    b = torch.randint(0, 8, (n, 5), generator=generator()).double()
    b[:, 2:4] = 2 * (b[:, 2:4] + 1)
    b[:, 4] = torch.randint(0, 4, (n,), generator=generator(1)) * turn
    return b.float().double()


def noisy(a, sigma):
    return (a + sigma * torch.randn(a.shape, generator=generator(9), dtype=a.dtype)).float().double()


def swapped(a):
    return torch.cat([a[:, :2], a[:, 3:4], a[:, 2:3], a[:, 4:] + pi / 2], 1).float().double()


REGIMES = {
    "random, 100 px": lambda n: (boxes(n), boxes(n, seed=1)),
    "random, unit square": lambda n: (boxes(n, size=1.0), boxes(n, size=1.0, seed=1)),
    "coordinates of 0.01": lambda n: (boxes(n, size=0.01), boxes(n, size=0.01, seed=1)),
    "whole numbers, multiples of 45 degrees": lambda n: (whole_numbers(n, pi / 4), whole_numbers(n, pi / 4).flip(0)),
    "nearly the same, 1e-6 px": lambda n: (boxes(n), noisy(boxes(n), 1e-6)),
    "nearly the same, 1e-7 px": lambda n: (boxes(n), noisy(boxes(n), 1e-7)),
    "the same with sides swapped": lambda n: (boxes(n), swapped(boxes(n))),
}


def smaller(a, b):
    return torch.minimum(a[..., 2] * a[..., 3], b[..., 2] * b[..., 3]).double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("regime", REGIMES)
def test_agrees_with_shapely(regime, dtype):
    a, b = REGIMES[regime](1000)
    p, q = (shapely.polygons(planar.obb_to_corners(x).numpy()) for x in (a, b))
    shared = torch.from_numpy(shapely.area(shapely.intersection(p, q)))
    union = torch.from_numpy(shapely.area(p) + shapely.area(q)) - shared
    area = OPS.obb_intersection(a.to(dtype), b.to(dtype)).double()
    assert ((area - shared).abs() / union).max() < TOL[dtype]
    assert (planar.obb_iou(a.to(dtype), b.to(dtype)).double() - shared / union).abs().max() < TOL[dtype]


MEASURES = {
    "area": (OPS.obb_intersection, OPS.obb_intersection_backward, _overlap.intersection_reference, ()),
    "over union": (OPS.obb_ratio, OPS.obb_ratio_backward, _overlap.ratio_reference, (False,)),
    "over first": (OPS.obb_ratio, OPS.obb_ratio_backward, _overlap.ratio_reference, (True,)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (17,), (5, 7), (1000,)], ids=str)
@pytest.mark.parametrize("measure", MEASURES)
def test_values_and_gradient(measure, shape, dtype):
    forward, backward, reference, options = MEASURES[measure]
    a, b = boxes(*shape, size=60, dtype=dtype), boxes(*shape, size=60, seed=1, dtype=dtype)
    weight = torch.randn(shape, generator=generator(2)).to(dtype)
    with nan_filled_empty():
        value, slopes = forward(a, b, *options), backward(a, b, weight, *options)
    assert value.shape == shape
    assert slopes[0].shape == slopes[1].shape == a.shape
    if value.numel():
        eps = torch.finfo(dtype).eps
        wanted, vjp = torch.func.vjp(lambda x, y: reference(x, y, *options), a.double(), b.double())
        unit = smaller(a, b) if measure == "area" else 1.0
        assert ((value.double() - wanted).abs() / unit).max() < 64 * eps
        for found, slope in zip(slopes, vjp(weight.double()), strict=True):
            assert (found.double() - slope).abs().max() <= 256 * eps * slope.abs().max()


@pytest.mark.parametrize("measure", MEASURES)
def test_gradient_at_ties_is_that_of_autograd(measure):
    """Edges in common: autograd halves where a minimum ties, and so does the kernel; upright boxes of whole numbers are exact."""
    _, backward, reference, options = MEASURES[measure]
    a, b = whole_numbers(3000, 0.0), whole_numbers(3000, 0.0).roll(1, 0)
    pairs = [(a, b), (a, a), (a, a + torch.tensor([1.0, 0, 0, 0, 0])), (a, a * torch.tensor([1.0, 1, 0, 1, 1]))]
    weight = torch.randn(3000, generator=generator(), dtype=torch.float64)
    for x, y in pairs:
        found = backward(x, y, weight, *options)
        wanted = torch.func.vjp(lambda p, q: reference(p, q, *options), x, y)[1](weight)
        torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-13)  # sums of products up to 100


@pytest.mark.parametrize("turn", [0.0, pi / 2])
@pytest.mark.parametrize("common", [0.0, 0.7])
def test_gradient_of_boxes_with_parallel_sides(turn, common):
    """Level edges add no area, but they sweep some when they tilt; against central differences of the kernel itself."""
    a, b = boxes(300, size=1.0), boxes(300, size=1.0, seed=1)
    a[:, 2:4] += 0.3
    b[:, 2:4] += 0.3
    a[:, 4], b[:, 4] = common + turn, common
    found = torch.cat(OPS.obb_intersection_backward(a, b, torch.ones(300, dtype=torch.float64)), 1)
    steps = torch.eye(10, dtype=torch.float64)[:, None].expand(10, 300, 10)

    def difference(step):
        plus, minus = (OPS.obb_intersection(a + sign * step * steps[..., :5], b + sign * step * steps[..., 5:]) for sign in (1, -1))
        return (plus - minus).mT / (2 * step)

    wanted = difference(1e-6)
    smooth = (wanted - difference(2e-6)).abs().amax(1) < 1e-6  # no kink within the steps
    assert smooth.float().mean() > 0.9
    torch.testing.assert_close(found[smooth], wanted[smooth], rtol=0, atol=2e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_is_finite_where_boxes_coincide_and_zero_where_they_are_apart(dtype):
    a = boxes(2000)
    turn, flat = torch.tensor([0, 0, 0, 0, pi]), torch.tensor([1.0, 1, 0, 1, 1])
    for b in (a, noisy(a, 1e-6), noisy(a, 1e-4), swapped(a), a + turn, a * 0, a * flat):
        for x, y in ((a, b), (b, a)):
            weight = torch.ones(2000, dtype=dtype)
            for of_first in (False, True):
                for slope in OPS.obb_ratio_backward(x.to(dtype), y.to(dtype), weight, of_first):
                    assert slope.isfinite().all()
            for slope in OPS.obb_intersection_backward(x.to(dtype), y.to(dtype), weight):
                assert slope.isfinite().all()
                assert (slope[:, :2].abs().amax(-1) <= 1.01 * torch.hypot(a[:, 2], a[:, 3])).all()  # no side is longer
    far = a.to(dtype) + torch.tensor([1e3, 0, 0, 0, 0.5], dtype=dtype)
    assert (OPS.obb_intersection(a.to(dtype), far) == 0).all()
    for weight in (1.0, -inf):  # the slope of a logarithm at zero
        assert all(
            (slope == 0).all() for slope in OPS.obb_intersection_backward(a.to(dtype), far, torch.full((2000,), weight, dtype=dtype))
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_item_does_not_depend_on_its_neighbours(dtype):
    a, b = boxes(41, size=60, dtype=dtype), boxes(41, size=60, seed=1, dtype=dtype)
    for i in range(5):
        a[i, i] = nan
        b[5 + i, i] = nan
    a[10, 4], b[11, 4] = inf, -inf
    a[12, 4], b[13, 4] = 3e4, 1e7  # beyond the reduction of the lanes: the C library serves them
    area, slopes = OPS.obb_intersection(a, b), OPS.obb_intersection_backward(a, b, torch.ones(41, dtype=dtype))
    assert area[:12].isnan().all()
    assert area[12:].isfinite().all()
    assert slopes[0][12:].isfinite().all()
    wanted = _overlap.intersection_reference(a[12:].double(), b[12:].double())
    spread = torch.maximum(a[12:, 4].abs(), b[12:, 4].abs()).double().clamp(min=8) * torch.finfo(dtype).eps
    assert ((area[12:].double() - wanted).abs() <= 60 * 60 * spread).all()
    for i in range(12, 41):
        assert torch.equal(area[i], OPS.obb_intersection(a[i], b[i]))
        assert torch.equal(slopes[1][i], OPS.obb_intersection_backward(a[i], b[i], a.new_ones(()))[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_angles_of_every_size(dtype):
    """A box turned by many quarter turns is the box, as far as the dtype knows the angle."""
    a = boxes(64, dtype=dtype)
    b = a.clone()
    for quarters in (1, 2, 3, 5, -6, 1001, -4002, 6001):
        b[:, 4] = a[:, 4] + quarters * (pi / 2)
        if quarters % 2:
            b[:, 2], b[:, 3] = a[:, 3], a[:, 2]
        wanted = _overlap.intersection_reference(a.double(), b.double())
        error = ((OPS.obb_intersection(a, b).double() - wanted).abs() / smaller(a, b)).max()
        assert error < 128 * torch.finfo(dtype).eps * max(1, abs(quarters) / 8)


def test_strided_and_expanded_input():
    a, b = boxes(12, 3), boxes(12, 3, seed=1)
    wanted = OPS.obb_intersection(a, b)
    assert torch.equal(OPS.obb_intersection(a.mT.contiguous().mT, torch.stack([b, b], -1)[..., 0]), wanted)
    one = b[:1, :1].expand(12, 3, 5)
    assert torch.equal(OPS.obb_intersection(a, one), OPS.obb_intersection(a, one.contiguous()))
    x = a.clone().requires_grad_()
    OPS.obb_intersection(x, one).sum().backward()  # the gradient that arrives is expanded
    assert x.grad.shape == a.shape


def test_public_functions_and_both_derivatives_are_the_same_without_kernels(monkeypatch):
    a, b = boxes(40, size=60), boxes(40, size=60, seed=1)
    seen = []
    gate = _ops.kernel_may_run
    monkeypatch.setattr(_overlap, "kernel_may_run", lambda *x, **k: seen.append(gate(*x, **k)) or seen[-1])

    def derivatives(mode):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = planar.obb_iou(x, y, mode)
        first = torch.autograd.grad(value.square().sum(), (x, y), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, y))
        return value.detach(), tuple(g.detach() for g in first), second

    for mode in ("iou", "iof", "giou", "diou"):
        seen.clear()
        ours = derivatives(mode)
        assert seen == [True]
        with _ops.without_kernels():
            wanted = derivatives(mode)
        assert seen == [True, False]
        for found, value, tol in zip(ours, wanted, (1e-13, 1e-11, 1e-9), strict=True):
            torch.testing.assert_close(found, value, rtol=tol, atol=tol)
    assert gradcheck(planar.obb_intersection_area, (a.requires_grad_(), b.requires_grad_()))


def test_transforms():
    a, b = boxes(12, size=60), boxes(12, size=60, seed=1)
    check_transforms(planar.obb_iou, a, b)


@pytest.mark.parametrize(
    "name", ["obb_intersection", "obb_intersection_backward", "obb_ratio", "obb_ratio_backward", "obb_iou_table", "obb_iou_list", "obb_nms"]
)
def test_opcheck(name):
    a, b = boxes(7, size=60), boxes(7, size=60, seed=1)
    live = [x.clone().requires_grad_() for x in (a, b, boxes(7)[:, 0])]
    arguments = {
        "obb_intersection": live[:2],
        "obb_intersection_backward": live,
        "obb_ratio": (*live[:2], False),
        "obb_ratio_backward": (*live, True),
        "obb_iou_table": (a[None].requires_grad_(), b[None].requires_grad_(), True),
        "obb_iou_list": (a, b, False),
        "obb_nms": (a, NONE, 0.3, -1),
    }[name]
    check_op(getattr(OPS, name).default, *arguments)


def both_ways(fn):
    found = fn()
    with _ops.without_kernels():
        return found, fn()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 0), (1, 1), (3, 17), (61, 2500), (300, 211)])
def test_matrix_is_that_of_the_plain_route(n, m, mode, dtype):
    a, b = boxes(n, size=200, dtype=dtype), boxes(m, size=200, seed=1, dtype=dtype)
    with nan_filled_empty():
        found, wanted = both_ways(lambda: planar.obb_iou_matrix(a, b, mode))
    assert found.shape == (n, m)
    torch.testing.assert_close(found, wanted, rtol=0, atol=64 * torch.finfo(dtype).eps)
    i, j, value = planar.obb_iou_matrix(a, b, mode, sparse=True)
    assert i.dtype == j.dtype == torch.int64
    assert torch.equal(torch.stack([i, j]), found.nonzero().mT)
    assert torch.equal(value, found[i, j])
    if dtype == torch.float64:
        assert torch.equal(torch.stack([i, j]), wanted.nonzero().mT)


def test_matrix_of_batches_layouts_and_half_precision():
    a, b = boxes(2, 3, 9, size=60), boxes(3, 8, size=60, seed=1)
    wanted = planar.obb_iou(a[:, :, :, None], b[:, None])
    torch.testing.assert_close(planar.obb_iou_matrix(a, b), wanted, rtol=0, atol=1e-14)
    torch.testing.assert_close(planar.obb_iou_matrix(a.mT.contiguous().mT, b), wanted, rtol=0, atol=1e-14)
    for dtype in (torch.float16, torch.bfloat16):
        found, plain = both_ways(lambda dtype=dtype: planar.obb_iou_matrix(a.to(dtype), b.to(dtype)))
        assert found.dtype == dtype
        torch.testing.assert_close(found, plain, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradient_of_the_matrix(sparse):
    a, b = boxes(40, size=60).requires_grad_(), boxes(70, size=60, seed=1).requires_grad_()

    def slopes():
        found = planar.obb_iou_matrix(a, b, chunk=97, sparse=sparse)
        value = found[2] if sparse else found
        return value.detach(), *torch.autograd.grad((value * value.cos()).sum(), (a, b))

    found, wanted = both_ways(slopes)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    (through_op,) = torch.autograd.grad(OPS.obb_iou_table(a[None], b[None], False).sum(), a)
    (plain,) = torch.autograd.grad(planar.obb_iou_matrix(a, b).sum(), a)
    torch.testing.assert_close(through_op, plain, rtol=1e-11, atol=1e-12)


def test_a_box_with_nan_has_no_overlap_in_the_matrix_and_spoils_no_other():
    a, b = boxes(30, size=60), boxes(31, size=60, seed=1)
    clean = planar.obb_iou_matrix(a, b)
    a[3, 4], b[5, 0] = nan, nan
    found, wanted = both_ways(lambda: planar.obb_iou_matrix(a, b))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    keep = torch.ones_like(clean, dtype=torch.bool)
    keep[3], keep[:, 5] = False, False
    assert torch.equal(found[keep], clean[keep])
    assert (found[~keep] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("n", "size"), [(0, 1), (1, 1), (17, 50), (1300, 400), (2500, 60)])
def test_suppression_keeps_the_same_boxes(n, size, threshold, dtype):
    b = boxes(n, size=100, dtype=dtype) * torch.tensor([size / 100, size / 100, 0.5, 0.5, 1.0], dtype=dtype)
    kinds = torch.randint(0, 3, (n,), generator=generator(4))
    for some in (None, kinds):
        for limit in (None, 1, 40):
            found, wanted = both_ways(lambda some=some, limit=limit: _suppress.suppress(b, some, threshold, limit))
            assert torch.equal(found, wanted)
    if n:
        assert torch.equal(OPS.obb_nms(b, NONE, threshold, 0), NONE)


def test_suppression_by_shapely_and_of_duplicates():
    b = boxes(400, size=100) * torch.tensor([2.0, 2, 1, 1, 1])
    shapes = shapely.polygons(planar.obb_to_corners(b).numpy())
    kept = []
    for k, shape in enumerate(shapes):
        other = shapes[kept]
        shared = shapely.area(shapely.intersection(shape, other))
        if not (shared > 0.3 * (shapely.area(shape) + shapely.area(other) - shared)).any():
            kept.append(k)
    assert OPS.obb_nms(b, NONE, 0.3, -1).tolist() == kept
    twice = torch.cat([b[:50] * 10, swapped(b[:50] * 10)])  # the sides grow with the distances
    alone = OPS.obb_nms(twice[:50], NONE, 0.9, -1)
    assert torch.equal(OPS.obb_nms(twice, NONE, 0.9, -1), alone)
    same = b[:1].expand(9, 5)
    assert OPS.obb_nms(same, NONE, 0.99, -1).tolist() == [0]
    assert OPS.obb_nms(same, torch.arange(9), 0.0, -1).tolist() == list(range(9))
    assert OPS.obb_nms(same, NONE, 1.0, -1).tolist() == list(range(9))  # never more than one


def test_overlap_equal_to_the_threshold_is_let_through():
    pair = torch.tensor([[0.0, 0, 2, 2, 0], [0, 1, 2, 2, 0], [9, 9, 4, 4, 0], [9, 9, 4, 2, 0]])
    assert both_ways(lambda: _suppress.suppress(pair, None, 0.5, None).tolist()) == ([0, 1, 2, 3],) * 2
    assert both_ways(lambda: _suppress.suppress(pair, None, 0.49, None).tolist()) == ([0, 1, 2],) * 2


@pytest.mark.slow
@pytest.mark.parametrize("level", ["base", "v3"])
def test_other_instruction_sets(level, python):
    code = (
        "import torch\n"
        "from geocore import _ops, planar\n"
        "from geocore.planar import _suppress\n"
        "g = torch.Generator().manual_seed(0)\n"
        "for dtype, tol in ((torch.float32, 1e-6), (torch.float64, 1e-13)):\n"
        "    r = torch.rand(601, 5, generator=g, dtype=torch.float64).to(dtype)\n"
        "    x = r * torch.tensor([200, 200, 40, 20, 6], dtype=dtype) + torch.tensor([0, 0, 4, 4, -3], dtype=dtype)\n"
        "    def run():\n"
        "        a = x.clone().requires_grad_()\n"
        "        iou = planar.obb_iou(a, x.roll(1, 0) * 0.9)\n"
        "        return iou, torch.autograd.grad(iou.sum(), a)[0], planar.obb_iou_matrix(x, x), _suppress.suppress(x, None, 0.3, None)\n"
        "    found = run()\n"
        "    with _ops.without_kernels():\n"
        "        wanted = run()\n"
        "    assert _ops.kernel_may_run('obb_intersection', x)\n"
        "    assert all(float((f - w).abs().max()) <= tol * max(1, float(w.abs().max())) for f, w in zip(found[:3], wanted[:3]))\n"
        "    assert torch.equal(found[3], wanted[3])\n"
    )
    python(code, GEOCORE_ISA=level)


@pytest.mark.bad_input
def test_wrong_shapes_are_refused_by_the_kernel_too():
    a = boxes(3)
    with pytest.raises(RuntimeError, match=r"obb_intersection: expected a and b of one shape \(\.\.\., 5\)"):
        OPS.obb_intersection(a, a[:2])
    with pytest.raises(RuntimeError, match="obb_intersection: expected a and b of one dtype"):
        OPS.obb_intersection(a, a.float())
    with pytest.raises(RuntimeError, match="obb_intersection: expected float32 or float64"):
        OPS.obb_intersection(a.half(), a.half())
    with pytest.raises(RuntimeError, match="expected grad with one number per pair"):
        OPS.obb_intersection_backward(a, a, a[:2, 0])
    with pytest.raises(RuntimeError, match=r"obb_iou_table: expected a of shape \(k, n, 5\)"):
        OPS.obb_iou_table(a, a, False)
    with pytest.raises(RuntimeError, match=r"obb_iou_list: expected a of shape \(n, 5\)"):
        OPS.obb_iou_list(a[None], a[None], False)
    with pytest.raises(RuntimeError, match=r"obb_nms: expected int64 kinds of shape \(n,\) or \(0,\)"):
        OPS.obb_nms(a, torch.zeros(2, dtype=torch.int64), 0.5, -1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_equals_cpu(dtype):
    a, b = boxes(5000, size=300, dtype=dtype), boxes(5000, size=300, seed=1, dtype=dtype)
    weight, kinds = torch.randn(5000, generator=generator(2)).to(dtype), torch.randint(0, 3, (5000,), generator=generator(4))
    tol = 256 * torch.finfo(dtype).eps
    near = a + torch.tensor([3, 2, 1, 1, 0.2], dtype=dtype)
    for found, wanted in (
        (OPS.obb_intersection(a.cuda(), near.cuda()), OPS.obb_intersection(a, near)),
        *zip(
            OPS.obb_intersection_backward(a.cuda(), near.cuda(), weight.cuda()), OPS.obb_intersection_backward(a, near, weight), strict=True
        ),
        (OPS.obb_iou_table(a[None, :700].cuda(), b[None].cuda(), False), OPS.obb_iou_table(a[None, :700], b[None], False)),
    ):
        assert (found.cpu() - wanted).abs().max() <= tol * wanted.abs().max()
    for some in (NONE, kinds):
        for limit in (-1, 100):
            assert torch.equal(OPS.obb_nms(a.cuda(), some.cuda(), 0.3, limit).cpu(), OPS.obb_nms(a, some, 0.3, limit))
    for n, m in ((700, 5000), (1, 5000), (5000, 1), (0, 5), (5, 0)):
        (i, j), ratio = OPS.obb_iou_list(a[:n].cuda(), b[:m].cuda(), True)
        assert ((i * m + j).diff() > 0).all()  # row by row
        assert (ratio != 0).all()
        found = torch.zeros(n, m, dtype=dtype)
        found[i.cpu(), j.cpu()] = ratio.cpu()
        torch.testing.assert_close(found, OPS.obb_iou_table(a[None, :n], b[None, :m], True)[0], rtol=0, atol=tol)
