"""Errors of rotation formulas at the places where they break, ours and the peers': ``python benchmarks/bench_accuracy.py [--json F]``.

Errors of values are in machine epsilons, over 400 axes at every angle from 0 to pi that the tests use; the reference is the same formula
in 50-digit arithmetic. For log, the error includes the rounding of the input matrix. Derivatives are what autograd returns.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.geometry.liegroup as kornia_lie
import mpmath
import numpy as np
import pypose
import roma
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from geocore import se3, so3
from geocore.testing import ANGLES, max_error_eps
from geocore.testing.benchmark import environment

AXES = 400
Function = Callable[[Tensor], Tensor]
EXP: dict[str, Function] = {
    "geocore": so3.exp,
    "roma": roma.rotvec_to_rotmat,
    "kornia": lambda w: kornia_lie.So3.exp(w).matrix(),
    "pypose": lambda w: pypose.so3(w).Exp().matrix(),
    "scipy": lambda w: torch.from_numpy(Rotation.from_rotvec(w.numpy()).as_matrix()).to(w.dtype),
}
LOG: dict[str, Function] = {
    "geocore": so3.log,
    "roma": roma.rotmat_to_rotvec,
    "kornia": lambda R: kornia_lie.So3.from_matrix(R).log(),
    "pypose": lambda R: pypose.mat2SO3(R).Log().tensor(),
    "scipy": lambda R: torch.from_numpy(Rotation.from_matrix(R.numpy()).as_rotvec()).to(R.dtype),
}
DISTANCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "geocore": so3.geodesic,
    "roma": roma.rotmat_geodesic_distance,
    "kornia": lambda A, B: (kornia_lie.So3.from_matrix(A).inverse() * kornia_lie.So3.from_matrix(B)).log().norm(dim=-1),
    "pypose": lambda A, B: (pypose.mat2SO3(A).Inv() @ pypose.mat2SO3(B)).Log().tensor().norm(dim=-1),
}
RIGID: dict[str, Function] = {
    "geocore": se3.exp,
    "kornia": lambda xi: kornia_lie.Se3.exp(xi).matrix(),
    "pypose": lambda xi: pypose.se3(xi).Exp().matrix(),
}


def axes(dtype: torch.dtype) -> Tensor:
    u = torch.randn(AXES, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (u / u.norm(dim=-1, keepdim=True)).to(dtype)


def vectors(dtype: torch.dtype) -> Tensor:
    """Rotation vectors at every angle, rounded to the dtype: these exact numbers are the inputs."""
    return torch.cat([axes(dtype) * theta for theta in ANGLES])


def exact_exp(w: Tensor) -> np.ndarray:
    """Rodrigues' formula on the given numbers, in 50 digits."""
    out = np.empty((len(w), 3, 3))
    with mpmath.workdps(50):
        for i, row in enumerate(w.double().tolist()):
            x, y, z = map(mpmath.mpf, row)
            t = mpmath.sqrt(x * x + y * y + z * z)
            W = mpmath.matrix([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            a, b = (mpmath.sin(t) / t, (1 - mpmath.cos(t)) / t**2) if t else (1, mpmath.mpf("0.5"))
            R = mpmath.eye(3) + a * W + b * W * W
            out[i] = [[float(R[r, c]) for c in range(3)] for r in range(3)]
    return out


def angle_between(R: Tensor) -> np.ndarray:
    """Angles of the given float64 matrices by the half-angle formula in 50 digits."""
    out = np.empty(len(R))
    with mpmath.workdps(50):
        for i, M in enumerate(R.tolist()):
            m = [[mpmath.mpf(v) for v in row] for row in M]
            sine = mpmath.sqrt((m[2][1] - m[1][2]) ** 2 + (m[0][2] - m[2][0]) ** 2 + (m[1][0] - m[0][1]) ** 2)
            out[i] = float(mpmath.atan2(sine, m[0][0] + m[1][1] + m[2][2] - 1))
    return out


def exp_error(dtype: torch.dtype) -> dict[str, float]:
    w = vectors(dtype)
    truth = exact_exp(w)
    return {name: max_error_eps(f(w), truth) for name, f in EXP.items()}


def log_error(dtype: torch.dtype) -> dict[str, float]:
    """Against the vector whose exponential, rounded to the dtype, is the input; at pi up to sign."""
    w = vectors(torch.float64)
    R = torch.from_numpy(exact_exp(w)).to(dtype)
    found = {}
    for name, f in LOG.items():
        got = f(R).double()
        flip = torch.where((got * w).sum(-1, keepdim=True) < 0, -1.0, 1.0)
        sign = torch.where(w.norm(dim=-1, keepdim=True) > torch.pi - 1e-6, flip, 1.0)
        found[name] = max_error_eps((got * sign).to(dtype), w)
    return found


def distance_error(dtype: torch.dtype) -> dict[str, float]:
    """From the identity, so that no product has been rounded before."""
    R = torch.from_numpy(exact_exp(vectors(torch.float64))).to(dtype)
    truth = angle_between(R.double())
    eye = torch.eye(3, dtype=dtype).expand_as(R)
    return {name: max_error_eps(f(eye, R), truth) for name, f in DISTANCE.items()}


def rigid_error(dtype: torch.dtype) -> dict[str, float]:
    """Translation parts of SE(3) exponentials against the series in 50 digits, angles up to 0.01, where closed forms cancel."""
    small = [t for t in ANGLES if 0 < t <= 0.01]
    w = torch.cat([axes(dtype)[:20] * t for t in small])
    xi = torch.cat([axes(dtype)[:20].roll(1, 0).repeat(len(small), 1), w], dim=-1)
    truth = np.empty((len(xi), 3))
    with mpmath.workdps(50):
        for i, row in enumerate(xi.double().tolist()):
            X = mpmath.zeros(4)
            r, (x, y, z) = row[:3], row[3:]
            X[0, 1], X[0, 2], X[1, 0], X[1, 2], X[2, 0], X[2, 1] = -z, y, z, -x, -y, x
            X[0, 3], X[1, 3], X[2, 3] = r
            T = mpmath.expm(X)
            truth[i] = [float(T[k, 3]) for k in range(3)]
    return {name: max_error_eps(f(xi)[..., :3, 3], truth) for name, f in RIGID.items()}


def hessian_at_zero() -> dict[str, float]:
    """Largest error of the second derivatives of exp at the identity, which are those of ``W W / 2``."""

    def half_square(w: Tensor) -> Tensor:
        W = torch.stack([so3.hat(e) for e in torch.eye(3, dtype=w.dtype)])
        M = torch.einsum("i,ijk->jk", w, W)
        return M @ M / 2

    zero = torch.zeros(3, dtype=torch.float64)
    want = torch.stack([torch.autograd.functional.hessian(lambda w, i=i: half_square(w).flatten()[i], zero) for i in range(9)])
    found = {}
    for name in ("geocore", "roma", "kornia", "pypose"):
        rows = [torch.autograd.functional.hessian(lambda w, i=i, f=EXP[name]: f(w).flatten()[i], zero) for i in range(9)]
        found[name] = float((torch.stack(rows) - want).abs().max())
    return found


def gradient_at(theta: float) -> dict[str, float]:
    """Largest entry of the gradient of the distance between two rotations ``theta`` apart, float32."""
    found = {}
    for name, f in DISTANCE.items():
        B = so3.exp(axes(torch.float32)[:1] * theta)
        A = torch.eye(3)[None].clone().requires_grad_()
        found[name] = float(torch.autograd.grad(f(A, B).sum(), A)[0].abs().max())
    return found


def measure() -> dict[str, Any]:
    measured = {
        "exp float32": exp_error(torch.float32),
        "exp float64": exp_error(torch.float64),
        "log float32": log_error(torch.float32),
        "log float64": log_error(torch.float64),
        "distance float32": distance_error(torch.float32),
        "distance float64": distance_error(torch.float64),
        "SE(3) exp, small angles, float64": rigid_error(torch.float64),
        "second derivative of exp at 0": hessian_at_zero(),
        "gradient of the distance at 0": gradient_at(0.0),
        "gradient of the distance at pi": gradient_at(torch.pi),
    }

    def spell(value: float | None) -> float | str | None:
        return value if value is None or np.isfinite(value) else "NaN"

    names = list(EXP)
    return {
        "command": "python benchmarks/bench_accuracy.py",
        "environment": environment(),
        "packages": names,
        "units": "Largest error in eps of the dtype; last three rows: error of the second derivative, largest entry of the gradients",
        "columns": names,
        "rows": [{"name": what, "values": [spell(values.get(name)) for name in names]} for what, values in measured.items()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the table to this file")
    options, _ = parser.parse_known_args()  # errors need neither the runner's --quick nor --device
    document = measure()
    print(" " * 36, *(f"{name:>12}" for name in document["columns"]))
    for row in document["rows"]:
        print(
            f"{row['name']:<36}", *(f"{v:>12}" if isinstance(v, str) else " " * 12 if v is None else f"{v:>12.3g}" for v in row["values"])
        )
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
