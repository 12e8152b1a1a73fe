"""Folding a trained layer into projections: exact, exportable, in the layout of any kernel."""

import pickle

import pytest
import torch
from torch import Tensor, nn

from comrope import ComRoPE, RotaryTable, grid_positions
from geocore.blocks import rope_apply
from geocore.testing import assert_same, check_module

VARIANTS = ("ap", "ld", "full")


def heads(projection: nn.Linear, x: Tensor, H: int = 3) -> Tensor:
    return projection(x).unflatten(-1, (H, -1)).transpose(-3, -2)


def setup(
    variant: str, b: int, *, dtype: torch.dtype = torch.float64, bias: bool = True
) -> tuple[ComRoPE, nn.Linear, nn.Linear, Tensor, Tensor]:
    rope = ComRoPE(4 * b, 3, 2, block_size=b, variant=variant, dtype=dtype)
    q, k = (nn.Linear(20, 12 * b, bias=bias, dtype=dtype) for _ in range(2))
    return rope, q, k, torch.randn(2, 9, 20, dtype=dtype), torch.rand(9, 2, dtype=dtype)


def logits(pair: tuple[Tensor, Tensor]) -> Tensor:
    return (pair[0] @ pair[1].mT).detach()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("b", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_unchanged(variant: str, b: int, layout: str, bias: bool) -> None:
    rope, q, k, x, positions = setup(variant, b, bias=bias)
    before = logits(rope(heads(q, x), heads(k, x), positions))
    table = rope.fold_into_(q, k, layout=layout)
    after = logits(table.apply(heads(q, x), heads(k, x), positions))
    assert (after - before).abs().max() <= 1e-10
    cos, sin = table(positions)
    assert cos.shape == sin.shape == (3, 9, 2 * b)
    by_hand = logits(tuple(rope_apply(heads(p, x), cos, sin, layout=layout) for p in (q, k)))  # type: ignore[arg-type]
    assert (by_hand - before).abs().max() <= 1e-10
    each = positions.expand(2, 9, 2) + torch.tensor([[[0.0]], [[1.0]]])
    assert table(each)[0].shape == (2, 3, 9, 2 * b)


def test_float32_folding() -> None:
    rope, q, k, x, positions = setup("ld", 8, dtype=torch.float32)
    before = logits(rope(heads(q, x), heads(k, x), positions))
    table = rope.fold_into_(q, k)
    after = logits(table.apply(heads(q, x), heads(k, x), positions))
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()


def test_fused_projection() -> None:
    rope, q, k, _, positions = setup("ld", 4)
    qkv = nn.Linear(20, 3 * 48, dtype=torch.float64)
    v = nn.Linear(20, 48, dtype=torch.float64)
    with torch.no_grad():
        qkv.weight.copy_(torch.cat((q.weight, k.weight, v.weight)))
        qkv.bias.copy_(torch.cat((q.bias, k.bias, v.bias)))
    table = rope.fold_into_fused_(qkv)
    rope.fold_into_(q, k)
    torch.testing.assert_close(qkv.weight, torch.cat((q.weight, k.weight, v.weight)), rtol=0, atol=1e-15)
    torch.testing.assert_close(qkv.bias, torch.cat((q.bias, k.bias, v.bias)), rtol=0, atol=1e-15)
    assert table(positions)[0].shape == (3, 9, 8)


def test_hugging_face_contract() -> None:
    rope, q, k, x, positions = setup("ld", 8)
    before = logits(rope(heads(q, x), heads(k, x), positions))
    table = rope.fold_into_(q, k, layout="half", full_width=True)
    cos, sin = table(positions)
    assert cos.shape == (3, 9, 32)

    def rotate_half(t: Tensor) -> Tensor:
        a, b = t.chunk(2, -1)
        return torch.cat((-b, a), -1)

    def turn(t: Tensor) -> Tensor:  # apply_rotary_pos_emb of transformers, unsqueeze_dim=0
        return t * cos.unsqueeze(0) + rotate_half(t) * sin.unsqueeze(0)

    assert (logits((turn(heads(q, x)), turn(heads(k, x)))) - before).abs().max() <= 1e-10
    assert table(positions, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_apply_rotary_pos_emb_of_transformers(vision_libraries: None) -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    rope, q, k, x, positions = setup("full", 4)
    before = logits(rope(heads(q, x), heads(k, x), positions))
    cos, sin = rope.fold_into_(q, k, layout="half", full_width=True)(positions)
    after = logits(llama.apply_rotary_pos_emb(heads(q, x), heads(k, x), cos, sin, unsqueeze_dim=0))
    assert (after - before).abs().max() <= 1e-10


def test_wide_interleaved_table() -> None:
    rope, q, k, x, positions = setup("ld", 4)
    table = rope.fold_into_(q, k, full_width=True)
    cos, sin = table(positions)
    assert cos.shape == (3, 9, 16)
    want = table.rotate(heads(q, x), positions)
    torch.testing.assert_close(rope_apply(heads(q, x), cos, sin), want, rtol=0, atol=1e-14)


def test_table_is_a_module() -> None:
    freqs = torch.randn(3, 2, 8)
    check_module(lambda: RotaryTable(freqs), torch.rand(9, 2), train=False)
    table = RotaryTable(freqs)
    assert torch.equal(table.bfloat16().freqs, freqs)  # angles would suffer
    seen: list[nn.Module] = []
    nn.Sequential(table).apply(seen.append)  # nn.Module.apply still reaches it
    assert table in seen
    assert_same("pickle", pickle.loads(pickle.dumps(table))(torch.rand(4, 2)[:0]), table(torch.rand(4, 2)[:0]))
    with pytest.raises(ValueError, match="apply takes q, k and positions"):
        table.apply(torch.rand(3, 9, 16))


class Folded(nn.Module):
    """Attention after folding: two projections, a table, a kernel."""

    def __init__(self, q: nn.Linear, k: nn.Linear, table: RotaryTable) -> None:
        super().__init__()
        self.q, self.k, self.table = q, k, table

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        a, b = self.table.apply(heads(self.q, x), heads(self.k, x), positions)
        return nn.functional.scaled_dot_product_attention(a, b, heads(self.k, x))


def test_folded_attention_exports_with_dynamic_batch_and_length() -> None:
    rope, q, k, x, positions = setup("ld", 8, dtype=torch.float32)
    model = Folded(q, k, rope.fold_into_(q, k)).eval()
    batch, length = torch.export.Dim("batch", min=2), torch.export.Dim("length", min=2)
    program = torch.export.export(model, (x, positions), dynamic_shapes=({0: batch, 1: length}, {0: length}))
    more, grid = torch.randn(5, 16, 20), grid_positions((4, 4))
    torch.testing.assert_close(program.module()(more, grid), model(more, grid), rtol=0, atol=1e-5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, positions), model(x, positions), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_unfolded_layer_exports_too(variant: str) -> None:
    rope, q, k, x, positions = setup(variant, 4, dtype=torch.float32)
    rope = rope.eval().requires_grad_(False)
    args = (heads(q, x).detach(), heads(k, x).detach(), positions)
    program = torch.export.export(rope, args)
    assert_same("export", program.module()(*args), rope(*args), 1e-5)


@pytest.mark.bad_input
def test_errors() -> None:
    rope, q, k, _, _ = setup("ld", 4)
    grouped = nn.Linear(20, 16, dtype=torch.float64)
    before = q.weight.clone()
    with pytest.raises(ValueError, match=r"k_proj must have H \* D = 3 \* 16 outputs, got 16; grouped key heads"):
        rope.fold_into_(q, grouped)
    assert torch.equal(q.weight, before)  # nothing half-folded
    with pytest.raises(ValueError, match=r"qkv must have 3 \* H \* D = 3 \* 3 \* 16 outputs, got 48"):
        rope.fold_into_fused_(q)
    with pytest.raises(TypeError, match=r"q_proj must be an nn.Linear, got Conv1d"):
        rope.fold_into_(nn.Conv1d(1, 1, 1), k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one layer and would be folded twice"):
        rope.fold_into_(q, q)
    with pytest.raises(ValueError, match="layout must be one of"):
        rope.fold_into_(q, k, layout="neox")
    odd = ComRoPE(9, 3, 2, block_size=3)
    with pytest.raises(ValueError, match="head_dim must be even to fold into RoPE pairs, got 9 = 3 blocks of size 3"):
        odd.fold_into_(nn.Linear(20, 27), nn.Linear(20, 27))
    with pytest.raises(ValueError, match=r"freqs must have shape \(H, N, D/2\), got \(2, 8\)"):
        RotaryTable(torch.zeros(2, 8))
    table = rope.fold_into_(q, k)
    with pytest.raises(ValueError, match=r"positions must have shape \(L, 2\)"):
        table(torch.rand(9, 3))
