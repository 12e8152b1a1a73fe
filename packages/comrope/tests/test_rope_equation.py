"""The laws of the method: relative positions only, rotations, commuting generators, known special cases."""

import math

import pytest
import scipy.linalg
import torch
from torch import Tensor

from comrope import AxialRoPE, ComRoPE, LieRE, MixedRoPE, grid_positions, rope_equation_error
from comrope._reference import rotate_blocks_reference, rotate_dense_reference, rotation_matrix_reference
from comrope.experiments._vit import ViT, build_encoding
from geocore.blocks import BlockRotation
from geocore.son import commutator_norm

VARIANTS = ("ap", "ld", "full")
CASES = [(v, b) for v in VARIANTS for b in (2, 3, 4, 8)]


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def layer(variant: str, b: int, *, axes: int = 2, dtype: torch.dtype = torch.float64, **options: object) -> ComRoPE:
    return ComRoPE(axes * 2 * b, 3, axes, block_size=b, variant=variant, dtype=dtype, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("variant", "b"), CASES)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rope_equation_float64(variant: str, b: int, axes: int) -> None:
    rope = layer(variant, b, axes=axes)
    for shift in (0.37, 10.0, -3.0):
        assert rope_equation_error(rope, randn(20, axes), shift) <= 1e-12


@pytest.mark.parametrize(("variant", "b"), CASES)
def test_rope_equation_float32_up_to_30_radians(variant: str, b: int) -> None:
    rope = layer(variant, b, dtype=torch.float32)
    x = rand(50, 2, dtype=torch.float32)
    y = rand(50, 2, seed=1, dtype=torch.float32)
    top = max(rope.angles(p).abs().max().item() for p in (x, y, y - x))
    scale = 30 / top
    assert rope_equation_error(rope, scale * x, scale * (y - x)) <= 2e-5


@pytest.mark.parametrize("b", [3, 4, 8])
def test_liere_fails_the_rope_equation(b: int) -> None:
    assert rope_equation_error(LieRE(4 * b, 3, 2, block_size=b, dtype=torch.float64), rand(20, 2), 1.0) > 1e-2


def test_liere_with_planes_passes_it_because_planes_commute() -> None:
    assert rope_equation_error(LieRE(8, 3, 2, block_size=2, dtype=torch.float64), rand(20, 2), 1.0) <= 1e-12


@pytest.mark.parametrize("kind", [AxialRoPE, MixedRoPE])
def test_planar_baselines_pass_it(kind: type) -> None:
    assert rope_equation_error(kind(16, 3, 2, dtype=torch.float64), randn(20, 2), 5.0) <= 1e-12


@pytest.mark.parametrize(("variant", "b"), CASES)
def test_generators_are_skew_and_commute(variant: str, b: int) -> None:
    G = layer(variant, b, axes=3).generators()
    assert torch.equal(G, -G.mT) or (G + G.mT).abs().max() <= 1e-14
    for i in range(3):
        for j in range(i):
            assert commutator_norm(G[:, i], G[:, j]).max() <= 1e-12


def test_structure_of_the_generators() -> None:
    ap = layer("ap", 4)
    G, S = ap.generators(), ap.P - ap.P.mT
    for j in range(4):
        assert torch.equal(G[:, j % 2, j], S[:, j])  # interleaved: block 0 to axis 0, block 1 to axis 1, ...
        assert torch.equal(G[:, 1 - j % 2, j], torch.zeros_like(S[:, j]))
    ld = layer("ld", 4)
    torch.testing.assert_close(ld.generators(), torch.einsum("nj,hjab->hnjab", ld.theta, ld.P - ld.P.mT), rtol=0, atol=1e-15)
    per_head = layer("ld", 4, theta_per_head=True)
    assert per_head.theta.shape == (2, 3, 4)
    want = torch.einsum("nhj,hjab->hnjab", per_head.theta, per_head.P - per_head.P.mT)
    torch.testing.assert_close(per_head.generators(), want, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("variant", "b"), CASES)
