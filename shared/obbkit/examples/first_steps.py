"""Boxes, codes, overlaps, suppression and evaluation in a few lines each."""

import torch

from geocore.planar import obb_iou_matrix
from obbkit import RotatedMAP, build_coder, roi_align_rotated, rotated_nms
from obbkit.data import ship_scenes
from obbkit.losses import rotated_iou_loss
from obbkit.views import rotate_view

images, targets = ship_scenes(2, seed=0)
truth = targets[0]["boxes"]  # cx, cy, w, h, angle in radians, y down
print("ships", truth.shape, "overlaps", obb_iou_matrix(truth, truth).diagonal())

coder = build_coder("psc", num_step=3, dual_freq=False)
print("angles", truth[:, 4], "by way of codes", coder.decode(coder.encode(truth[:, 4])))

guess = (truth + 0.5).requires_grad_()
loss = rotated_iou_loss(guess, truth)
loss.backward()
print(f"loss {loss.item():.3f}, its gradient is exact and finite: {bool(guess.grad.isfinite().all())}")

found = torch.cat([truth, truth + 0.3])
scores = torch.linspace(1, 0.5, len(found))
keep = rotated_nms(found, scores, 0.5)
print("kept", keep.tolist(), "of", len(found))

metric = RotatedMAP(num_classes=1, eval_mode="area")
metric.update([{"boxes": found[keep], "scores": scores[keep], "labels": torch.zeros(len(keep)).long()}], targets[:1])
print("mAP", metric.compute()["mAP"])

turned, (moved,) = rotate_view(images[:1], [truth], 0.5)
rois = torch.cat([torch.zeros(len(moved), 1), moved], 1)
print("features of each ship, upright again", roi_align_rotated(turned, rois, (4, 8)).shape)
