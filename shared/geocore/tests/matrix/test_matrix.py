"""Every public function of the rooms against every promise of the README: one list of functions, one suite.

The rooms' own tests hold what is special to a function (known values, degenerate points); here is what all have in common. Compilation and
export take a whole room as one graph: that no function breaks the graph is what is asserted, and one graph costs seconds once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from geocore import blocks, householder, orthogonal, se2, se3, sim3, so3, son, spd, structured
from geocore.testing import (
    assert_close_eps,
    assert_finite,
    assert_same,
    check_batching,
    check_export,
    check_half,
    check_transforms,
    tensor_leaves,
)

ROOMS = {
    "so3": so3,
    "son": son,
    "se2": se2,
    "se3": se3,
    "sim3": sim3,
    "blocks": blocks,
    "householder": householder,
    "orthogonal": orthogonal,
    "spd": spd,
    "structured": structured,
}
BATCH = 3
EXCLUDED = {
    "so3.Alignment": "result tuple",
    "so3.MeanInfo": "result tuple",
    "so3.random": "takes no tensor",
    "son.MeanInfo": "result tuple",
    "son.haar": "takes no tensor",
    "householder.UTTransform": "result tuple, checked through ut_transform",
    "householder.permutation_to_reflectors": "takes integers and reads them; tests/householder",
    "orthogonal.assert_orthogonal": "raises by value: tests/orthogonal; the masks are listed",
    "orthogonal.assert_rotation": "raises by value: tests/orthogonal; the masks are listed",
    "orthogonal.assert_skew": "raises by value: tests/orthogonal; the masks are listed",
    "orthogonal.orthogonal_": "fills a tensor in place with random values; tests/orthogonal",
    "orthogonal.parametrize": "acts on a module; the map itself is listed as Orthogonal",
    "spd.MeanInfo": "result tuple",
    "spd.Metric": "base class; every metric is listed",
    "spd.NotPositiveDefiniteError": "an error",
    "spd.SPDParameter": "takes no tensor; the maps are listed as parametrize",
    "spd.SymEig": "result tuple",
    "spd.assert_spd": "raises by value: tests/spd; the mask is listed",
    "structured.LDU": "result tuple",
    "structured.MonarchProjection": "result tuple",
    "structured.Permutation": "an integer index; tests/structured",
    "structured.SVD": "result tuple",
    "structured.dct_matrix": "takes no tensor; equal to dct of the identity",
    "structured.dft_matrix": "takes no tensor",
    "structured.dst_matrix": "takes no tensor; equal to dst of the identity",
    "structured.hadamard_matrix": "takes no tensor",
    "structured.match": "takes integers",
}

# Compiled whole in tests/so3/test_so3_composition.py.
COMPILED_ELSEWHERE = ("so3",)
# These stand for their rooms in the export: every registered operator, every gradient of our own, every cache and loop is among them.
# What could fail in the others, a graph that breaks or a batch size that becomes a constant, is checked for all when they are compiled.
EXPORTED = {
    *(f"so3.{f}" for f in ("exp", "log", "matrix_to_quat", "quat_to_matrix", "convert", "from_6d", "from_9d", "geodesic", "slerp")),
    "so3.forward_kinematics",
    *(f"son.{f}" for f in ("exp", "exp spectral", "log", "cayley", "special_procrustes", "skew_spectral", "expm_skew_apply")),
    *(f"son.{f}" for f in ("givens_product", "generalized_cross", "gram_schmidt")),
    *(f"{room}.{f}" for room in ("se2", "se3", "sim3") for f in ("exp", "log", "act")),
    *(f"blocks.{f}" for f in ("apply_block_rotation", "rope_apply", "BlockRotation", "blockdiag_matmul", "monarch_matmul")),
    *(f"householder.{f}" for f in ("reflect", "apply_product", "to_matrix", "ut_transform", "from_orthogonal")),
    *(f"orthogonal.{f}" for f in ("polar", "newton_schulz", "is_rotation", "Orthogonal cayley", "Orthogonal householder")),
    *(f"spd.{f}" for f in ("eigh", "logm", "sqrtm newton_schulz", "powm learned", "clamp_eig", "frechet", "lyapunov", "sylvester")),
    *(f"spd.{f}" for f in ("bw_transport 1", "cholesky_vector", "unvech", "parametrize cholesky", "cov oas", "cov lagged", "Stein")),
    *(f"structured.{f}" for f in ("dct", "dct fft", "idst", "hadamard", "hartley", "svd_trunc", "block_power_iteration")),
}


@dataclass(frozen=True)
class Entry:
    """One function of one room with inputs and the promises that do not apply, each with its reason.

    ``inputs`` has float64 tensors with a leading batch dimension; ``call`` fixes options. ``eps`` bounds the float32 error in units of
    the scale of the result.
    """

    name: str
    inputs: tuple[Tensor, ...]
    call: Callable[..., Any]
    constant: str = ""
    first_order: str = ""
    reverse_only: str = ""
    no_vmap: str = ""
    no_batch: str = ""
    no_half: str = ""
    no_single: str = ""
    no_graph: str = ""
    no_export: str = ""
    complex_input: str = ""
    eps: float = 64.0

    @property
    def room(self) -> str:
        return self.name.split(".")[0]


ENTRIES: list[Entry] = []


def entry(name: str, *inputs: Tensor, call: Callable[..., Any] | None = None, **flags: Any) -> None:
    room, function = name.split()[0].split(".")
    ENTRIES.append(Entry(name, inputs, call or getattr(ROOMS[room], function), **flags))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(BATCH, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotations(*shape: int, n: int = 3, seed: int = 0, turn: float = 2.0) -> Tensor:
    """Rotations by angles up to ``turn``, away from half turns, where logarithms jump."""
    P = torch.randn(BATCH, *shape, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    S = P - P.mT
    return torch.matrix_exp(S * (turn / torch.linalg.matrix_norm(S, 2))[..., None, None])


def skew(*shape: int, n: int, seed: int = 0) -> Tensor:
    P = normal(*shape, n, n, seed=seed)
    return 0.5 * (P - P.mT)


def unit(*shape: int, seed: int = 0) -> Tensor:
    x = normal(*shape, seed=seed)
    return x / x.norm(dim=-1, keepdim=True)


FRACTION = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
MRP = 0.3 * normal(3)
TREE = (-1, 0, 0, 1)
SECOND = "many steps: second derivatives cost seconds here; those of the steps are checked"

# so3
for _name in ("hat", "exp", "left_jacobian", "left_jacobian_inverse", "right_jacobian", "right_jacobian_inverse"):
    entry(f"so3.{_name}", normal(3))
for _name in ("rotvec_to_matrix", "rotvec_to_quat", "rotvec_to_euler", "rotvec_to_mrp"):
    entry(f"so3.{_name}", normal(3))
for _name in ("euler_to_matrix", "euler_to_quat", "euler_to_rotvec"):
    entry(f"so3.{_name}", normal(3))
for _name in ("mrp_to_quat", "mrp_to_rotvec", "from_mrp"):
    entry(f"so3.{_name}", MRP)
for _name in (
    "vee",
    "log",
    "matrix_to_rotvec",
    "matrix_to_quat",
    "matrix_to_euler",
    "to_5d",
    "to_6d",
    "to_9d",
    "to_10d",
    "to_mrp",
    "renormalize",
):
    entry(f"so3.{_name}", rotations())
for _name in ("quat_conj", "quat_normalize", "standardize", "quat_to_matrix", "quat_to_rotvec", "quat_to_euler", "quat_to_mrp"):
    entry(f"so3.{_name}", unit(4))
entry("so3.quat_mul", normal(4), normal(4, seed=1))
entry("so3.quat_apply", unit(4), normal(3))
entry("so3.reorder", unit(4), call=lambda q: so3.reorder(q, "wxyz", "xyzw"))
entry("so3.convert", normal(6), call=lambda v: so3.convert(v, "6d", "quat", order="xyzw"))
entry("so3.from_5d", normal(5))
entry("so3.from_6d", normal(6))
entry("so3.from_9d", normal(9))
entry("so3.from_10d", normal(10))
entry("so3.geodesic", rotations(), rotations(seed=1))
entry("so3.chordal", rotations(), rotations(seed=1))
entry("so3.slerp", unit(4), unit(4, seed=1), FRACTION)
entry("so3.slerp of matrices", rotations(), rotations(seed=1), FRACTION)
entry("so3.squad", *(unit(4, seed=s) for s in range(4)), FRACTION, first_order=SECOND)
entry("so3.squad_controls", unit(4, 4))
entry(
    "so3.RotationSpline",
    rotations(3, turn=0.8),
    call=lambda R: so3.RotationSpline(R, [0.0, 1.0, 2.5], iterations=2)(0.7),
    first_order=SECOND,
)
entry("so3.mean", rotations(3, turn=0.8), normal(3).abs(), call=lambda R, w: so3.mean(R, w, max_iter=3), first_order=SECOND)
entry("so3.mean chordal", rotations(4, turn=0.8), call=lambda R: so3.mean(R, metric="chordal"))
entry("so3.mean l1", rotations(4, turn=0.8), call=lambda R: so3.mean(R, metric="l1", max_iter=2), first_order=SECOND)
entry("so3.align", normal(5, 3), normal(5, 3, seed=1), call=lambda x, y: so3.align(x, y, scale=True))
entry("so3.rotation_between", normal(3), normal(3, seed=1))
entry("so3.forward_kinematics", rotations(4), normal(4, 3), call=lambda R, o: so3.forward_kinematics(R, o, TREE))

# son
entry("son.skew", normal(4, 4))
entry("son.vec", skew(n=4))
entry("son.skew_from_vec", normal(6))
entry("son.exp", skew(n=4))
entry("son.exp spectral", skew(n=5))
entry("son.log", rotations(n=4))
entry("son.cayley", normal(4, 4))
entry("son.cayley_inv", rotations(n=4, turn=1.5))
entry("son.geodesic", rotations(n=4), rotations(n=4, seed=1))
entry("son.mean", rotations(2, n=3, turn=0.8), call=lambda R: son.mean(R, max_iter=3), first_order=SECOND)
entry("son.mean chordal", rotations(3, n=4, turn=0.8), call=lambda R: son.mean(R, metric="chordal"))
entry("son.special_procrustes", normal(4, 4))
entry("son.nearest_special_orthogonal", normal(3, 3))
entry("son.skew_spectral", skew(n=4), call=lambda S: son.skew_spectral(S)[0])
entry("son.expm_skew_apply", skew(n=4), normal(), normal(4))
entry("son.expm_skew_apply_reference", skew(n=4), normal(), normal(4))
entry("son.joint_skew_spectral", skew(1, n=4), call=lambda S: son.joint_skew_spectral(S)[0], constant="documented: a constant for autograd")
entry("son.commutator_norm", normal(3, 3), normal(3, 3, seed=1))
entry("son.givens_product", normal(6), call=lambda a: son.givens_product(a, n=4))
entry("son.generalized_cross", normal(4, 3))
entry("son.gram_schmidt", normal(4, 3))

# se2, se3, sim3
for _room, _size, _dim, _space in (("se2", 3, 3, 2), ("se3", 4, 6, 3), ("sim3", 4, 7, 3)):
    _twist = 0.7 * normal(_dim)
    _T, _U = (ROOMS[_room].exp(0.7 * normal(_dim, seed=s)) for s in (1, 2))
    for _name in ("exp", "hat", "left_jacobian", *(("left_jacobian_inverse",) if _room != "sim3" else ())):
        entry(f"{_room}.{_name}", _twist)
    entry(f"{_room}.vee", normal(_size, _size))
    for _name in ("log", "inverse", "adjoint", "to_srt" if _room == "sim3" else "to_rt"):
        entry(f"{_room}.{_name}", _T)
    entry(f"{_room}.compose", _T, _U)
    entry(f"{_room}.act", _T, normal(_space))
    entry(f"{_room}.interpolate", _T, _U, FRACTION)
entry("se2.from_rt", normal(2, 2), normal(2))
entry("se3.from_rt", normal(3, 3), normal(3))
entry("sim3.from_srt", FRACTION, normal(3, 3), normal(3))

# blocks
W1, W2 = normal(2, 3)[:2], normal(2, 2, seed=1)[:2]  # (k, q, p) = (2, 2, 3) and (l, s, r) = (2, 2, 2)
SHARED = "the blocks are weights shared by all vectors: no batch dimension"
COMPLEX = "complex layers are supported"
LAYER = "computed in the dtype of the input, as F.linear is"
entry("blocks.apply_block_rotation", normal(6), rotations(2))
entry("blocks.rope_apply", normal(4), normal(2), normal(2, seed=1))
entry("blocks.BlockRotation", rotations(2), normal(6), call=lambda b, x: blocks.BlockRotation(b).apply(x))
entry("blocks.blockdiag_matmul", normal(6), call=lambda x: blocks.blockdiag_matmul(x, W1.to(x)), complex_input=COMPLEX, no_half=LAYER)
entry("blocks.monarch_matmul", normal(6), call=lambda x: blocks.monarch_matmul(x, W1.to(x), W2.to(x)), complex_input=COMPLEX, no_half=LAYER)
for _name, _args in {
    "blockdiag_dense": (normal(2, 3),),
    "monarch_dense": (normal(2, 3), normal(2, 2, seed=1)),
    "blockdiag_matmul in both": (normal(9), normal(2, 3)),
    "monarch_matmul in all": (normal(9), normal(2, 3), normal(2, 2, seed=1)),
}.items():
    entry(
        f"blocks.{_name}",
        *_args,
        call=getattr(blocks, _name.split()[0]),
        no_batch=SHARED,
        no_export=SHARED,
        complex_input=COMPLEX,
        no_half=LAYER,
    )

# householder
ROUNDED = "orthogonal input rounded to float32 is not orthogonal in float64"
entry("householder.reflect", normal(4), normal(4, seed=1))
entry("householder.compact_wy", normal(4, 3), FRACTION[:, None].repeat(1, 3))
for _name in ("apply_product", "apply_product_reference"):
    entry(f"householder.{_name}", normal(4, 3), normal(4, seed=1))
entry("householder.to_matrix", normal(4, 3), FRACTION[:, None].repeat(1, 3))
entry("householder.decay_mask", -normal(4).abs())


def _ut(K: Tensor, beta: Tensor, decay: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    W, solve = householder.ut_transform(K, beta, decay)
    return W, solve(V)


entry("householder.ut_transform", unit(5, 3), normal(5).sigmoid(), -normal(5, seed=1).abs(), normal(5, 2), call=_ut)
entry("householder.from_orthogonal", rotations(n=4), constant="documented: the number of factors is not continuous", no_single=ROUNDED)

# orthogonal
MASK = "a mask"
BY_DTYPE = "the tolerance is that of the dtype, so low precision is more lenient on purpose"
for _name, _x in {"is_rotation": rotations(), "is_orthogonal": rotations(), "is_skew": skew(n=3)}.items():
    _mask = getattr(orthogonal, _name)
    entry(
        f"orthogonal.{_name}",
        _x,
        call=lambda x, f=_mask: f(x).to(x.dtype),
        constant=MASK,
        no_half=BY_DTYPE,
        no_single=ROUNDED,
    )
entry("orthogonal.orthogonality_error", normal(4, 3), no_half="documented: float32 for half precision")
entry("orthogonal.polar", normal(4, 3))
entry("orthogonal.polar newton", normal(3, 3), call=lambda M: orthogonal.polar(M, method="newton"))
entry("orthogonal.polar qdwh", normal(4, 3), call=lambda M: orthogonal.polar(M, method="qdwh"))
entry("orthogonal.newton_schulz", normal(4, 3), constant="documented: constant unless differentiable=True")
entry("orthogonal.newton_schulz recorded", normal(4, 3), call=lambda M: orthogonal.newton_schulz(M, steps=3, differentiable=True))
for _map in ("exp", "cayley", "householder", "polar"):
    _module = orthogonal.Orthogonal(4, 3, map=_map, dtype=torch.float64, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    entry(f"orthogonal.Orthogonal {_map}", normal(*_module.raw_shape()), call=_module)

# spd


def positive(*shape: int, n: int = 3, seed: int = 0) -> Tensor:
    """SPD matrices of condition about 10."""
    A = normal(*shape, n, n, seed=seed)
    return A @ A.mT / n + 0.5 * torch.eye(n, dtype=torch.float64)


def symmetric(n: int = 3, seed: int = 0) -> Tensor:
    A = normal(n, n, seed=seed)
    return 0.1 * (A + A.mT)


entry("spd.sym", normal(3, 3))
for _name in ("sqrtm", "invsqrtm", "sqrtm_invsqrtm", "logm", "expm", "invm", "nearest_spd", "cholesky_vector"):
    entry(f"spd.{_name}", positive())
entry("spd.eigh", positive(), call=lambda X: spd.eigh(X).values)
entry("spd.logm of eigh", positive(), call=lambda X: spd.logm(spd.eigh(X)))
entry("spd.sqrtm newton_schulz", positive(), call=lambda X: spd.sqrtm(X, method="newton_schulz"))
entry("spd.powm", positive(), call=lambda X: spd.powm(X, 0.3))
entry("spd.powm learned", positive(), FRACTION)
entry("spd.funcm", positive(), call=lambda X: spd.funcm(X, torch.nn.functional.silu))
entry("spd.clamp_eig", positive(), call=lambda X: spd.clamp_eig(X, 1.0))
entry("spd.frechet", positive(), symmetric(), call=lambda X, E: spd.frechet("log", X, E))
entry("spd.lyapunov", positive(), symmetric())
entry("spd.generalized_lyapunov", positive(), positive(seed=1), symmetric())
entry("spd.sylvester", positive(), positive(n=2, seed=1), normal(3, 2))
for _sign in (1, -1):
    entry(f"spd.bw_transport {_sign}", positive(), symmetric(), call=lambda A, V, s=_sign: spd.bw_transport(A, V, s))
entry("spd.vech", positive())
entry("spd.unvech", normal(6))
entry("spd.cholesky_unvector", normal(6))
entry(
    "spd.is_spd",
    positive(),
    call=lambda x: spd.is_spd(x).to(x.dtype),
    constant="a mask",
    no_half="the tolerance is that of the dtype, so low precision is more lenient on purpose",
)
for _map in ("exp", "cholesky", "softplus"):
    entry(f"spd.parametrize {_map}", normal(3, 3), call=spd.parametrize.SPD(_map))  # type: ignore[arg-type]
for _estimator in ("scm", "cov", "corr", "oas", "lwf", "sch"):
    entry(f"spd.cov {_estimator}", normal(3, 8), call=lambda X, e=_estimator: spd.cov.cov(X, e))
entry("spd.cov lagged", normal(3, 8), call=lambda X: spd.cov.lagged_cov(X, [0, 2]))


def _metric(metric: Any, *names: str, **options: Any) -> Callable[..., tuple[Tensor, ...]]:
    def call(P: Tensor, Q: Tensor, V: Tensor) -> tuple[Tensor, ...]:
        every = {
            "dist": lambda: metric.dist(P, Q),
            "inner": lambda: metric.inner(P, V, V),
            "norm": lambda: metric.norm(P, V),
            "exp": lambda: metric.exp(P, V),
            "log": lambda: metric.log(P, Q),
            "geodesic": lambda: metric.geodesic(P, Q, 0.3),
            "transport": lambda: metric.transport(P, Q, V, **options),
            "egrad2rgrad": lambda: metric.egrad2rgrad(P, V),
            "retract": lambda: metric.retract(P, V),
            "vectorize": lambda: metric.vectorize(P, Q),
        }
        return tuple(make() for name, make in every.items() if not names or name in names)

    return call


_METRICS: dict[str, Any] = {
    "AffineInvariant": spd.AffineInvariant(2.0, 0.5),
    "LogEuclidean": spd.LogEuclidean(2.0, -0.3),
    "LogCholesky": spd.LogCholesky(),
    "BuresWasserstein": spd.BuresWasserstein(),
    "GeneralizedBuresWasserstein": spd.GeneralizedBuresWasserstein(torch.diag(torch.tensor([1.0, 3.0]))),
    "PowerEuclidean": spd.PowerEuclidean(0.5),
    "PowerCholesky": spd.PowerCholesky(0.5),
    "BWCholesky": spd.BWCholesky(),
    "Stein": spd.Stein(),
    "Deformed": spd.Deformed(spd.BuresWasserstein(), 0.5),
}
for _name, _m in _METRICS.items():
    _bures = {"steps": 1} if _name in ("BuresWasserstein", "GeneralizedBuresWasserstein", "Deformed") else {}
    _methods = ("dist", "inner", "norm", "egrad2rgrad", "retract") if _name == "Stein" else ()
    _elsewhere = (
        ""
        if _name in ("LogCholesky", "Stein")
        else "a minute to trace all metrics in one graph; tests/spd compiles two, all consist of functions listed here"
    )
    entry(
        f"spd.{_name}",
        *(positive(n=2), positive(n=2, seed=1), symmetric(2)),
        call=_metric(_m, *_methods, **_bures),
        no_graph=_elsewhere,
        no_export=_elsewhere,
    )
for _name in ("AffineInvariant", "BuresWasserstein", "Stein"):
    entry(
        f"spd.{_name} mean",
        positive(4, n=2),
        normal(4).abs(),
        call=lambda X, w, m=_METRICS[_name]: m.mean(X, w, dim=-3, max_iter=6),
        no_graph="two minutes to trace six steps and the Newton steps; tests/spd compiles fewer",
        no_export="as no_graph",
    )

# structured
MATRIX = "one matrix, not a batch"
FIXED = "documented: constant for autograd"
READS = "reads values to choose the pivots or to check the input"
for _name in ("dct", "idct", "dst", "idst", "hartley"):
    entry(f"structured.{_name}", normal(5))
    if _name != "hartley":
        _transform = getattr(structured, _name)
        entry(f"structured.{_name} fft", normal(6), call=lambda x, f=_transform: f(x, type=3, method="fft"))
entry("structured.hadamard", normal(8))
for _name, _call in {
    "svd_trunc": lambda A: structured.svd_trunc(A, 2),
    "svd_trunc gram": lambda A: structured.svd_trunc(A, 2, method="gram"),
    "svd_trunc smallest": lambda A: structured.svd_trunc(A, 2, which="smallest"),
}.items():
    entry(f"structured.{_name}", normal(5, 4), call=_call, constant=FIXED)
entry(
    "structured.svd_trunc randomized",
    normal(5, 4),
    call=lambda A: structured.svd_trunc(A, 2, method="randomized", generator=torch.Generator().manual_seed(0)),
    constant=FIXED,
    no_vmap="a generator inside vmap",
    no_graph="a generator is not traced",
    no_export="a generator is not traced",
)
entry(
    "structured.svd_weighted",
    normal(4, 3),
    normal(3, 5) @ normal(3, 5).mT + torch.eye(3, dtype=torch.float64),
    call=lambda W, C: structured.svd_weighted(W, C, 2),
    constant=FIXED,
    no_vmap=READS,
    no_graph=READS,
    no_export=READS,
    eps=500.0,
)
entry("structured.block_power_iteration", normal(5, 4), normal(4, 2), constant=FIXED)
for _name, _call in {
    "truncated_ldu": lambda W: structured.truncated_ldu(W, 2),
    "full_ldu": structured.full_ldu,
    "column_order": lambda W: W[:, structured.column_order(W, "norm")],
    "project_monarch": lambda M: structured.project_monarch(M, 2, 2, rank=1),
}.items():
    entry(
        f"structured.{_name}",
        torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        call=_call,
        complex_input=COMPLEX if _name == "project_monarch" else "",
        constant=FIXED,
        no_vmap=MATRIX,
        no_batch=MATRIX,
        no_graph=READS,
        no_export=MATRIX,
    )


def selected(*flags: str) -> list[Any]:
    return [pytest.param(e, id=e.name) for e in ENTRIES if not any(getattr(e, f) for f in flags)]


every = pytest.mark.parametrize("e", selected())


def test_every_public_function_is_listed_or_excluded_with_a_reason():
    listed = {e.name.split()[0] for e in ENTRIES}
    known = {id(getattr(ROOMS[name.split(".")[0]], name.split(".")[1])) for name in listed}
    public = {f"{room}.{name}": getattr(module, name) for room, module in ROOMS.items() for name in module.__all__}
    missing = [name for name, f in public.items() if callable(f) and name not in EXCLUDED and id(f) not in known]
    assert not missing
    assert not set(EXCLUDED) - set(public), "excluded, but not public"
    assert not listed & set(EXCLUDED)
    assert not listed - set(public)
    assert all(EXCLUDED.values())


@pytest.mark.parametrize("e", selected("constant"))
def test_derivatives(e, check_directional):
    small = tuple(x[:1] for x in e.inputs) if not e.no_batch else e.inputs
    several = e.name.split(".")[1] in _METRICS  # ten functions of one metric, each with a graph of its own
    check_directional(e.call, *small, second=not e.first_order, forward=not e.reverse_only, joint=several)


@pytest.mark.parametrize("e", [pytest.param(e, id=e.name) for e in ENTRIES if e.constant])
def test_constants_carry_no_gradient(e):
    out = e.call(*(x.clone().requires_grad_() for x in e.inputs)) if e.name != "structured.column_order" else e.call(*e.inputs)
    assert_finite(e.name, out)
    assert not any(leaf.requires_grad for leaf in tensor_leaves(out))


@pytest.mark.parametrize("e", selected("constant", "no_batch"))
def test_function_transforms(e):
    check_transforms(e.call, *e.inputs, vmap=not e.no_vmap, compile=False, compiled_transforms=False)


@pytest.mark.parametrize("e", [pytest.param(e, id=e.name) for e in ENTRIES if e.constant and not e.no_vmap and not e.no_batch])
def test_vmap_of_constants(e):
    assert_same("vmap", torch.vmap(e.call)(*e.inputs), e.call(*e.inputs))


@pytest.mark.parametrize("e", selected("no_batch"))
def test_batch_layout(e):
    check_batching(e.call, *e.inputs, atol=1e-13)


@pytest.mark.parametrize("e", selected("no_half"))
def test_low_precision(e):
    check_half(e.call, *e.inputs)


@pytest.mark.parametrize("e", selected("no_single"))
def test_single_precision_against_double(e):
    single = tuple(x.float() for x in e.inputs)
    got, want = tensor_leaves(e.call(*single)), tensor_leaves(e.call(*(x.double() for x in single)))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        assert_close_eps(a, b, e.eps, scale=max(1.0, b.detach().abs().max().item()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every
def test_cuda_agrees_with_cpu(e):
    for got, want in zip(tensor_leaves(e.call(*(x.cuda() for x in e.inputs))), tensor_leaves(e.call(*e.inputs)), strict=True):
        assert_close_eps(got.cpu(), want, 64 * e.eps, scale=max(1.0, want.detach().abs().max().item()))


@pytest.mark.bad_input
@every
def test_refused_dtypes(e):
    for i, x in enumerate(e.inputs):
        with pytest.raises(TypeError):
            e.call(*e.inputs[:i], x.round().long(), *e.inputs[i + 1 :])
        if not e.complex_input:
            with pytest.raises(TypeError if e.room == "spd" else NotImplementedError):
                e.call(*e.inputs[:i], x.to(torch.complex128), *e.inputs[i + 1 :])


def together(chosen: list[Entry]) -> tuple[Callable[..., list[Tensor]], tuple[Tensor, ...]]:
    """Several functions as one function of all their inputs."""

    def run(*xs: Tensor) -> list[Tensor]:
        out, at = [], 0
        for e in chosen:
            out += tensor_leaves(e.call(*xs[at : at + len(e.inputs)]))
            at += len(e.inputs)
        return out

    return run, tuple(x.contiguous() for e in chosen for x in e.inputs)


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in COMPILED_ELSEWHERE])
def test_compiled_in_one_graph(room):
    """The compiler's trace with every size a symbol, which another batch size must not make anew.

    Below it lies the stage of fake tensors and functional operators, three quarters of the time; it is left to the functions that stand for
    the room in the export, and to those with shared weights, which are exported by none.
    """
    chosen = [e for e in ENTRIES if e.room == room and not e.no_graph]
    for backend, part in (("eager", [e for e in chosen if not e.no_batch]), ("aot_eager", [e for e in chosen if e.no_batch])):
        if not part:
            continue
        fn, args = together(part)
        torch._dynamo.reset()
        compiled = torch.compile(fn, fullgraph=True, dynamic=True, backend=backend)
        if backend == "aot_eager":
            assert_same(f"compiled {room}", compiled(*args), fn(*args))
            continue
        first, second = (tuple(x.repeat(5, *(1 for _ in x.shape[1:]))[:n] for x in args) for n in (11, 13))  # no other size is 11
        assert_same(f"compiled {room}", compiled(*first), fn(*first))
        with torch.compiler.set_stance("fail_on_recompile"):
            assert_same(f"compiled {room}, another batch", compiled(*second), fn(*second))


@pytest.mark.parametrize("room", ROOMS)
def test_exported_with_dynamic_batch(room):
    fn, args = together([e for e in ENTRIES if e.room == room and e.name in EXPORTED])
    check_export(fn, *args)


def test_every_name_in_the_export_is_listed():
    assert set(EXPORTED) <= {e.name for e in ENTRIES if not (e.no_graph or e.no_export or e.no_batch)}


def test_the_angle_of_the_inputs_is_generic():
    # the list is for generic inputs; a degenerate one would make the checks above test something else than they say
    R = rotations()
    assert (so3.geodesic(R, torch.eye(3, dtype=torch.float64)) < math.pi - 0.5).all()