def test_rotation_is_orthogonal_and_inverts(variant: str, b: int) -> None:
    rope, x = layer(variant, b), 3 * randn(7, 2)
    R = rope.rotation_blocks(x)
    assert R.shape == (7, 3, 4, b, b)
    eye = torch.eye(b, dtype=torch.float64).expand_as(R)
    torch.testing.assert_close(R @ R.mT, eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(7, 3, 4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(rope.rotation_blocks(torch.zeros(7, 2, dtype=torch.float64)), eye, rtol=0, atol=1e-13)
    torch.testing.assert_close(R @ rope.rotation_blocks(-x), eye, rtol=0, atol=1e-12)
    q = randn(2, 3, 7, 4 * b)
    torch.testing.assert_close(rope.rotate(q, x).norm(dim=-1), q.norm(dim=-1), rtol=1e-13, atol=0)


@pytest.mark.parametrize(("variant", "b"), CASES)
def test_rotation_blocks_equal_scipy_expm(variant: str, b: int) -> None:
    rope, x = layer(variant, b), rand(5, 2)
    G = torch.einsum("ln,hnmij->lhmij", x, rope.generators()).detach().numpy()
    want = torch.as_tensor(scipy.linalg.expm(G))
    torch.testing.assert_close(rope.rotation_blocks(x).detach(), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("variant", "b"), CASES)
@pytest.mark.parametrize("train", [True, False])
def test_equals_the_literal_algorithm(variant: str, b: int, train: bool) -> None:
    rope, x = layer(variant, b).train(train).requires_grad_(train), rand(6, 2)
    q = randn(2, 3, 6, 4 * b)
    R = rotation_matrix_reference(rope.generators(), x)
    got = rope.rotate(q, x)
    torch.testing.assert_close(got, torch.einsum("lhij,bhlj->bhli", R, q), rtol=0, atol=1e-12)
    torch.testing.assert_close(got, rotate_dense_reference(q, rope.generators(), x.expand(2, 6, 2)), rtol=0, atol=1e-12)
    torch.testing.assert_close(got, rotate_blocks_reference(q, rope.generators(), x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_those_of_the_literal_algorithm(variant: str) -> None:
    rope, x = layer(variant, 4), rand(6, 2).requires_grad_()
    q, k, w = (randn(2, 3, 6, 16, seed=s).requires_grad_(s < 2) for s in range(3))
    leaves = (q, k, x, *rope.parameters())

    def loss(turned_q: Tensor, turned_k: Tensor) -> Tensor:
        return (turned_q * w).sum() + (turned_k * w.flip(0)).sum()

    got = torch.autograd.grad(loss(*rope(q, k, x)), leaves)
    G = rope.generators()
    want = torch.autograd.grad(loss(rotate_blocks_reference(q, G, x), rotate_blocks_reference(k, G, x)), leaves)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_of_P_is_skew(variant: str) -> None:
    rope = layer(variant, 8)
    q, w = randn(2, 3, 9, 32), randn(2, 3, 9, 32, seed=1)
    (rope.rotate(q, rand(9, 2)) * w).sum().backward()
    grad = rope.P.grad
    assert grad is not None
    assert grad.abs().max() > 1e-3
    assert (grad + grad.mT).abs().max() <= 1e-12


@pytest.mark.parametrize(("variant", "b"), CASES)
def test_spectrum_rebuilds_the_generators_and_angles(variant: str, b: int) -> None:
    rope, x = layer(variant, b), randn(5, 2)
    freqs, basis = rope.spectrum()
    assert freqs.shape == (3, 2, 4, b // 2)
    assert basis.shape == (3, 4, b, b)
    planes = torch.zeros(3, 2, 4, b, b, dtype=torch.float64)
    for k in range(b // 2):
        planes[..., 2 * k + 1, 2 * k], planes[..., 2 * k, 2 * k + 1] = freqs[..., k], -freqs[..., k]
    torch.testing.assert_close(basis[:, None] @ planes @ basis[:, None].mT, rope.generators(), rtol=0, atol=1e-13)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(b, dtype=torch.float64).expand_as(basis), rtol=0, atol=1e-13)
    angles = rope.angles(x)
    assert angles.shape == (3, 5, 4 * (b // 2))
    torch.testing.assert_close(angles, torch.einsum("ln,hnp->hlp", x, freqs.flatten(-2)), rtol=0, atol=1e-12)


def test_planes_make_ap_axial_rope_and_ld_mixed_rope() -> None:
    x, q = randn(9, 2), randn(2, 3, 9, 16)
    for variant, b in (("ap", 2), ("ld", 2), ("full", 2), ("ap", 4), ("ld", 4), ("full", 8)):
        axial = AxialRoPE(16, 3, 2, block_size=b, dtype=torch.float64)
        rope = ComRoPE(16, 3, 2, block_size=b, variant=variant, init="axial", dtype=torch.float64)
        torch.testing.assert_close(rope.rotate(q, x), axial.rotate(q, x), rtol=0, atol=1e-12)
    ld, mixed = ComRoPE(16, 3, 2, block_size=2, dtype=torch.float64), MixedRoPE(16, 3, 2, dtype=torch.float64)
    rate = ld.P[..., 1, 0] - ld.P[..., 0, 1]  # S = rate * J
    with torch.no_grad():
        mixed.freqs.copy_(ld.theta[:, None] * rate)
    torch.testing.assert_close(ld.rotate(q, x), mixed.rotate(q, x), rtol=0, atol=1e-12)
    ap = ComRoPE(16, 3, 2, block_size=2, variant="ap", dtype=torch.float64)
    rate = ap.P[..., 1, 0] - ap.P[..., 0, 1]
    with torch.no_grad():
        mixed.freqs.copy_(torch.eye(2, dtype=torch.float64).repeat(1, 4)[:, None] * rate)
    torch.testing.assert_close(ap.rotate(q, x), mixed.rotate(q, x), rtol=0, atol=1e-12)


def test_one_axis_makes_ap_ld_with_theta_one() -> None:
    ap, ld = (ComRoPE(16, 3, 1, block_size=4, variant=v, dtype=torch.float64) for v in ("ap", "ld"))
    with torch.no_grad():
        ld.P.copy_(ap.P)
        ld.theta.fill_(1.0)
    x, q = randn(9, 1), randn(2, 3, 9, 16)
    torch.testing.assert_close(ap.rotate(q, x), ld.rotate(q, x), rtol=0, atol=1e-13)


def test_axial_rope_frequencies_by_hand() -> None:
    rope = AxialRoPE(8, 1, 2, base=100.0, max_frequency=2.0, dtype=torch.float64)
    want = torch.tensor([[2.0, 0.0, 0.2, 0.0], [0.0, 2.0, 0.0, 0.2]], dtype=torch.float64)  # 2 * 100^(-i/2), planes alternate between axes
    torch.testing.assert_close(rope.freqs, want, rtol=1e-15, atol=0)
    q = torch.zeros(1, 1, 8, dtype=torch.float64)
    q[..., 0] = 1.0
    turned = rope.rotate(q, torch.tensor([[math.pi / 4, 7.0]], dtype=torch.float64))
    torch.testing.assert_close(turned[0, 0, :2], torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-15)


def test_one_axis_planes_equal_rotary_embedding_torch() -> None:
    peer = pytest.importorskip("rotary_embedding_torch")
    other = peer.RotaryEmbedding(dim=32)  # interleaved pairs, theta 10000
    q = randn(2, 4, 50, 32, dtype=torch.float32)
    ours = AxialRoPE(32, 4, 1, base=10_000.0, max_frequency=1.0).rotate(q, torch.arange(50.0)[:, None])
    torch.testing.assert_close(ours, other.rotate_queries_or_keys(q), rtol=0, atol=1e-5)
    rope = ComRoPE(32, 4, 1, block_size=2, variant="ap", init="zero")
    with torch.no_grad():  # S = w J needs P - P^T = w J
        rates = 10_000.0 ** (-torch.arange(16) / 16)
        rope.P[..., 1, 0] = rates
    torch.testing.assert_close(rope.rotate(q, torch.arange(50.0)[:, None]), other.rotate_queries_or_keys(q), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("variant", "b", "theta_per_head"), [*((v, b, False) for v, b in CASES), *(("ld", b, True) for b in (2, 3, 8))])
def test_full_contains_the_other_variants(variant: str, b: int, theta_per_head: bool) -> None:
    rope = layer(variant, b, theta_per_head=theta_per_head)
    full = rope.to_full()
    assert full.variant == "full"
    x, q = randn(9, 2), randn(2, 3, 9, 4 * b)
    torch.testing.assert_close(full.rotate(q, x), rope.rotate(q, x), rtol=0, atol=1e-11)


def test_full_reaches_what_ld_and_ap_cannot() -> None:
    # Within one block of ld the frequencies of two axes are proportional, in ap one of them is 0; here they are neither.
    rope = layer("full", 4)
    ratio = rope.W[0] / rope.W[1]
    torch.testing.assert_close(ratio[..., 0], ratio[..., 1], rtol=1e-9, atol=0)  # initialised with the law of ld
    with torch.no_grad():
        rope.W.copy_(randn(*rope.W.shape))
    assert rope_equation_error(rope, randn(20, 2), 2.0) <= 1e-12


# Offset invariance


def vit(encoding: str, seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    return ViT(
        patch=2,
        channels=1,
        dim=64,
        depth=2,
        heads=4,
        hidden=128,
        classes=10,
        make_rope=lambda: build_encoding(encoding, 16, 4, block_size=4),
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("train", [True, False])
def test_model_output_is_invariant_under_offsets(variant: str, train: bool) -> None:
    model, images = vit(variant).train(train), rand(8, 1, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        base = model(images, grid_positions((4, 4), prefix_tokens=1))
        for shift in ((1.0, 0.0), (10.0, -10.0), (-3.0, 7.0)):
            moved = model(images, grid_positions((4, 4), prefix_tokens=1, offset=torch.tensor(shift)))
            assert (moved - base).abs().max() <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_invariant_under_offsets(variant: str) -> None:
    # On a 16 x 16 grid x and x + 10 are exact in float32, so rounding of the input does not count against the method.
    rope = ComRoPE(64, 4, 2, variant=variant).eval().requires_grad_(False)
    q, k = randn(2, 4, 257, 64, dtype=torch.float32)
    x = grid_positions((16, 16), prefix_tokens=1)

    def logits(positions: Tensor) -> Tensor:
        a, b = rope(q, k, positions)
        return a @ b.mT / 8

    for shift in (1.0, 10.0):
        assert (logits(x + shift) - logits(x)).abs().max() <= 1e-5


def test_liere_depends_on_the_offset() -> None:
    rope = LieRE(64, 4, 2).requires_grad_(False)
    q, k = randn(2, 4, 257, 64, dtype=torch.float32)
    x = grid_positions((16, 16), prefix_tokens=1)
    a, b = rope(q, k, x)
    c, d = rope(q, k, x + 1.0)
    assert (a @ b.mT / 8 - c @ d.mT / 8).abs().max() > 1.0
    with torch.no_grad():
        model, images = vit("liere"), rand(8, 1, 8, 8, dtype=torch.float32)
        base, moved = (model(images, grid_positions((4, 4), prefix_tokens=1) + s) for s in (0.0, 1.0))
    assert (base - moved).abs().max() > 1e-2


def test_dense_form_of_a_head_is_block_diagonal() -> None:
    rope, x = layer("ld", 4), rand(3, 2)
    R = BlockRotation(rope.rotation_blocks(x)).to_dense()
    torch.testing.assert_close(R, rotation_matrix_reference(rope.generators(), x), rtol=0, atol=1e-12)
