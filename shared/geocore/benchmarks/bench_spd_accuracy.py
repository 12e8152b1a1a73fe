"""Relative errors of the gradient of the matrix logarithm beside the peers: ``python benchmarks/bench_spd_accuracy.py [--json F]``."""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geoopt
import mpmath
import numpy as np
import torch
from pyriemann.geometry.base import logm as pyriemann_logm
from spd_learn.functional import matrix_log
from torch import Tensor

from geocore import spd
from geocore.spd._reference import logm_reference
from geocore.testing.benchmark import environment

LOG: dict[str, Callable[[Tensor], Tensor]] = {
    "geocore": spd.logm,
    "geoopt": geoopt.linalg.sym_logm,
    "pyriemann": pyriemann_logm,
    "spd_learn": matrix_log.apply,
}
SPECTRA = {
    "condition 1e2": [10 ** (2 * i / 7) for i in range(8)],
    "condition 1e10": [10 ** (10 * i / 7 - 5) for i in range(8)],
    "2 I": [2.0] * 8,
    "1, 1, 1, 2, 2, 5, 5, 5": [1.0, 1, 1, 2, 2, 5, 5, 5],
    "gaps 1e-6": [1 + i * 1e-6 for i in range(8)],
    "gaps 1e-9": [1 + i * 1e-9 for i in range(8)],
    "gaps 1e-13": [1 + i * 1e-13 for i in range(8)],
    "1e-8 (1, 1, 2, 2, 3, 3, 4, 4)": [1e-8 * v for v in (1, 1, 2, 2, 3, 3, 4, 4)],
    "1e-12 (1, 1, 1.5, 2, 3, 5, 5, 8)": [1e-12 * v for v in (1, 1, 1.5, 2, 3, 5, 5, 8)],
}
G = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
G = (G + G.T) / 2


def matrix(values: list[float]) -> Tensor:
    v = torch.tensor(values, dtype=torch.float64)
    if bool((v == v[0]).all()):
        return torch.diag(v)
    Q = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    X = (Q * v) @ Q.T
    return (X + X.T) / 2


def exact_gradient(X: Tensor) -> Tensor:
    """Daleckii and Krein's formula with 60 digits."""
    with mpmath.workdps(60):
        values, U = mpmath.eigsy(mpmath.matrix(X.tolist()))
        inner = U.T * mpmath.matrix(G.tolist()) * U
        for i in range(8):
            for j in range(8):
                gap = values[i] - values[j]
                equal = abs(gap) < mpmath.mpf(10) ** -50 * values[i]
                inner[i, j] *= 1 / values[i] if equal else (mpmath.log(values[i]) - mpmath.log(values[j])) / gap
        out = U * inner * U.T
    return torch.tensor([[float(out[i, j]) for j in range(8)] for i in range(8)], dtype=torch.float64)


def gradient_errors(values: list[float]) -> dict[str, float]:
    X = matrix(values)
    want = exact_gradient(X)
    found = {}
    for name, f in LOG.items():
        x = X.clone()[None].requires_grad_()
        (g,) = torch.autograd.grad(f(x), x, G[None])
        found[name] = float(((g[0] + g[0].T) / 2 - want).norm() / want.norm())
    return found


def second_errors(values: list[float]) -> dict[str, float]:
    """Error of a Hessian-vector product against that of an iteration without eigenvectors."""
    X = matrix(values)

    def product(f: Callable[[Tensor], Tensor]) -> Tensor:
        x = X.clone()[None].requires_grad_()
        (g,) = torch.autograd.grad((f(x) * G).sum(), x, create_graph=True)
        if not g.requires_grad:
            return torch.zeros_like(X)
        (h,) = torch.autograd.grad((g * G).sum(), x)
        return (h[0] + h[0].T) / 2

    want = product(logm_reference)
    return {name: float((product(f) - want).norm() / want.norm()) for name, f in LOG.items()}


def measure() -> dict[str, Any]:
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # the peers' own
    rows = {f"gradient, eigenvalues {name}": gradient_errors(values) for name, values in SPECTRA.items()}
    rows |= {f"second derivative, {name}": second_errors(SPECTRA[name]) for name in ("condition 1e2", "2 I", "1, 1, 1, 2, 2, 5, 5, 5")}

    def spell(value: float) -> float | str:
        return value if np.isfinite(value) else "NaN"

    names = list(LOG)
    return {
        "command": "python benchmarks/bench_spd_accuracy.py",
        "environment": environment(),
        "packages": ["geocore", "geoopt", "pyriemann", "spd-learn"],
        "units": "Relative error of derivatives of the matrix logarithm in float64 against 60 digits",
        "columns": names,
        "rows": [{"name": what, "values": [spell(values[name]) for name in names]} for what, values in rows.items()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the table to this file")
    options, _ = parser.parse_known_args()  # errors need neither the runner's --quick nor --device
    document = measure()
    print(" " * 56, *(f"{name:>12}" for name in document["columns"]))
    for row in document["rows"]:
        print(f"{row['name']:<56}", *(f"{v:>12}" if isinstance(v, str) else f"{v:>12.3g}" for v in row["values"]))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
