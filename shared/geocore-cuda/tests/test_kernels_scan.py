"""The Householder recurrence in chunks: kernel against the recurrence as it is written, in values and derivatives."""

import ctypes
import itertools
from pathlib import Path

import pytest
import torch

import geocore.householder  # noqa: F401  (defines the operators)
from geocore.householder._scan import householder_scan_backward_reference, householder_scan_reference
from geocore.testing import check_op, nan_filled_empty

OP, BACK = torch.ops.geocore.householder_scan, torch.ops.geocore.householder_scan_backward
DTYPES = [torch.float32, torch.float64]
RAGGED = [0, 5, 5, 9, 23]
SHAPES = [  # B, T, H, K, V, tokens per chunk
    (2, 23, 3, 8, 5, 16),
    (1, 5, 1, 1, 1, 2),
    (2, 64, 2, 17, 33, 7),
    (1, 23, 2, 16, 16, 40),
    (3, 20, 1, 20, 3, 1),
    (1, 40, 1, 64, 48, 32),
    (1, 0, 2, 4, 4, 8),
    (0, 3, 1, 2, 2, 2),
]


def problem(B, T, H, K, V, n, dtype=torch.float64, gated=True, offsets=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=g)  # noqa: E731
    q, k, v = normal(B, T, H, K), torch.nn.functional.normalize(normal(B, T * n, H, K), dim=-1), normal(B, T * n, H, V)
    beta, gate, S = 2 * normal(B, T * n, H).sigmoid(), -normal(B, T, H).abs(), normal(B if offsets is None else len(offsets) - 1, H, K, V)
    inputs = [x.to(dtype) for x in (q, k, v, beta)]
    return *inputs, gate.to(dtype) if gated else None, S.to(dtype), None if offsets is None else torch.tensor(offsets)


def like(results, seed=9):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(r.shape, dtype=torch.float64, generator=g).to(r.dtype) for r in results]


def doubled(values):
    return [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in values]


