"""Covariances that the experiments make: ill-conditioned ones with a nuisance tail, and regions of handwritten digits."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Split", "digit_regions", "nuisance_covariances"]


@dataclass(frozen=True)
class Split:
    """Matrices ``(N, n, n)`` and labels ``(N,)`` for training and for testing."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def condition(self) -> float:
        """Median condition number of the training matrices."""
        values = torch.linalg.eigvalsh(self.x_train)
        return float((values[:, -1] / values[:, 0]).median())


def nuisance_covariances(
    seed: int,
    *,
    ridge: float = 1e-9,
    classes: int = 10,
    features: int = 20,
    latent: int = 4,
    frames: int = 40,
    per_class: int = 40,
) -> Split:
    """Low-rank class structure under noise whose level varies over four decades between channels: small eigenvalues tell nothing.

    Class ``c`` has a mixing ``A_c ~ N(0, 1)``; a sample mixes ``frames`` latent vectors by ``(A_c + 1.2 N(0, 1)) diag(exp(N(0, 1) / 2))``,
    adds noise of standard deviation ``10^U(-5, -1)`` drawn per channel, and gives the covariance divided by its trace plus ``ridge I``.

    Args:
        seed: Seed of everything.
        ridge: Multiple of the identity that sets the conditioning: 1e-9 gives about 6e8, 1e-2 about 60.
        classes, features, latent, frames, per_class: Sizes; half of each class trains.

    Returns:
        Float64 covariances, the halves of every class in random order.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    total = classes * per_class
    label = torch.arange(classes).repeat_interleave(per_class)
    mixing = normal(classes, features, latent)[label] + 1.2 * normal(total, features, latent)
    mixing = mixing * torch.exp(0.5 * normal(total, 1, latent))
    level = 10 ** (4 * torch.rand(total, features, 1, generator=g, dtype=torch.float64) - 5)
    x = mixing @ normal(total, latent, frames) + level * normal(total, features, frames)
    x = x - x.mean(-1, keepdim=True)
    C = x @ x.mT / (frames - 1)
    C = C / C.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + ridge * torch.eye(features, dtype=torch.float64)
    first = (torch.arange(total) % per_class) < per_class // 2
    return Split(C[first], label[first], C[~first], label[~first])


def digit_regions(seed: int, *, train: int = 900, test: int = 600, ridge: float = 1e-5) -> Split:
    """Region covariances of scikit-learn's 8 x 8 digits: every pixel's position, intensity, first and second derivatives.

    Twelve features a pixel, one covariance an image, divided by its trace plus ``ridge I``: well behaved (condition about 2e3), and the
    small eigenvalues carry signal.

    Args:
        seed: Seed of the split; images of one split never appear in the other.
        train, test: Sizes.
        ridge: Multiple of the identity.

    Returns:
        Float64 covariances ``(N, 12, 12)``.

    Raises:
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: pip install 'spdnorm[demo]'") from error
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images).reshape(-1, 8, 8) / 16.0
    y = torch.from_numpy(labels).long()
    padded = torch.nn.functional.pad(x[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    middle, left, right = padded[:, 1:-1, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    up, down = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    dx, dy = (right - left) / 2, (down - up) / 2
    dxx, dyy = right - 2 * middle + left, down - 2 * middle + up
    dxy = (padded[:, 2:, 2:] - padded[:, 2:, :-2] - padded[:, :-2, 2:] + padded[:, :-2, :-2]) / 4
    grid = torch.linspace(-1, 1, 8, dtype=x.dtype)
    column, row = grid.expand_as(x), grid[:, None].expand_as(x)
    slope = (dx.square() + dy.square()).sqrt()
    blurred = torch.nn.functional.avg_pool2d(padded[:, None], 3, stride=1)[:, 0]
    pixels = torch.stack([column, row, x, blurred, dx, dy, dx.abs(), dy.abs(), slope, dxx, dyy, dxy], dim=1).flatten(2)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    pixels, y = pixels[order[: train + test]], y[order[: train + test]]
    pixels = pixels - pixels.mean(-1, keepdim=True)
    C = pixels @ pixels.mT / (pixels.shape[-1] - 1)
    C = C / C.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + ridge * torch.eye(C.shape[-1], dtype=C.dtype)
    return Split(C[:train], y[:train], C[train:], y[train:])
