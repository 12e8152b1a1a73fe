"""The methods with the compiled kernels of geocore-cuda against the same calls without them: values, gradients, second derivatives."""

from collections.abc import Callable

import pytest
import torch
from sequence_model import Tracker, commands
from torch import Tensor, nn

import spdnorm
from deltaproduct import DeltaProduct, delta_product
from geocore import _ops, so3
from geocore.testing import check_transforms, nan_filled_empty


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """Names of the operators whose kernel the gate chose in this test."""
    status = _ops.kernel_status()
    assert status.found, status.reason
    names: set[str] = set()
    gate = _ops.kernel_may_run

    def spy(name, *tensors, **options):
        answer = gate(name, *tensors, **options)
        if answer:
            names.add(name)
        return answer

    monkeypatch.setattr(_ops, "kernel_may_run", spy)
    return names


def both(call: Callable[[], list[Tensor]]) -> None:
    """Check that a call gives the same with and without kernels."""
    with nan_filled_empty():
        ours = call()
    with _ops.without_kernels():
        wanted = call()
    for i, (a, b) in enumerate(zip(ours, wanted, strict=True)):
        size = max(1.0, float(b.abs().max()))
        bound = 1e-10 if a.dtype == torch.float64 else 2e-2 if a.dtype == torch.bfloat16 else 2e-4
        torch.testing.assert_close(a, b, rtol=0, atol=bound * size, msg=lambda m, i=i: f"result {i}: {m}")


def inputs(n: int, dtype: torch.dtype, gated: bool, batch: int = 2, tokens: int = 21) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=g)  # noqa: E731
    k = nn.functional.normalize(normal(batch, tokens * n, 3, 8), dim=-1)
    rest = [normal(batch, tokens * n, 3, 5), 2 * normal(batch, tokens * n, 3).sigmoid()]
    gate = [-normal(batch, tokens, 3).abs()] if gated else []
    return [x.to(dtype) for x in (normal(batch, tokens, 3, 8), k, *rest, *gate)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_delta_product(n, gated, dtype, taken):
    given, S = inputs(n, dtype, gated), torch.randn(2, 3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    live = [*given, S.to(torch.promote_types(dtype, torch.float32))]

    def call():
        x = [t.clone().requires_grad_() for t in live]
        o, final = delta_product(*x[:-1], num_householder=n, initial_state=x[-1], output_final_state=True)
        return [o.detach(), final.detach(), *torch.autograd.grad((o.float().sin().sum() + final.pow(2).sum()), x)]

    both(call)
    assert "householder_scan" in taken


@pytest.mark.parametrize("gated", [False, True])
def test_delta_product_of_sequences_that_follow_one_another(gated, taken):
    given, offsets = inputs(2, torch.float64, gated, batch=1, tokens=40), torch.tensor([0, 3, 3, 20, 40])

    def call():
        x = [t.clone().requires_grad_() for t in given]
        o, final = delta_product(*x, num_householder=2, cu_seqlens=offsets, output_final_state=True)
        first = torch.autograd.grad(o.sin().sum() + final.pow(2).sum(), x, create_graph=True)
        return [o.detach(), final.detach(), *(f.detach() for f in first), *torch.autograd.grad(sum(f.pow(2).sum() for f in first), x)]

    both(call)
    assert "householder_scan" in taken


def test_delta_product_under_transforms_and_compiled(taken):
    """Compiled and transformed calls take plain operators; with kernels loaded they must still give what eager ones give."""
    given = inputs(2, torch.float64, True, batch=1, tokens=6)
    check_transforms(lambda *x: delta_product(*x, num_householder=2)[0], *given, vmap=False)
    assert "householder_scan" in taken


def test_decoding_and_chunk_sizes(taken):
    given = inputs(2, torch.float64, True)
    first = lambda m: [x[:, : 2 * m] if x.shape[1] == 42 else x[:, :m] for x in given]  # noqa: E731
    both(lambda: [delta_product(*first(m), num_householder=2)[0] for m in (1, 2, 5)])
    both(lambda: [delta_product(*given, num_householder=2, chunk_size=c, mode="chunk")[0] for c in (1, 4, 21, 64, 500)])
    assert "householder_scan" in taken


def test_more_features_than_the_kernel_takes(taken):
    q, k, v, beta = torch.randn(1, 5, 1, 2), torch.randn(1, 5, 1, 2), torch.randn(1, 5, 1, 4097), torch.rand(1, 5, 1)
    both(lambda: [delta_product(q, k, v, beta, num_householder=1, l2norm_qk=True)[0]])
    assert "householder_scan" not in taken


def test_a_layer_under_checkpointing_autocast_and_in_evaluation(taken):
    torch.manual_seed(0)
    layer = DeltaProduct(32, num_heads=2, head_dim=16, num_householder=2, use_forget_gate=True, use_output_gate=True, layer_idx=0)
    x = torch.randn(2, 30, 32)

    def call():
        here = x.clone().requires_grad_()
        y = torch.utils.checkpoint.checkpoint(lambda z: layer(z)[0], here, use_reentrant=False)
        (grad,) = torch.autograd.grad(y.pow(2).sum(), here)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = layer(x)[0]
        with torch.no_grad():
            quiet = layer.eval()(x)[0]
        layer.train()
        return [y.detach(), grad, half.detach().bfloat16(), quiet]

    both(call)
    assert "householder_scan" in taken


def test_three_packages_in_one_model(taken):
    torch.manual_seed(0)
    model = Tracker(3).double()
    tokens, target = commands(8, 20)

    def call():
        loss = so3.geodesic(model(tokens), target.double()).mean()
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    both(call)
    assert {"householder_scan", "so3_exp"} <= taken


def test_normalised_covariances(taken):
    torch.manual_seed(0)
    A = torch.randn(64, 8, 12, dtype=torch.float64)
    X = A @ A.mT / 12
    layer = spdnorm.SPDBatchNorm(8).double()

    def call():
        live = X.clone().requires_grad_()
        Y = layer(live)
        return [Y.detach(), *torch.autograd.grad(Y.logdet().sin().sum() + Y[:, 0, 0].sum(), live)]

    both(call)
    assert "sym_eig" in taken
