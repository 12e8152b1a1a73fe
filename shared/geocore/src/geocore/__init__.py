"""The geometric core of Isometry: rotations, orthogonal, structured and SPD matrices in plain PyTorch.

Each room is importable alone (``import geocore.so3``) and loads on first use (``geocore.so3.exp``):

- ``so3``: rotations of 3-space; every representation, exp and log, means, interpolation, alignment;
- ``son``: rotations of n-space; exp, log, Cayley, Haar, Procrustes, the spectral view of skew matrices;
- ``se2``, ``se3``, ``sim3``: rigid motions and similarities;
- ``blocks``: block-diagonal rotations, the rotary-embedding kernel, block-diagonal and Monarch products;
- ``householder``: reflections, compact WY, UT transform, factorisation into reflectors;
- ``orthogonal``: validation, polar factor, parametrisations of weights, manifolds for geoopt;
- ``spd``: SPD matrices; matrix functions with exact gradients, metrics, means, parametrisations, covariances;
- ``groups``: motions, permutations and finite groups as data, and how they act on typed tensors;
- ``frames``: input-dependent frames (principal axes, weighted, minimal, permutation) to average or canonicalise with;
- ``planar``: plane geometry; angles, oriented boxes, exact differentiable overlap, Gaussians, polygons;
- ``structured``: permutations, truncated LDU and SVD, Monarch projection, DCT, DST and Hadamard transforms;
- ``testing``: tolerances, strategies and derivative, transform and equivariance checks for your own tests;
- ``demo``: the demonstration protocol behind the ``geocore`` command.

Conventions, everywhere: active rotations acting on column vectors, right-handed axes, radians, quaternions ``wxyz``
unless ``order=`` says otherwise, any leading batch dimensions, dtype and device of the input kept.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geocore import blocks, demo, frames, groups, householder, orthogonal, planar, se2, se3, sim3, so3, son, spd, structured, testing

__all__ = [
    "__version__",
    "blocks",
    "demo",
    "frames",
    "groups",
    "householder",
    "orthogonal",
    "planar",
    "se2",
    "se3",
    "sim3",
    "so3",
    "son",
    "spd",
    "structured",
    "testing",
]
__version__ = "0.1.0"

_ROOMS = frozenset(__all__) - {"__version__"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"geocore.{name}")
    raise AttributeError(f"module 'geocore' has no attribute {name!r}; its rooms are {', '.join(sorted(_ROOMS))}")


def __dir__() -> list[str]:
    return sorted(__all__)
