"""Points on surfaces with their normals: simple shapes generated here, or meshes from files."""

from collections.abc import Callable
from itertools import pairwise
from math import pi
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from geocore import so3
from geocore._checks import check_positive_int, check_trailing

__all__ = ["SHAPES", "SurfaceNormals", "read_obj", "sample_mesh", "sample_shapes"]


def _ellipsoid(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    axes = 0.4 + torch.rand(3, generator=generator)
    u = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    return u * axes, u / axes


def _torus(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    minor = 0.2 + 0.3 * torch.rand((), generator=generator)
    a, b = 2 * pi * torch.rand(2, n, generator=generator)
    normal = torch.stack([a.cos() * b.cos(), a.sin() * b.cos(), b.sin()], -1)
    ring = torch.stack([a.cos(), a.sin(), torch.zeros(n)], -1)
    return ring + minor * normal, normal


def _box(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    size = 0.4 + torch.rand(3, generator=generator)
    areas = torch.stack([size[1] * size[2], size[0] * size[2], size[0] * size[1]])
    axis = torch.multinomial(areas, n, replacement=True, generator=generator)
    sign = 2.0 * torch.randint(2, (n,), generator=generator) - 1
    x = (2 * torch.rand(n, 3, generator=generator) - 1) * size
    normal = torch.zeros(n, 3).scatter(1, axis[:, None], sign[:, None])
    return torch.where(normal != 0, normal * size, x), normal


def _cone(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    height, radius = 0.5 + torch.rand(2, generator=generator)
    a = 2 * pi * torch.rand(n, generator=generator)
    s = torch.rand(n, generator=generator).sqrt()
    x = torch.stack([radius * s * a.cos(), radius * s * a.sin(), height * (1 - s)], -1)
    return x, torch.stack([height * a.cos(), height * a.sin(), radius.expand(n)], -1)


SHAPES: dict[str, Callable[[int, torch.Generator], tuple[Tensor, Tensor]]] = {
    "ellipsoid": _ellipsoid,
    "torus": _torus,
    "box": _box,
    "cone": _cone,
}


def sample_shapes(
    n_shapes: int, n_points: int = 512, *, rotate: bool = False, seed: int = 0
) -> tuple[Float[Tensor, "shapes points 3"], Float[Tensor, "shapes points 3"]]:
    """Random ellipsoids, tori, boxes and cones of random proportions, scaled to unit size.

    Args:
        n_shapes: Shapes; the kinds take turns.
        n_points: Points of each.
        rotate: Turn every shape by a uniformly random rotation.
        seed: Seed.

    Returns:
        Points and unit normals.
    """
    check_positive_int("n_shapes", n_shapes)
    check_positive_int("n_points", n_points)
    generator = torch.Generator().manual_seed(seed)
    kinds = list(SHAPES.values())
    drawn = [kinds[i % len(kinds)](n_points, generator) for i in range(n_shapes)]
    points = _unit_size(torch.stack([x for x, _ in drawn]))
    normals = torch.nn.functional.normalize(torch.stack([normal for _, normal in drawn]), dim=-1)
    if rotate:
        R = so3.random((n_shapes,), generator=generator)
        points, normals = points @ R.mT, normals @ R.mT
    return points, normals


def _unit_size(points: Tensor) -> Tensor:
    """Centred, the farthest point at distance one."""
    centred = points - points.mean(-2, keepdim=True)
    return centred / centred.norm(dim=-1).amax(-1)[..., None, None]


def read_obj(path: str | Path) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "faces 3"]]:
    """Vertices and triangles of a Wavefront OBJ file; larger faces are cut into fans.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it has no face, or a line cannot be read; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the ABC data set (deep-geometry.github.io/abc-dataset) ships such files")
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            kind, *rest = line.split() or [""]
            try:
                if kind == "v":
                    vertices.append([float(value) for value in rest[:3]])
                    if len(rest) < 3:
                        raise ValueError("a vertex needs three coordinates")
                elif kind == "f":
                    corners = [int(corner.split("/")[0]) for corner in rest]
                    corners = [c - 1 if c > 0 else len(vertices) + c for c in corners]
                    if len(corners) < 3 or not all(0 <= c < len(vertices) for c in corners):
                        raise ValueError("a face needs three vertices that exist")
                    faces += [[corners[0], b, c] for b, c in pairwise(corners[1:])]
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    if not faces:
        raise ValueError(f"{path} must hold faces to sample from, got {len(vertices)} vertices and none")
    return torch.tensor(vertices), torch.tensor(faces)


def sample_mesh(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], n_points: int, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points 3"]]:
    """Uniform points of a triangle mesh with the normals of their faces.

    Raises:
        ValueError: If the mesh has no area.
    """
    check_trailing("vertices", vertices, (None, 3))
    a, b, c = vertices[faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    area = cross.norm(dim=-1)
    if not bool(area.sum() > 0):
        raise ValueError("faces must have an area, got a mesh of zero area")
    chosen = torch.multinomial(area, n_points, replacement=True, generator=generator)
    r, s = torch.rand(2, n_points, 1, generator=generator, dtype=vertices.dtype)
    r = r.sqrt()
    points = (1 - r) * a[chosen] + r * (1 - s) * b[chosen] + r * s * c[chosen]
    return points, cross[chosen] / area[chosen, None]


class SurfaceNormals(Dataset[tuple[Tensor, Tensor]]):
    """Clouds of points with normals from a folder of meshes, as the experiment on ABC uses them.

    Args:
        folder: Folder, searched for ``*.obj``.
        n_points: Points of a cloud, drawn anew at every access.
        scale: Range of a random factor on the unit-sized shape.
        rotate: Turn every cloud by a random rotation.
        seed: Seed of the draws; together with the index it decides a cloud.

    Raises:
        FileNotFoundError: If there is no mesh.
    """

    def __init__(
        self, folder: str | Path, n_points: int = 512, *, scale: tuple[float, float] = (1.0, 1.0), rotate: bool = False, seed: int = 0
    ) -> None:
        check_positive_int("n_points", n_points)
        self.paths = sorted(Path(folder).rglob("*.obj"))
        if not self.paths:
            raise FileNotFoundError(
                f"no *.obj below {folder}; unpack a chunk of the ABC data set (deep-geometry.github.io/abc-dataset) there"
            )
        self.n_points, self.scale, self.rotate, self.seed = n_points, scale, rotate, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Points and unit normals."""
        generator = torch.Generator().manual_seed(self.seed * len(self) + index)
        points, normals = sample_mesh(*read_obj(self.paths[index]), self.n_points, generator)
        low, high = self.scale
        points = _unit_size(points) * (low + (high - low) * torch.rand((), generator=generator))
        if self.rotate:
            R = so3.random((), generator=generator)
            points, normals = points @ R.mT, normals @ R.mT
        return points, normals
