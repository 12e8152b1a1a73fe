"""The recurrence as an operator: its reference against dense transitions, its closed-form gradient against autograd."""

import pytest
import torch

from geocore.householder import to_matrix
from geocore.householder._scan import householder_scan_backward_reference, householder_scan_reference
from geocore.testing import check_op

OP = torch.ops.geocore.householder_scan
RAGGED = torch.tensor([0, 3, 3, 4, 9])


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1.0, float(b.abs().max())))


def problem(ragged=False, gated=True, n=2, B=2, T=9, H=2, K=4, V=3):
    g = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=g)  # noqa: E731
    B = 1 if ragged else B
    S = normal(4 if ragged else B, H, K, V)
    return (
        normal(B, T, H, K),
        normal(B, T * n, H, K),
        normal(B, T * n, H, V),
        normal(B, T * n, H),
        -normal(B, T, H).abs() if gated else None,
        S,
    )


@pytest.mark.parametrize("gated", [False, True])
def test_it_is_the_product_of_dense_factors(gated):
    q, k, v, beta, g, S = problem(gated=gated, n=3)
    o, last, states = householder_scan_reference(q, k, v * 0, beta, g, S, None, 3, 4, 0.5, True)
    A = to_matrix(k.unflatten(1, (9, 3)).permute(0, 1, 3, 4, 2).flip(-1), beta.unflatten(1, (9, 3)).permute(0, 1, 3, 2).flip(-1))
    if g is not None:
        A = g.exp()[..., None, None] * A
    assert states.shape == (6, 2, 4, 3)
    for t in range(9):
        if t % 4 == 0:
            close(states.unflatten(0, (2, 3))[:, t // 4], S)
        S = A[:, t] @ S
        close(o[:, t], 0.5 * torch.einsum("bhkv,bhk->bhv", S, q[:, t]))
    close(last, S)


def test_a_full_step_writes_the_value_at_the_key():
    _, k, v, beta, g, S = problem(gated=False, n=1)
    k = torch.nn.functional.normalize(k, dim=-1)
    o, last, _ = householder_scan_reference(k, k, v, torch.ones_like(beta), g, S, None, 1, 4, 1.0, False)
    close(o, v)
    close(torch.einsum("bhkv,bhk->bhv", last, k[:, -1]), v[:, -1])


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_the_closed_gradient_is_that_of_autograd(gated, ragged):
    *inputs, g, S = problem(ragged, gated)
    offsets = RAGGED if ragged else None
    live = [x.clone().requires_grad_() for x in (*inputs, *([g] if gated else []), S)]
    results = householder_scan_reference(*live[:4], live[4] if gated else None, live[-1], offsets, 2, 4, 0.5, True)
    sent = [torch.randn_like(r) for r in results]
    wanted = torch.autograd.grad(results, live, sent)
    found = householder_scan_backward_reference(*inputs, g, offsets, results[2].detach(), *sent, 2, 4, 0.5)
    for a, b in zip([f for f in found if f.numel()], wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * max(1.0, float(b.abs().max())))


def test_sequences_that_follow_one_another_are_alone():
    *inputs, g, S = problem(ragged=True)
    o, last, states = householder_scan_reference(*inputs, g, S, RAGGED, 2, 4, 0.5, True)
    assert states.shape[0] == 4  # chunks of 3, 0, 1 and 5 tokens
    for i, (start, end) in enumerate(zip(RAGGED[:-1].tolist(), RAGGED[1:].tolist(), strict=True)):
        cut = [x[:, 2 * start : 2 * end] if x.shape[1] == 18 else x[:, start:end] for x in (*inputs, g)]
        alone = householder_scan_reference(*cut, S[i : i + 1], None, 2, 4, 0.5, True)
        assert torch.equal(o[:, start:end], alone[0])
        assert torch.equal(last[i : i + 1], alone[1])


def test_the_operator_and_its_derivatives():
    *inputs, g, S = (x.requires_grad_() for x in problem(n=2, B=1, T=3, H=1, K=2, V=2))
    check_op(OP.default, *inputs, g, S, None, 2, 2, 0.5, True)
    call = lambda *x: OP(*x, None, 2, 2, 0.5, True)  # noqa: E731
    assert torch.autograd.gradcheck(call, (*inputs, g, S))
    assert torch.autograd.gradgradcheck(call, (*inputs, g, S))


@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_nothing_to_do(shape):
    *inputs, g, S = problem(B=shape[0], T=shape[1])
    o, last, states = OP(*inputs, g, S, None, 2, 4, 0.5, True)
    assert o.shape == (*shape, 2, 3)
    assert torch.equal(last, S)
    assert states.shape[0] == 0