def check_close(ours, wanted, factor=400):
    for i, (a, b) in enumerate(zip(ours, wanted, strict=True)):
        assert a.shape == b.shape, i
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        torch.testing.assert_close(
            a.double(), b.double(), rtol=0, atol=factor * torch.finfo(a.dtype).eps * scale, msg=lambda m, i=i: f"{i}: {m}"
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("shape", "n"), [(s, n) for (i, s), n in itertools.product(enumerate(SHAPES), (1, 2, 3)) if i < 4 or n == 2])
def test_values_and_gradients(shape, n, gated, ragged, dtype):
    B, T, H, K, V, size = shape
    offsets = [0, T // 3, T // 3, T // 2, T] if ragged else None
    *inputs, g, S, offsets = problem(1 if ragged else B, T, H, K, V, n, dtype, gated, offsets)
    with nan_filled_empty():
        ours = OP(*inputs, g, S, offsets, n, size, 0.3, True)
    wanted = householder_scan_reference(*doubled([*inputs, g, S]), offsets, n, size, 0.3, True)
    check_close(ours, wanted)
    sent = like(wanted)
    with nan_filled_empty():
        found = BACK(*inputs, g, offsets, wanted[2].to(dtype), *(x.to(dtype) for x in sent), n, size, 0.3)
    check_close(found, householder_scan_backward_reference(*doubled([*inputs, g]), offsets, wanted[2], *sent, n, size, 0.3), 2000)
    light = OP(*inputs, g, S, offsets, n, size, 0.3, False)
    assert torch.equal(light[0], ours[0])
    assert torch.equal(light[1], ours[1])
    assert light[2].shape == (0, H, K, V)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_the_operator_s_first_and_second_derivatives(gated, keep):
    *inputs, g, S, _ = problem(1, 3, 1, 3, 2, 2, gated=gated)
    live = [x.requires_grad_() for x in (*inputs, *([g] if gated else []), S)]

    def call(*x):
        return OP(*x[:4], x[4] if gated else None, x[-1], None, 2, 2, 0.5, keep)[: 3 if keep else 2]

    assert torch.autograd.gradcheck(call, live)
    assert torch.autograd.gradgradcheck(call, live)


@pytest.mark.parametrize("keep", [False, True])
def test_opcheck(keep):
    *inputs, g, S, _ = problem(2, 7, 1, 3, 4, 2)
    check_op(OP.default, *(x.requires_grad_() for x in (*inputs, g, S)), None, 2, 3, 0.5, keep)


def test_opcheck_of_the_gradient_and_without_gates():
    *inputs, _, S, _ = problem(2, 7, 1, 3, 4, 2, gated=False)
    check_op(OP.default, *(x.requires_grad_() for x in inputs), None, S.requires_grad_(), None, 2, 3, 0.5, True)
    with torch.no_grad():
        results = OP(*inputs, None, S, None, 2, 3, 0.5, True)
    check_op(BACK.default, *(x.detach() for x in inputs), None, None, results[2], *like(results), 2, 3, 0.5)


def test_strided_arguments():
    *inputs, g, S, _ = problem(2, 12, 3, 8, 16, 2)
    wanted = OP(*inputs, g, S, None, 2, 4, 0.5, True)
    strided = [x.repeat_interleave(2, -1)[..., ::2] for x in (*inputs, g, S)]
    for a, b in zip(OP(*strided, None, 2, 4, 0.5, True), wanted, strict=True):
        assert torch.equal(a, b)


def test_sequences_and_heads_are_alone_and_nothing_looks_ahead():
    q, k, v, beta, g, S, _ = problem(3, 12, 2, 8, 5, 2)
    o, last, states = OP(q, k, v, beta, g, S, None, 2, 4, 0.5, True)
    alone = OP(*(x[1:2] for x in (q, k, v, beta, g, S)), None, 2, 4, 0.5, True)
    assert torch.equal(alone[0], o[1:2])
    assert torch.equal(alone[1], last[1:2])
    assert torch.equal(alone[2], states[3:6])
    flat = [x.flatten(0, 1)[None] for x in (q, k, v, beta, g)]  # the same as sequences that follow one another
    ragged = OP(*flat, S, torch.tensor([0, 12, 24, 36]), 2, 4, 0.5, True)
    assert torch.equal(ragged[0], o.flatten(0, 1)[None])
    assert torch.equal(ragged[2], states)
    spoilt = v.clone()
    spoilt[1, 13, 0] = float("nan")  # second micro-step of token 6, in the second chunk
    found, after, _ = OP(q, k, spoilt, beta, g, S, None, 2, 4, 0.5, True)
    assert found[1, 6:, 0].isnan().all()
    assert after[1, 0].isnan().all()
    found[1, 4:, 0], after[1, 0] = o[1, 4:, 0], last[1, 0]  # a chunk is one product: its first tokens may be lost with it
    assert torch.equal(found, o)
    assert torch.equal(after, last)


def test_a_closed_gate_forgets_everything():
    q, k, v, beta, g, S, _ = problem(1, 9, 1, 6, 4, 2, gated=True)
    g[:, 5] = -torch.inf
    o, last, _ = OP(q, k, v, beta, g, S, None, 2, 4, 0.5, False)
    fresh = OP(*(x[:, 10:] if x.shape[1] == 18 else x[:, 5:] for x in (q, k, v, beta, g)), torch.zeros_like(S), None, 2, 4, 0.5, False)
    torch.testing.assert_close(o[:, 5:], fresh[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(last, fresh[1], rtol=0, atol=1e-13)


def test_many_reflections_do_not_drift():
    q, k, v, _, _, S, _ = problem(1, 2048, 1, 8, 8, 2)
    beta = torch.full((1, 4096, 1), 2.0, dtype=torch.float64)
    S = torch.linalg.qr(S).Q
    last = OP(q, k, torch.zeros_like(v), beta, None, S, None, 2, 16, 1.0, False)[1]
    torch.testing.assert_close(last.mT @ last, torch.eye(8, dtype=torch.float64).expand(1, 1, 8, 8), rtol=0, atol=1e-11)


@pytest.mark.parametrize("level", ["base", "v3", "v4"])
def test_every_instruction_set(level, python):
    """A lower level than the processor's can always run; a higher one is not chosen, and then the test repeats another."""
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "from test_kernels_scan import *\n"
        "for dtype in DTYPES:\n"
        "    for shape in SHAPES[:3]: test_values_and_gradients(shape, 2, True, False, dtype)\n"
        "print('same')\n"
    )
    assert python(code, str(Path(__file__).parent), GEOCORE_ISA=level) == "same"


BLOCK = """#include "math/block_team.h"
using Team = geo::BlockTeam<Alone>;
using Problem = geo::Scan<double>;
extern "C" int64_t memory(const Problem* s) { return geo::ScanMemory<double>{}.lay(nullptr, *s, 1, true); }
extern "C" void forward(const Problem* s, const geo::ScanOutputs<double>* out, int64_t chains, double* scratch) {
  for (int64_t i = 0; i < chains; ++i) geo::scan_forward(Team{}, *s, *out, i, scratch);
}
extern "C" void backward(const Problem* s, const geo::ScanGradients<double>* out, int64_t chains, double* scratch) {
  for (int64_t i = 0; i < chains; ++i) geo::scan_backward(Team{}, *s, *out, i, scratch);
}
"""


@pytest.fixture(scope="module")
def serial(one_thread):
    """The block's algorithm compiled for one thread."""
    library = one_thread(BLOCK)
    library.memory.restype = ctypes.c_int64
    return library


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_the_block_s_algorithm_run_by_one_thread(serial, gated, ragged):
    """Items of a step in reverse order: what a step reads, no item of it may write."""
    n, size = 2, 4
    q, k, v, beta, g, S, offsets = problem(1 if ragged else 2, 23, 2, 7, 5, n, gated=gated, offsets=RAGGED if ragged else None)
    address = lambda x: 0 if x is None else x.data_ptr()  # noqa: E731
    pointers = [address(x) for x in (q, k, v, beta, g, offsets)]
    numbers = (ctypes.c_int64 * 9)(*pointers, q.shape[1], q.shape[2], S.shape[0])
    sizes = (ctypes.c_int32 * 4)(q.shape[3], v.shape[3], n, size)
    scan = ctypes.create_string_buffer(bytes(numbers) + bytes(sizes) + bytes(ctypes.c_double(0.5)))
    scratch = torch.full((serial.memory(scan),), float("nan"), dtype=torch.float64)
    chains = ctypes.c_int64(S.shape[0] * S.shape[1])

    wanted = householder_scan_reference(q, k, v, beta, g, S, offsets, n, size, 0.5, True)
    results = [torch.full_like(x, float("nan")) for x in wanted]
    serial.forward(scan, (ctypes.c_int64 * 4)(address(S), *map(address, results)), chains, ctypes.c_void_p(scratch.data_ptr()))
    check_close(results, wanted, 100)

    sent = like(wanted)
    grads = householder_scan_backward_reference(q, k, v, beta, g, offsets, wanted[2], *sent, n, size, 0.5)
    found = [torch.full_like(x, float("nan")) for x in grads]
    outs = [*found[:4], found[4] if gated else None, found[5]]
    arguments = (ctypes.c_int64 * 10)(address(wanted[2]), *map(address, sent), *map(address, outs))
    serial.backward(scan, arguments, chains, ctypes.c_void_p(scratch.data_ptr()))
    check_close(found, grads, 400)


@pytest.mark.bad_input
def test_what_the_kernel_refuses():
    q, k, v, beta, g, S, _ = problem(1, 6, 2, 4, 3, 2)
    with pytest.raises(RuntimeError, match="the shape of k does not belong"):
        OP(q, k[:, 1:], v, beta, g, S, None, 2, 4, 1.0, False)
    with pytest.raises(RuntimeError, match="the shape of state does not belong"):
        OP(q, k, v, beta, g, S[:, :1], None, 2, 4, 1.0, False)
    with pytest.raises(RuntimeError, match="g must have the dtype of q"):
        OP(q, k, v, beta, g.float(), S, None, 2, 4, 1.0, False)
    with pytest.raises(RuntimeError, match="expected float32 or float64"):
        OP(*(x.half() for x in (q, k, v, beta, g, S)), None, 2, 4, 1.0, False)
    with pytest.raises(RuntimeError, match="expected 1 to 4096 micro-steps"):
        OP(q, k, v, beta, g, S, None, 2, 4096, 1.0, False)
    for bad in ([0, 4], [1, 6], [0, 7, 6]):
        states = S[:1].expand(len(bad) - 1, -1, -1, -1)
        with pytest.raises(RuntimeError, match="expected offsets"):
            OP(q, k, v, beta, g, states, torch.tensor(bad), 2, 4, 1.0, False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_cuda_kernel(gated, ragged, dtype):
    *inputs, g, S, offsets = problem(1 if ragged else 3, 23, 2, 24, 16, 2, dtype, gated, RAGGED if ragged else None)
    wanted = householder_scan_reference(*doubled([*inputs, g, S]), offsets, 2, 4, 0.5, True)
    there = [x if x is None else x.cuda() for x in (*inputs, g, S, offsets)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = OP(*there, 2, 4, 0.5, True)
        sent = like(wanted)
        found = BACK(*there[:5], there[6], results[2], *(x.to(results[0]) for x in sent), 2, 4, 0.5)
    torch.cuda.current_stream().wait_stream(stream)
    check_close([x.cpu() for x in results], wanted)
    grads = householder_scan_backward_reference(*doubled([*inputs, g]), offsets, wanted[2], *sent, 2, 4, 0.5)
    check_close([x.cpu() for x in found], grads, 4000)
