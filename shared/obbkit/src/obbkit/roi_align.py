"""Features of oriented regions."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from geocore._checks import check_positive_int, check_trailing
from geocore._clamp import clamp

__all__ = ["roi_align_rotated"]


def roi_align_rotated(
    features: Float[Tensor, "batch channels h w"],
    rois: Float[Tensor, "rois 6"],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Float[Tensor, "rois channels oh ow"]:
    """Average of bilinear samples on a grid in each oriented region.

    Values and borders are those of RoIAlign: samples up to one pixel outside take the value of the border, farther ones are zero.

    Source: He et al., Mask R-CNN, ICCV 2017; Ding et al., RoI Transformer, CVPR 2019.

    Args:
        features: Shape ``(batch, channels, H, W)``.
        rois: Rows ``(image, cx, cy, w, h, t)``, angle positive from +x towards +y.
        output_size: Height and width of the result.
        spatial_scale: Pixels of the features per unit of the regions.
        sampling_ratio: Samples of a cell along each side.
        aligned: Pixel centres at half numbers; ``False`` for the older shift by half a pixel, with sides of at least one.

    Raises:
        ValueError: If a shape or option is wrong, or a region names an image that is not there.
    """
    check_trailing("features", features, (None, None, None, None))
    check_trailing("rois", rois, (6,))
    check_positive_int("sampling_ratio", sampling_ratio)
    oh, ow = (output_size, output_size) if isinstance(output_size, int) else output_size
    check_positive_int("output_size[0]", oh)
    check_positive_int("output_size[1]", ow)
    image = rois[:, 0].detach().long()
    if len(rois) and not bool(((image >= 0) & (image < len(features))).all()):
        raise ValueError(f"rois must name images 0 to {len(features) - 1}, got {image.min().item()} to {image.max().item()}")
    dtype = torch.promote_types(features.dtype, torch.float32)
    maps, roi = features.to(dtype), rois.to(dtype)
    centre = roi[:, 1:3] * spatial_scale - (0.5 if aligned else 0.0)
    sides = roi[:, 3:5] * spatial_scale
    if not aligned:
        sides = clamp(sides, min=1.0)
    k = sampling_ratio
    x = ((torch.arange(ow * k, device=roi.device, dtype=dtype) + 0.5) / (ow * k) - 0.5) * sides[:, :1]
    y = ((torch.arange(oh * k, device=roi.device, dtype=dtype) + 0.5) / (oh * k) - 0.5) * sides[:, 1:]
    c, s = roi[:, 5].cos()[:, None, None], roi[:, 5].sin()[:, None, None]
    x, y = x[:, None, :], y[:, :, None]
    px, py = c * x - s * y + centre[:, :1, None], s * x + c * y + centre[:, 1:, None]
    height, width = maps.shape[-2:]
    inside = (px >= -1) & (px <= width) & (py >= -1) & (py <= height)
    grid = torch.stack([(2 * px + 1) / width - 1, (2 * py + 1) / height - 1], -1)
    out = maps.new_zeros(len(roi), maps.shape[1], oh, ow)
    for b in image.unique().tolist():
        own = (image == b).nonzero()[:, 0]
        flat = grid[own].reshape(1, -1, ow * k, 2)
        samples = F.grid_sample(maps[b : b + 1], flat, mode="bilinear", padding_mode="border", align_corners=False)
        samples = samples.reshape(maps.shape[1], len(own), oh * k, ow * k).transpose(0, 1) * inside[own].unsqueeze(1)
        out = out.index_copy(0, own, samples.unflatten(-1, (ow, k)).mean(-1).unflatten(-2, (oh, k)).mean(-2))
    return out.to(features.dtype)
