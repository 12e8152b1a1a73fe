"""Places where such code goes wrong in silence: half precision, squares, the seam of an angle, projected sizes, sheared views."""

from math import log, pi

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from geocore import planar
from obbkit import RotatedMAP, losses
from obbkit.views import rotate_view

T = torch.tensor
F64 = {"dtype": torch.float64}
LOSSES = ("gwd_loss", "kld_loss", "jd_loss", "kfiou_loss", "probiou_loss", "rotated_iou_loss", "circumscribed_iou_loss")
LARGE = T([[500.0, 400, 700, 120, 0.3], [30, 30, 12, 5, 1.0]])  # covariances of the first do not fit into float16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_pixels_in_half_precision(name, dtype):
    fn = getattr(losses, name)
    pred = (LARGE + T([[8.0, 5, 20, -10, 0.1], [0.5, 0.5, 1, -1, 0.1]])).to(dtype)
    target, eps = LARGE.to(dtype), torch.finfo(dtype).eps
    x, y = pred.clone().requires_grad_(), pred.float().requires_grad_()
    for reduction in ("none", "mean"):
        found, wanted = fn(x, target, reduction=reduction), fn(y, target.float(), reduction=reduction)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), wanted, rtol=eps, atol=eps)
    torch.testing.assert_close(
        torch.autograd.grad(found, x)[0].float(), torch.autograd.grad(wanted, y)[0], rtol=8 * eps, atol=torch.finfo(dtype).tiny
    )


@pytest.mark.parametrize("name", ["gwd_loss", "kld_loss", "jd_loss", "kfiou_loss", "probiou_loss"])
def test_gaussians_are_blind_to_the_angle_of_squares(name):
    square = T([5.0, 5, 8, 8, 0.2], **F64)
    turn = T([0, 0, 0, 0, pi / 4], **F64)
    fn = getattr(losses, name)
    assert fn(square + turn, square).item() == pytest.approx(fn(square, square).item(), abs=1e-5)
    assert losses.rotated_iou_loss(square + turn, square).item() == pytest.approx(1 - 2**0.5 / 2, abs=1e-9)  # 1 / sqrt 2 of the area
    flat = square * T([1, 1, 1, 0.5, 1], **F64)
    assert fn(flat + turn, flat).item() > fn(flat, flat).item() + 0.01


def test_kfiou_of_equal_boxes_is_a_third():
    assert losses.kfiou_loss(LARGE.double(), LARGE.double(), reduction="none").tolist() == pytest.approx([2 / 3, 2 / 3], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_angles_a_quarter_turn_apart(dtype):
    """Half a period of error is -pi/2, where the smooth L1 is linear: its value is pi/2 - beta/2, its slope one."""
    zero = torch.zeros(1, dtype=dtype)
    tol = {torch.float16: 2e-3, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    for gap in (pi / 2, -pi / 2):
        a = T([gap], dtype=dtype).requires_grad_()
        value = losses.symmetry_consistency(a, zero, -a.detach(), 0.0)
        assert value.item() == pytest.approx(pi / 2 - 0.05, abs=tol)
        assert torch.autograd.grad(value, a)[0].abs().item() == pytest.approx(1, abs=tol)


def test_projected_size_by_hand():
    """A box of 10 x 4 at 30 degrees has a hull of 10 c + 4 s by 10 s + 4 c; in a frame turned with it too."""
    c, s = 3**0.5 / 2, 0.5
    width, height = 10 * c + 4 * s, 10 * s + 4 * c
    box = T([7.0, 5, 10, 4, pi / 6], **F64)
    low, high = planar.obb_to_aabb(box).split(2)
    assert (high - low).tolist() == pytest.approx([width, height], abs=1e-12)
    for turn in (0.0, 1.1, pi / 2):
        target = T([7.0, 5, width, height / 2, turn], **F64)
        found = losses.circumscribed_iou_loss(box + T([0, 0, 0, 0, turn], **F64), target)
        assert found.item() == pytest.approx(log(2), abs=1e-9)  # the target covers half of the hull
        mirrored = T([7.0, 5, 10, 4, turn - pi / 6], **F64)  # the other diagonal has the same hull: only symmetry tells them apart
        assert losses.circumscribed_iou_loss(mirrored, target).item() == pytest.approx(log(2), abs=1e-9)


def test_circumscribed_loss_has_the_slope_of_its_sizes():
    g = torch.Generator().manual_seed(0)
    target = torch.rand(8, 5, generator=g, **F64) * T([20, 20, 12, 12, 3.0], **F64) + T([0, 0, 8, 8, -1.5], **F64)
    near = target + 0.5 * torch.randn(8, 5, generator=g, **F64)
    angle = near[:, 4:]
    assert gradcheck(lambda x: losses.circumscribed_iou_loss(torch.cat([x, angle], 1), target), near[:, :4].requires_grad_())


@pytest.mark.parametrize("align_corners", [False, True])
def test_square_views_are_those_of_affine_grid(align_corners):
    images = torch.rand(2, 3, 17, 17, generator=torch.Generator().manual_seed(0), **F64)
    t = 0.7
    theta = T([[np.cos(t), np.sin(t), 0], [-np.sin(t), np.cos(t), 0]], **F64).expand(2, 2, 3)
    grid = F.affine_grid(theta, [2, 3, 17, 17], align_corners=align_corners)
    wanted = F.grid_sample(images, grid, padding_mode="reflection", align_corners=align_corners)
    found, _ = rotate_view(images, [torch.zeros(0, 5)] * 2, t, align_corners=align_corners)
    torch.testing.assert_close(found, wanted)


def test_wide_views_are_not_sheared():
    """A turn keeps lengths: two points of a wide image stay as far apart as they were. A grid of -1 to 1 turned as it is would not."""
    image = torch.zeros(1, 1, 40, 80)
    places = T([[30.5, 20.5], [50.5, 20.5]])
    for x, y in places.tolist():
        image[0, 0, int(y), int(x)] = 1
    for t in (0.5, 1.2, pi / 2):
        turned, (moved,) = rotate_view(image, [torch.cat([places, torch.ones(2, 3)], 1)], t, padding="zeros")
        y, x = torch.meshgrid(torch.arange(40.0) + 0.5, torch.arange(80.0) + 0.5, indexing="ij")
        for centre in moved[:, :2]:
            near = turned[0, 0] * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 9)
            mean = torch.stack([(near * x).sum(), (near * y).sum()]) / near.sum()
            assert (mean - centre).abs().max() < 0.2
        assert (moved[0, :2] - moved[1, :2]).norm().item() == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("mode", ["11points", "area", "coco"])
def test_detections_of_a_class_without_objects_cost_nothing(mode):
    one = {"boxes": LARGE[1:], "labels": T([0])}
    metric = RotatedMAP(eval_mode=mode, num_classes=3)
    metric.update([{"boxes": LARGE[[1, 0]], "scores": T([0.5, 0.9]), "labels": T([0, 1])}], [one])
    found = metric.compute()
    assert found["mAP"] == pytest.approx(1.0)
    assert np.isnan(found["per_class"][1]["AP"])
    assert found["per_class"][1]["detections"] == 1
