"""The layer as a module: parameters, shapes, degenerate sizes, precision, memory, errors."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from comrope import AxialRoPE, ComRoPE, ComRoPEConfig, LieRE, MixedRoPE, grid_positions, rope_equation_error
from geocore.testing import assert_finite, check_derivatives, check_half, check_module

VARIANTS = ("ap", "ld", "full")
ROTARY = {
    "ap": lambda **o: ComRoPE(16, 3, 2, block_size=4, variant="ap", **o),
    "ld": lambda **o: ComRoPE(16, 3, 2, block_size=4, **o),
    "ld per head": lambda **o: ComRoPE(16, 3, 2, block_size=4, theta_per_head=True, **o),
    "full": lambda **o: ComRoPE(16, 3, 2, block_size=4, variant="full", **o),
    "axial": lambda **o: AxialRoPE(16, 3, 2, **o),
    "mixed": lambda **o: MixedRoPE(16, 3, 2, **o),
    "liere": lambda **o: LieRE(16, 3, 2, block_size=4, **o),
}


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=list(ROTARY))
def make(request: pytest.FixtureRequest):
    return ROTARY[request.param]


# Parameters


def test_parameter_names_shapes_and_counts() -> None:
    H, m, b, N = 12, 8, 8, 2
    sizes = {v: sum(p.numel() for p in ComRoPE(64, H, N, variant=v).parameters()) for v in VARIANTS}
    assert sizes["ap"] == H * m * b**2
    assert sizes["ld"] == H * m * b**2 + N * m
    assert sizes["full"] == H * m * b**2 + N * H * m * b // 2
    ld = ComRoPE(64, H, N)
    assert {k: tuple(v.shape) for k, v in ld.state_dict().items()} == {"P": (H, m, b, b), "theta": (N, m)}
    assert ComRoPE(64, H, N, theta_per_head=True).theta.shape == (N, H, m)
    assert {k: tuple(v.shape) for k, v in ComRoPE(64, H, N, variant="full").state_dict().items()} == {
        "P": (H, m, b, b),
        "W": (N, H, m, b // 2),
    }
    assert ld.no_weight_decay() == {"P", "theta"}
    assert ComRoPE(64, H, N, variant="ap").no_weight_decay() == {"P"}
    assert ComRoPE(64, H, N, variant="full").no_weight_decay() == {"P", "W"}


def test_normal_init_law() -> None:
    rope = ComRoPE(64, 32, 2, init_std=0.5)
    assert abs(rope.P.std().item() - 0.5) < 0.02
    assert abs(ComRoPE(512, 2, 8).theta.std().item() - 1.0) < 0.1
    full, ld = ComRoPE(64, 32, 2, variant="full"), ComRoPE(64, 32, 2)
    ratio = full.spectrum()[0].square().mean() / ld.spectrum()[0].square().mean()
    assert 0.3 < ratio < 3
    a, b = (torch.Generator().manual_seed(5) for _ in range(2))
    rope.reset_parameters(a)
    other = ComRoPE(64, 32, 2, init_std=0.5)
    other.reset_parameters(b)
    assert torch.equal(rope.P, other.P)
    assert torch.equal(rope.theta, other.theta)


@pytest.mark.parametrize("variant", VARIANTS)
def test_zero_init_is_the_identity_and_learns(variant: str) -> None:
    rope = ComRoPE(16, 3, 2, block_size=4, variant=variant, init="zero", dtype=torch.float64)
    q, x, w = randn(2, 3, 5, 16), randn(5, 2), randn(2, 3, 5, 16, seed=1)
    out = rope.rotate(q, x)
    assert torch.equal(out, q)
    (out * w).sum().backward()
    assert_finite("gradient", [p.grad for p in rope.parameters()])
    learned = rope.W if variant == "full" else rope.P
    assert learned.grad is not None
    assert learned.grad.abs().max() > 1e-3


def test_config_round_trip() -> None:
    rope = ComRoPE(24, 3, 2, block_size=4, variant="ld", init="zero", init_std=0.3, theta_per_head=True)
    assert ComRoPEConfig.from_dict(rope.config.to_dict()) == rope.config
    again = ComRoPE.from_config(rope.config, dtype=torch.float64)
    assert again.config == rope.config
    assert again.P.dtype == torch.float64
    again.load_state_dict(rope.state_dict())
    with pytest.raises(ValueError, match=r"unknown keys \['heads'\] and lacks \['num_axes', 'num_heads'\]"):
        ComRoPEConfig.from_dict({"head_dim": 8, "heads": 2})


def test_official_state_dict() -> None:
    freqs, multiplier = randn(3, 1, 4, 8, 8), randn(1, 2, 4, 1, 1)
    ld = ComRoPE.from_official_state_dict({"freqs": freqs, "multiplier": multiplier})
    assert (ld.variant, ld.head_dim, ld.num_heads, ld.num_axes, ld.block_size) == ("ld", 32, 3, 2, 8)
    want = multiplier * (freqs - freqs.mT)
    torch.testing.assert_close(ld.generators(), want, rtol=0, atol=1e-15)
    ap = ComRoPE.from_official_state_dict({"a.freqs": freqs}, prefix="a.", num_axes=2)
    assert ap.variant == "ap"
    assert torch.equal(ap.P, freqs[:, 0])
    with pytest.raises(ValueError, match=r"lacks 'freqs'; keys that end in 'freqs': \['a.freqs'\]"):
        ComRoPE.from_official_state_dict({"a.freqs": freqs})
    with pytest.raises(ValueError, match="pass num_axes"):
        ComRoPE.from_official_state_dict({"freqs": freqs})
    with pytest.raises(ValueError, match=r"freqs must have shape \(H, 1, m, b, b\), got \(3, 4, 8, 8\)"):
        ComRoPE.from_official_state_dict({"freqs": freqs[:, 0]})
    with pytest.raises(ValueError, match=r"multiplier must have shape \(1, N, 4, 1, 1\)"):
        ComRoPE.from_official_state_dict({"freqs": freqs, "multiplier": multiplier[:, :, :3]})
    with pytest.raises(ValueError, match="num_axes is 3 but multiplier"):
        ComRoPE.from_official_state_dict({"freqs": freqs, "multiplier": multiplier}, num_axes=3)


# Behaviour as a module


def test_module_contract(make) -> None:
    q, k = randn(2, 2, 3, 9, 16, dtype=torch.float32)
    check_module(make, q, k, torch.rand(9, 2), train=any(p.requires_grad for p in make().parameters()))


def test_shapes_and_sharing(make) -> None:
    rope = make(dtype=torch.float64).eval()
    q, k, x = randn(2, 3, 9, 16), randn(2, 3, 9, 16, seed=1), torch.rand(9, 2, dtype=torch.float64)
    a, b = rope(q, k, x)
    each = rope(q, k, x.expand(2, 9, 2))
    torch.testing.assert_close(each, (a, b), rtol=0, atol=1e-12)
    apart = rope(q, k, torch.stack((x, x + 1)))
    torch.testing.assert_close(apart[0][0], a[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(apart[0][1], rope.rotate(q[1], x + 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(rope(q[0], k[0], x), (a[0], b[0]), rtol=0, atol=1e-12)  # no batch dimension
    torch.testing.assert_close(rope(q[None], k[None], x), (a[None], b[None]), rtol=0, atol=1e-12)
    torch.testing.assert_close(rope(q, k[:1], x), (a, b[:1]), rtol=0, atol=1e-12)  # batches may differ
    strided = q.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(rope(strided, k, x), (a, b), rtol=0, atol=1e-12)


def test_different_positions_of_queries_and_keys(make) -> None:
    rope = make(dtype=torch.float64)
    q, k = randn(2, 3, 4, 16), randn(2, 3, 9, 16, seed=1)
    x, y = torch.rand(4, 2, dtype=torch.float64), torch.rand(9, 2, dtype=torch.float64)
    a, b = rope(q, k, (x, y))
    torch.testing.assert_close(a, rope.rotate(q, x), rtol=0, atol=0)
    torch.testing.assert_close(b, rope.rotate(k, y), rtol=0, atol=0)


@pytest.mark.parametrize("train", [True, False])
def test_cached_keys_equal_full_decoding(make, train: bool) -> None:
    rope = make(dtype=torch.float64).train(train).requires_grad_(False)
    q, k, v = (randn(2, 3, 7, 16, seed=s) for s in range(3))
    x = torch.rand(7, 2, dtype=torch.float64)
    rq, rk = rope(q, k, x)
    full = nn.functional.scaled_dot_product_attention(rq, rk, v, is_causal=True)
    cache = rk[..., :0, :]
    for i in range(7):
        step_q, step_k = rope(q[..., i : i + 1, :], k[..., i : i + 1, :], x[i : i + 1])
        cache = torch.cat((cache, step_k), dim=-2)
        step = nn.functional.scaled_dot_product_attention(step_q, cache, v[..., : i + 1, :])
        torch.testing.assert_close(step, full[..., i : i + 1, :], rtol=0, atol=1e-12)


@pytest.mark.parametrize("train", [True, False])
def test_empty(make, train: bool) -> None:
    rope = make().train(train)
    for batch, length in ((0, 5), (2, 0), (0, 0)):
        q = torch.zeros(batch, 3, length, 16, requires_grad=True)
        a, b = rope(q, q, torch.rand(length, 2))
        assert a.shape == b.shape == q.shape
        (a.sum() + b.sum()).backward()
    assert rope.rotation_blocks(torch.rand(0, 2)).shape[:2] == (0, 3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("H", "m", "b", "L", "N"), [(1, 1, 2, 1, 1), (1, 1, 5, 1, 1), (1, 2, 3, 1, 2), (2, 3, 8, 5, 3), (1, 5, 7, 4, 1)])
def test_small_and_odd_sizes(variant: str, H: int, m: int, b: int, L: int, N: int) -> None:
    rope = ComRoPE(m * b, H, N, block_size=b, variant=variant, dtype=torch.float64)
    q, x = randn(2, H, L, m * b).requires_grad_(), randn(L, N).requires_grad_()
    out = rope.rotate(q, x)
    assert out.shape == q.shape
    out.square().sum().backward()
    assert_finite("gradients", [q.grad, x.grad, *(p.grad for p in rope.parameters())])
    assert rope_equation_error(rope, x.detach(), 1.3) <= 1e-12
    torch.testing.assert_close(rope.eval().requires_grad_(False).rotate(q.detach(), x.detach()), out.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_derivatives_also_at_degenerate_spectra(variant: str) -> None:
    rope = ComRoPE(8, 1, 2, block_size=4, variant=variant, dtype=torch.float64)
    names = [name for name, _ in rope.named_parameters()]
    q, x = randn(1, 2, 8), randn(2, 2)

    def rotate(q: Tensor, x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(rope, dict(zip(names, values, strict=True)), (q, q, x))[0]

    for scale in (1.0, 0.0):  # generic, and P = 0 where every frequency is 0
        values = [scale * p.detach() if name == "P" else p.detach() for name, p in rope.named_parameters()]
        check_derivatives(rotate, q, x, *values, second=scale == 0.0)  # where second derivatives are hardest
    repeated = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    repeated[..., 1, 0] = repeated[..., 3, 2] = 1.0  # both planes of a block turn at rate 1
    values = [repeated if name == "P" else p.detach() for name, p in rope.named_parameters()]
    check_derivatives(rotate, q, x, *values, second=False)


# Precision


@pytest.mark.parametrize("train", [True, False])
def test_half_precision_queries(make, train: bool) -> None:
    rope, x = make().train(train).requires_grad_(False), torch.rand(9, 2)
    check_half(lambda q: rope.rotate(q, x), randn(2, 3, 9, 16))
    q = randn(2, 3, 9, 16, dtype=torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        a, b = rope(q.to(dtype), q.to(dtype), x)
        assert a.dtype == b.dtype == dtype
        # Generators and angles stay in float32: only the result is rounded.
        torch.testing.assert_close(a, rope.rotate(q.to(dtype).float(), x).to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_half_precision_module(make) -> None:
    rope, q, x = make().bfloat16(), randn(2, 3, 9, 16).bfloat16(), torch.rand(9, 2)
    out = rope.rotate(q, x)
    assert out.dtype == torch.bfloat16
    exact = copy.deepcopy(rope).double().rotate(q.double(), x.double())
    assert (out.double() - exact).abs().max() < 0.02
    assert rope.rotate(q, x.bfloat16()).dtype == torch.bfloat16


def test_fixed_frequencies_survive_half_precision() -> None:
    rope = AxialRoPE(16, 3, 2)
    before = rope.freqs.clone()
    assert torch.equal(rope.half().freqs, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_long_positions_keep_float32_accuracy(variant: str) -> None:
    # Angles of about 1e4 rad. What remains is the rounding of positions, theta and frequencies, not of the sine of the product.
    rope = ComRoPE(32, 2, 2, variant=variant)
    exact = ComRoPE.from_config(rope.config, dtype=torch.float64)
    exact.load_state_dict(rope.state_dict())
    x = torch.randint(0, 500, (20, 2)).float()
    q = randn(1, 2, 20, 32, dtype=torch.float32)
    with torch.no_grad():
        want = exact.rotate(q.double(), x.double())
        top = exact.angles(x.double()).abs().max().item()
        assert top > 2000
        assert (rope.rotate(q, x).double() - want).abs().max() <= 2 * top * torch.finfo(torch.float32).eps * q.abs().max()
        assert (rope.eval().rotate(q, x).double() - want).abs().max() <= 2e-5


# Memory of eval mode


def test_eval_remembers_and_notices_changes() -> None:
    rope = ComRoPE(16, 3, 2, block_size=4, dtype=torch.float64).eval().requires_grad_(False)
    q, x = randn(2, 3, 9, 16), torch.rand(9, 2, dtype=torch.float64)

    def fresh() -> Tensor:
        other = ComRoPE(16, 3, 2, block_size=4, dtype=torch.float64)
        other.load_state_dict(rope.state_dict())
        return other.rotate(q, x).detach()

    first = rope.rotate(q, x)
    torch.testing.assert_close(first, fresh(), rtol=0, atol=1e-12)
    assert torch.equal(rope.rotate(q, x), first)
    x.add_(0.5)  # positions in place
    torch.testing.assert_close(rope.rotate(q, x), fresh(), rtol=0, atol=1e-12)
    rope.P.mul_(2.0)  # parameters in place
    torch.testing.assert_close(rope.rotate(q, x), fresh(), rtol=0, atol=1e-12)
    rope.theta.data = 3 * rope.theta.data  # storage replaced
    torch.testing.assert_close(rope.rotate(q, x), fresh(), rtol=0, atol=1e-12)
    rope.load_state_dict(ComRoPE(16, 3, 2, block_size=4, dtype=torch.float64).state_dict())
    torch.testing.assert_close(rope.rotate(q, x), fresh(), rtol=0, atol=1e-12)
    rope.P.data.mul_(2.0)  # invisible, as documented ...
    rope.eval()  # ... until the mode is set again
    torch.testing.assert_close(rope.rotate(q, x), fresh(), rtol=0, atol=1e-12)
    moved = copy.deepcopy(rope)
    moved.P.mul_(2.0)
    assert not torch.equal(moved.rotate(q, x), rope.rotate(q, x))


def test_eval_takes_no_spectral_form_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rope = ComRoPE(16, 3, 2, block_size=4).eval()
    q, x = randn(2, 3, 9, 16, dtype=torch.float32), torch.rand(9, 2)
    calls = []
    original = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    with torch.no_grad():
        rope.rotate(q, x)
        after_first = len(calls)
        assert after_first == 1
        rope.rotate(q, x)
        rope.rotate(q, x + 1)
    assert len(calls) == after_first
    with torch.inference_mode():
        rope.rotate(q, grid_positions((3, 3)))  # positions that carry no version
    assert len(calls) == after_first
    rope.rotate(q, x).sum().backward()  # a gradient to the parameters is wanted: no memory
    assert len(calls) == after_first + 1
    assert rope.P.grad is not None


def test_memory_filled_in_inference_mode_serves_autograd() -> None:
    rope = ComRoPE(16, 3, 2, block_size=4).eval().requires_grad_(False)
    q, x = randn(2, 3, 9, 16, dtype=torch.float32), torch.rand(9, 2)
    with torch.inference_mode():
        first = rope.rotate(q, x)
    q.requires_grad_()
    again = rope.rotate(q, x)
    again.sum().backward()
    assert torch.equal(first, again)
    assert q.grad is not None


def test_positions_may_be_learned_in_eval_mode() -> None:
    rope = ComRoPE(16, 3, 2, block_size=4).eval().requires_grad_(False)
    q, x = randn(2, 3, 9, 16, dtype=torch.float32), torch.rand(9, 2)
    rope.rotate(q, x)
    x.requires_grad_()
    (rope.rotate(q, x) * randn(2, 3, 9, 16, seed=1, dtype=torch.float32)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_no_tensor_of_rotation_matrices_exists() -> None:
    rope = ComRoPE(64, 12, 2)
    q = torch.randn(2, 12, 197, 64, requires_grad=True)
    x = grid_positions((14, 14), prefix_tokens=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profile:
        a, b = rope(q, q, x)
        (a.sum() + b.sum()).backward()
    biggest = max(e.self_cpu_memory_usage for e in profile.events())
    # One (L, H, d, d) tensor would be 32 times the size of q. The largest single step holds q and k with both factors of the gradient.
    assert biggest <= 8 * q.numel() * 4


# Errors


@pytest.mark.bad_input
def test_errors_of_the_constructor() -> None:
    with pytest.raises(ValueError, match="head_dim must be divisible by block_size, got 60 and 8"):
        ComRoPE(60, 2, 2)
    with pytest.raises(ValueError, match=r"num_axes \* block_size = 3 \* 8 = 24, got 64"):
        ComRoPE(64, 2, 3, variant="ap")
    assert ComRoPE(64, 2, 3, variant="ld").num_blocks == 8
    with pytest.raises(ValueError, match="variant must be one of 'ld', 'ap', 'full', got 'lie'"):
        ComRoPE(64, 2, 2, variant="lie")
    with pytest.raises(ValueError, match="init must be one of"):
        ComRoPE(64, 2, 2, init="ones")
    with pytest.raises(ValueError, match="num_heads must be at least 1, got 0"):
        ComRoPE(64, 0, 2)
    with pytest.raises(ValueError, match="block_size must be at least 2, got 1"):
        ComRoPE(64, 2, 2, block_size=1)
    with pytest.raises(TypeError, match="num_axes must be an int, got float"):
        ComRoPE(64, 2, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="init_std must be at least 0"):
        ComRoPE(64, 2, 2, init_std=math.nan)
    with pytest.raises(ValueError, match="theta_per_head needs variant 'ld'"):
        ComRoPE(64, 2, 2, variant="ap", theta_per_head=True)
    for wrong in (
        lambda: LieRE(60, 2, 2),
        lambda: AxialRoPE(15, 2, 2),
        lambda: MixedRoPE(15, 2, 2),
        lambda: AxialRoPE(15, 2, 2, block_size=3),
    ):
        with pytest.raises(ValueError, match="divisible by the block size|block_size must be even"):
            wrong()


@pytest.mark.bad_input
def test_errors_of_forward(make) -> None:
    rope = make()
    q, x = torch.zeros(2, 3, 9, 16), torch.rand(9, 2)
    with pytest.raises(ValueError, match=r"positions must have shape \(L, 2\) or \(B, L, 2\), got \(9, 3\)"):
        rope(q, q, torch.rand(9, 3))
    with pytest.raises(ValueError, match=r"q has L = 9 tokens but positions \(8, 2\) has 8; pass \(positions_q, positions_k\)"):
        rope(q, q, x[:8])
    with pytest.raises(ValueError, match="x has L = 9 tokens"):
        rope(q[:, :, :4], q, x[:4])
    with pytest.raises(ValueError, match=r"floating-point dtype, got torch.int64 of shape \(9, 2\)"):
        rope(q, q, torch.zeros(9, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(..., 3, L, 16\), got \(2, 4, 9, 16\)"):
        rope(torch.zeros(2, 4, 9, 16), torch.zeros(2, 4, 9, 16), x)
    with pytest.raises(ValueError, match=r"batch dimensions \(2,\) but positions \(5, 9, 2\) has \(5,\)"):
        rope(q, q, x.expand(5, 9, 2))
    with pytest.raises(ValueError, match=r"batch dimensions \(\) but positions"):
        rope.rotate(q[0], x.expand(5, 9, 2))
    with pytest.raises(ValueError, match="got 3 items"):
        rope(q, q, (x, x, x))
    with pytest.raises(TypeError, match="positions must be a torch.Tensor, got list"):
        rope(q, q, [[0.0, 0.0]])
    with pytest.raises(TypeError, match="x must have a floating-point dtype"):
        rope.rotate(q.long(), x)


@pytest.mark.bad_input
def test_non_finite_positions_are_found_on_request(make) -> None:
    rope, q = make(), torch.zeros(2, 3, 9, 16)
    for bad in (math.nan, math.inf):
        x = torch.rand(9, 2)
        x[3, 1] = bad
        rope(q, q, x)
        for call in (lambda x=x: rope(q, q, x, validate=True), lambda x=x: rope.rotate(q, x, validate=True)):
            with pytest.raises(ValueError, match="must be finite, got 1 NaN or infinite entries of 18"):
                call()
    with pytest.raises(ValueError, match="must be finite"):
        rope.rotation_blocks(x, validate=True)


@pytest.mark.bad_input
def test_errors_of_rope_equation_error() -> None:
    with pytest.raises(TypeError, match="got Linear, which does not rotate"):
        rope_equation_error(nn.Linear(2, 2), torch.rand(4, 2), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shift must broadcast against positions \(4, 2\), got \(3,\)"):
        rope_equation_error(ComRoPE(16, 1, 2), torch.rand(4, 2), torch.zeros(3))
    assert rope_equation_error(ComRoPE(16, 1, 2), torch.rand(0, 2), 1.0) == 0.0
