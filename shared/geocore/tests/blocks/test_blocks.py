import math

import pytest
import torch
from torch import Tensor

from geocore.blocks import BlockRotation, apply_block_rotation, rope_apply
from geocore.testing import assert_close_eps, check_batching, check_half, check_transforms

LAYOUTS = ["interleaved", "half"]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_rotations(*shape: int, k: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    g = randn(*shape, k, k, seed=seed)
    return torch.matrix_exp((g - g.mT).reshape(-1, k, k)).reshape(*shape, k, k).to(dtype)


def dense(blocks: Tensor) -> Tensor:
    """Block-diagonal matrices by explicit loops."""
    m, k = blocks.shape[-3], blocks.shape[-1]
    out = blocks.new_zeros(*blocks.shape[:-3], m * k, m * k)
    for j in range(m):
        out[..., j * k : (j + 1) * k, j * k : (j + 1) * k] = blocks[..., j, :, :]
    return out


class TestApplyBlockRotation:
    def test_hand_worked(self) -> None:
        quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        y = apply_block_rotation(torch.tensor([1.0, 0.0, 0.0, 2.0]), torch.stack([quarter, torch.eye(2)]))
        assert y.tolist() == [0.0, 1.0, 0.0, 2.0]

    @pytest.mark.parametrize(
        ("xbatch", "rbatch"),
        [
            ((), ()),
            ((5,), ()),
            ((), (5,)),
            ((5,), (5,)),
            ((5,), (1,)),
            ((1,), (5,)),
            ((2, 3, 7), (3, 1)),
            ((2, 3, 7), (2, 1, 1)),
            ((2, 3, 7), (3, 7)),
            ((2, 1, 7), (1, 3, 1)),
            ((3, 1), (2, 1, 5)),
            ((0, 4), (4,)),
            ((4, 0), (4, 1)),
            ((2, 0), ()),
        ],
    )
    @pytest.mark.parametrize(("m", "k"), [(1, 1), (1, 4), (3, 2), (2, 5), (4, 1)])
    def test_equals_the_dense_product(self, xbatch: tuple[int, ...], rbatch: tuple[int, ...], m: int, k: int) -> None:
        x, R = randn(*xbatch, m * k), randn(*rbatch, m, k, k, seed=1)
        want = (dense(R) @ x.unsqueeze(-1)).squeeze(-1)
        got = apply_block_rotation(x, R)
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13)

    def test_gradients_of_broadcast_arguments(self) -> None:
        x, R = randn(2, 3, 4, 6).requires_grad_(), randn(3, 1, 2, 3, 3, seed=1).requires_grad_()
        w = randn(2, 3, 4, 6, seed=2)
        got = torch.autograd.grad((apply_block_rotation(x, R) * w).sum(), (x, R))
        want = torch.autograd.grad(((dense(R) @ x.unsqueeze(-1)).squeeze(-1) * w).sum(), (x, R))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    def test_shared_blocks_are_not_expanded(self) -> None:
        # 10 000 vectors under one rotation: a copy of the blocks per vector would be 64 times the size of x.
        x, R = torch.ones(10_000, 64, dtype=torch.float32), torch.eye(64)[None]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profile:
            apply_block_rotation(x, R)
        biggest = max(e.self_cpu_memory_usage for e in profile.events())
        assert biggest <= 2 * x.numel() * 4

    def test_derivatives(self, check_directional) -> None:
        check_directional(apply_block_rotation, randn(2, 3, 6), randn(3, 2, 3, 3, seed=1))

    def test_transforms(self) -> None:
        check_transforms(apply_block_rotation, randn(4, 6), randn(4, 2, 3, 3, seed=1), compile=False, compiled_transforms=False)

    def test_compile_with_shared_blocks_and_dynamic_rows(self) -> None:
        R = randn(3, 1, 2, 4, 4)
        compiled = torch.compile(apply_block_rotation, fullgraph=True, dynamic=True, backend="aot_eager")
        for rows in (5, 9):
            x = randn(2, 3, rows, 8)
            torch.testing.assert_close(compiled(x, R), apply_block_rotation(x, R), rtol=0, atol=1e-13)

    def test_batching(self) -> None:
        check_batching(apply_block_rotation, randn(5, 6), randn(5, 2, 3, 3, seed=1))

    def test_half(self) -> None:
        check_half(apply_block_rotation, randn(5, 6), random_rotations(5, 2, k=3))

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        x, R = randn(5, 6), randn(5, 2, 3, 3)
        with pytest.raises(ValueError, match=r"x must have shape \(..., 6\), got \(5, 7\)"):
            apply_block_rotation(randn(5, 7), R)
        with pytest.raises(ValueError, match=r"blocks must be square"):
            apply_block_rotation(x, randn(5, 2, 3, 2))
        with pytest.raises(ValueError, match=r"blocks must have shape \(..., m, k, k\), got \(6, 6\)"):
            apply_block_rotation(x, randn(6, 6))
        with pytest.raises(ValueError, match=r"must broadcast, got x \(4,\), blocks \(5,\)"):
            apply_block_rotation(x[:4], R)
        with pytest.raises(TypeError, match="x must have a floating-point dtype"):
            apply_block_rotation(torch.ones(5, 6, dtype=torch.int64), R)
        with pytest.raises(TypeError, match="blocks must be a torch.Tensor, got list"):
            apply_block_rotation(x, [[1.0]])  # type: ignore[arg-type]
        with pytest.raises(NotImplementedError, match="blocks must be real"):
            apply_block_rotation(x, torch.ones(2, 3, 3, dtype=torch.complex128))


