"""Canonical poses as features for classical models."""

from typing import Any

import numpy as np
import torch

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError as error:
    raise ImportError("frameavg.integrations.sklearn needs scikit-learn: pip install 'frameavg[sklearn]'") from error

from frameavg.functional import canonicalize
from geocore.frames import PCAFrame

__all__ = ["FrameTransformer"]


class FrameTransformer(TransformerMixin, BaseEstimator):
    """Coordinates of each cloud in one canonical pose, flattened: rotation-invariant features for any scikit-learn estimator.

    The pose is that of ``frameavg.canonicalize``, so it is discontinuous where axes change places.

    Args:
        dim: Dimension of the points; rows of ``X`` are ``n dim`` coordinates, point by point, or ``X`` has shape ``(items, n, dim)``.
        group: ``"E"``, ``"SE"``, ``"O"`` or ``"SO"``.

    Example:
        >>> FrameTransformer(dim=3).fit_transform(np.random.default_rng(0).normal(size=(5, 30))).shape
        (5, 30)
    """

    def __init__(self, dim: int = 3, group: str = "SE") -> None:
        self.dim = dim
        self.group = group

    def fit(self, X: Any, y: Any = None) -> "FrameTransformer":
        """Check the input; nothing is learned.

        Raises:
            ValueError: If rows are no whole number of points or hold NaN.
        """
        self.n_features_in_ = self._points(X).shape[1] * self.dim
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Canonical coordinates, shape ``(items, n dim)``."""
        points = self._points(X)
        frame = PCAFrame(self.dim, self.group, degenerate="ignore")
        pose, _ = canonicalize(torch.from_numpy(points), frame)
        return pose.flatten(1).numpy()

    def _points(self, X: Any) -> np.ndarray:
        values = np.asarray(X, dtype=np.float64)
        if values.ndim == 2 and values.shape[1] % self.dim == 0:
            values = values.reshape(len(values), -1, self.dim)
        if values.ndim != 3 or values.shape[-1] != self.dim or values.shape[1] == 0:
            raise ValueError(f"X must have shape (items, n * {self.dim}) or (items, n, {self.dim}), got {np.shape(X)}")
        if not np.isfinite(values).all():
            raise ValueError("X must be finite, got NaN or infinity")
        return values