class TestRopeApply:
    def test_hand_worked(self) -> None:
        cos, sin = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
        x = torch.tensor([1.0, 2.0, 3.0, 4.0])
        assert rope_apply(x, cos, sin).tolist() == [-2.0, 1.0, 3.0, 4.0]  # pairs (1, 2), (3, 4)
        assert rope_apply(x, cos, sin, layout="half").tolist() == [-3.0, 2.0, 1.0, 4.0]  # pairs (1, 3), (2, 4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("d", [2, 6, 64])
    def test_equals_rotation_matrices(self, layout: str, d: int) -> None:
        phi, x = randn(7, d // 2), randn(3, 7, d, seed=1)
        want = torch.empty_like(x)
        for p in range(d // 2):
            i, j = (2 * p, 2 * p + 1) if layout == "interleaved" else (p, p + d // 2)
            want[..., i] = phi[:, p].cos() * x[..., i] - phi[:, p].sin() * x[..., j]
            want[..., j] = phi[:, p].sin() * x[..., i] + phi[:, p].cos() * x[..., j]
        torch.testing.assert_close(rope_apply(x, phi.cos(), phi.sin(), layout=layout), want, rtol=0, atol=1e-14)  # type: ignore[arg-type]

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_full_width_uses_every_entry(self, layout: str) -> None:
        x, cos, sin = randn(5, 6), randn(5, 6, seed=1), randn(5, 6, seed=2)
        turned = rope_apply(x, torch.zeros(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype), layout=layout)  # type: ignore[arg-type]
        torch.testing.assert_close(rope_apply(x, cos, sin, layout=layout), x * cos + turned * sin, rtol=0, atol=1e-14)  # type: ignore[arg-type]

    def test_full_width_of_equal_pairs_is_the_half_width_form(self) -> None:
        x, phi = randn(5, 8), randn(5, 4, seed=1)
        for layout, widen in (("interleaved", lambda t: t.repeat_interleave(2, -1)), ("half", lambda t: torch.cat((t, t), -1))):
            narrow = rope_apply(x, phi.cos(), phi.sin(), layout=layout)  # type: ignore[arg-type]
            wide = rope_apply(x, widen(phi.cos()), widen(phi.sin()), layout=layout)  # type: ignore[arg-type]
            torch.testing.assert_close(wide, narrow, rtol=0, atol=1e-15)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_is_a_rotation_with_the_opposite_angle_as_inverse(self, layout: str) -> None:
        x, phi = randn(11, 10, dtype=torch.float32), randn(11, 5, seed=1, dtype=torch.float32)
        y = rope_apply(x, phi.cos(), phi.sin(), layout=layout)  # type: ignore[arg-type]
        assert_close_eps(y.norm(dim=-1), x.double().norm(dim=-1), 4.0, scale=4.0)
        back = rope_apply(y, phi.cos(), -phi.sin(), layout=layout)  # type: ignore[arg-type]
        assert_close_eps(back, x.double(), 4.0, scale=4.0)

    def test_interleaved_equals_2x2_blocks(self) -> None:
        phi, x = randn(4, 3), randn(4, 6, seed=1)
        c, s = phi.cos(), phi.sin()
        blocks = torch.stack((torch.stack((c, -s), -1), torch.stack((s, c), -1)), -2)
        torch.testing.assert_close(rope_apply(x, c, s), apply_block_rotation(x, blocks), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_broadcast_and_empty(self, layout: str) -> None:
        phi = randn(7, 2)
        for shape in ((2, 3, 7, 4), (0, 7, 4), (1, 4), (4,)):
            out = rope_apply(randn(*shape), phi.cos(), phi.sin(), layout=layout)  # type: ignore[arg-type]
            assert out.shape == (*torch.broadcast_shapes(shape[:-1], (7,)), 4)
        assert rope_apply(randn(3, 0), randn(0), randn(0), layout=layout).shape == (3, 0)  # type: ignore[arg-type]

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("width", [3, 6])
    def test_derivatives(self, layout: str, width: int, check_directional) -> None:
        check_directional(
            lambda x, c, s: rope_apply(x, c, s, layout=layout), randn(2, 3, 6), randn(3, width, seed=1), randn(3, width, seed=2)
        )  # type: ignore[arg-type]

    def test_transforms(self) -> None:
        """Both layouts, and block rotations, in one graph; forward compilation and export: tests/matrix."""

        def every(x: Tensor, c: Tensor, s: Tensor, R: Tensor) -> tuple[Tensor, ...]:
            return rope_apply(x, c, s), rope_apply(x, c, s, layout="half"), apply_block_rotation(x, R)

        check_transforms(every, randn(4, 6), randn(4, 3, seed=1), randn(4, 3, seed=2), randn(4, 2, 3, 3, seed=3), compile=False)

    @pytest.mark.parametrize("width", [3, 6])
    def test_batching_and_half(self, width: int) -> None:
        args = randn(5, 6), randn(5, width, seed=1), randn(5, width, seed=2)
        check_batching(rope_apply, *args)
        check_half(rope_apply, *args)

    def test_half_precision_query_with_single_precision_table(self) -> None:
        x, phi = randn(5, 6, dtype=torch.float32), randn(5, 3, seed=1, dtype=torch.float32)
        assert rope_apply(x.bfloat16(), phi.cos(), phi.sin()).dtype == torch.float32

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        x, c = randn(5, 6), randn(5, 3)
        with pytest.raises(ValueError, match="layout must be one of 'interleaved', 'half', got 'neox'"):
            rope_apply(x, c, c, layout="neox")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="even last dimension"):
            rope_apply(randn(5, 7), c, c)
        with pytest.raises(ValueError, match="last dimension 3 or 6 for x .* got 4 and 4"):
            rope_apply(x, randn(5, 4), randn(5, 4))
        with pytest.raises(ValueError, match="got 3 and 6"):
            rope_apply(x, c, randn(5, 6))
        with pytest.raises(ValueError, match=r"must broadcast, got x \(5,\), cos \(4,\)"):
            rope_apply(x, c[:4], c)
        with pytest.raises(ValueError, match="got a scalar"):
            rope_apply(x, torch.tensor(1.0), c)
        with pytest.raises(TypeError, match="sin must have a floating-point dtype"):
            rope_apply(x, c, torch.ones(5, 3, dtype=torch.int32))
        with pytest.raises(NotImplementedError, match="x must be real"):
            rope_apply(x.to(torch.complex128), c, c)


class TestBlockRotation:
    def test_sizes(self) -> None:
        R = BlockRotation(random_rotations(2, 4, k=3))
        assert (R.batch_shape, R.num_blocks, R.block_size, R.dim) == ((2,), 4, 3, 12)

    def test_to_dense(self) -> None:
        for shape in ((3,), (2, 3), (0, 3), (2, 1)):
            blocks = randn(*shape, 4, 4)
            assert torch.equal(BlockRotation(blocks).to_dense(), dense(blocks))

    def test_apply_transpose_and_inverse(self) -> None:
        R, x = BlockRotation(random_rotations(5, 2, k=3)), randn(5, 6, seed=1)
        y = R.apply(x)
        torch.testing.assert_close(y, (R.to_dense() @ x.unsqueeze(-1)).squeeze(-1), rtol=0, atol=1e-13)
        for back in (R.T, R.transpose(), R.inverse()):
            torch.testing.assert_close(back.apply(y), x, rtol=0, atol=1e-12)
        assert torch.equal(R.T.to_dense(), R.to_dense().mT)

    def test_composition(self) -> None:
        A, B = BlockRotation(random_rotations(5, 2, k=3)), BlockRotation(random_rotations(2, k=3, seed=1))
        x = randn(5, 6, seed=2)
        torch.testing.assert_close((A @ B).apply(x), A.apply(B.apply(x)), rtol=0, atol=1e-13)
        torch.testing.assert_close(A.matmul(B).to_dense(), A.to_dense() @ B.to_dense(), rtol=0, atol=1e-13)
        torch.testing.assert_close((A @ A.T).to_dense(), torch.eye(6, dtype=torch.float64).expand(5, 6, 6), rtol=0, atol=1e-13)
        torch.testing.assert_close(((A @ B).T).to_dense(), (B.T @ A.T).to_dense().expand(5, 6, 6), rtol=0, atol=1e-13)

    def test_immutable(self) -> None:
        R = BlockRotation(torch.eye(2)[None])
        with pytest.raises(AttributeError):
            R.blocks = torch.zeros(1, 2, 2)  # type: ignore[misc]

    def test_pytree_vmap_and_func(self) -> None:
        blocks, x = random_rotations(5, 2, k=3), randn(5, 6, seed=1)
        R = BlockRotation(blocks)
        doubled = torch.utils._pytree.tree_map(lambda t: 2 * t, R)
        assert isinstance(doubled, BlockRotation)
        assert torch.equal(doubled.blocks, 2 * blocks)
        composed = torch.vmap(lambda r: r @ r)(R)
        assert isinstance(composed, BlockRotation)
        torch.testing.assert_close(composed.blocks, blocks @ blocks, rtol=0, atol=1e-14)
        torch.testing.assert_close(torch.vmap(lambda r, v: r.apply(v))(R, x), R.apply(x), rtol=0, atol=1e-13)
        grad = torch.func.grad(lambda r: r.apply(x).square().sum())(R)
        assert isinstance(grad, BlockRotation)
        want = torch.autograd.functional.jacobian(lambda b: apply_block_rotation(x, b).square().sum(), blocks)
        torch.testing.assert_close(grad.blocks, want, rtol=0, atol=1e-12)

    def test_compile_argument_result_and_composition(self) -> None:
        R, x = BlockRotation(random_rotations(5, 2, k=3)), randn(5, 6, seed=1)

        def f(r: BlockRotation, v: Tensor) -> tuple[Tensor, Tensor, BlockRotation]:
            return r.matmul(r).T.apply(v), BlockRotation(r.blocks.mT).to_dense(), r.inverse()

        got = torch.compile(f, fullgraph=True, backend="aot_eager")(R, x)
        want = f(R, x)
        torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-13)
        assert torch.equal(got[1], want[1])
        assert isinstance(got[2], BlockRotation)
        assert torch.equal(got[2].blocks, want[2].blocks)

    def test_export_with_a_rotation_argument(self) -> None:
        class Apply(torch.nn.Module):
            def forward(self, r: BlockRotation, v: Tensor) -> Tensor:
                return r.apply(v)

        R, x = BlockRotation(random_rotations(5, 2, k=3)), randn(5, 6, seed=1)
        program = torch.export.export(Apply(), (R, x))
        torch.testing.assert_close(program.module()(R, x), R.apply(x), rtol=0, atol=1e-13)

    def test_half(self) -> None:
        blocks, x = random_rotations(5, 2, k=3), randn(5, 6, seed=1)
        check_half(lambda b, v: BlockRotation(b).apply(v), blocks, x)
        check_half(lambda a, b: (BlockRotation(a) @ BlockRotation(b)).blocks, blocks, blocks)
        assert BlockRotation(blocks.bfloat16()).to_dense().dtype == torch.bfloat16

    def test_derivatives(self, check_directional) -> None:
        check_directional(lambda a, b: (BlockRotation(a) @ BlockRotation(b)).T.to_dense(), randn(2, 2, 3, 3), randn(2, 3, 3, seed=1))

    def test_angle_addition(self) -> None:
        def turn(phi: float) -> BlockRotation:
            c, s = math.cos(phi), math.sin(phi)
            return BlockRotation(torch.tensor([[[c, -s], [s, c]]], dtype=torch.float64))

        torch.testing.assert_close((turn(0.3) @ turn(0.4)).blocks, turn(0.7).blocks, rtol=0, atol=1e-15)

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        R = BlockRotation(random_rotations(5, 2, k=3))
        with pytest.raises(ValueError, match="blocks must be square"):
            BlockRotation(randn(2, 3, 2))
        with pytest.raises(ValueError, match=r"shape \(..., m, k, k\), got \(3, 3\)"):
            BlockRotation(randn(3, 3))
        with pytest.raises(TypeError, match="floating-point"):
            BlockRotation(torch.ones(1, 2, 2, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"equal blocks \(m, k, k\), got \(2, 3, 3\) and \(3, 2, 2\)"):
            R @ BlockRotation(randn(3, 2, 2))
        with pytest.raises(ValueError, match=r"must broadcast, got self \(5,\), other \(4,\)"):
            R @ BlockRotation(random_rotations(4, 2, k=3))
        with pytest.raises(TypeError, match="other must be a BlockRotation, got Tensor; use apply"):
            R.matmul(randn(5, 6))  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            R @ 3


class _Tables(torch.nn.Module):
    def __init__(self):
        super().__init__()
        angle = torch.rand(7, 4)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, x):
        return rope_apply(x, self.cos, self.sin)


def test_tables_as_buffers_compile_with_dynamic_shapes():
    """The width of a buffer is a constant, that of the input a symbol: the two must still compare."""
    torch._dynamo.reset()
    module, x = _Tables(), torch.randn(3, 7, 8)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")(x), module(x))
