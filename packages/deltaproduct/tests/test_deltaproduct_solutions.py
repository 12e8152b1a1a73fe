"""Weights made by hand, without training, track groups exactly: what the method can express."""

import math

import pytest
import torch

from deltaproduct import delta_product, tasks, transition_matrix
from geocore.householder import from_orthogonal, permutation_to_reflectors, to_matrix

T = 2048
TOLERANCE = {torch.float64: 1e-11, torch.float32: 5e-4}  # products of reflections drift linearly with the number of tokens


def track(reflectors: torch.Tensor, words: torch.Tensor, n: int, mode: str = "chunk") -> torch.Tensor:
    """Final states ``(B, K, K)`` of words over elements whose transition is a product of reflections ``(elements, n, K)``."""
    B, K = words.shape[0], reflectors.shape[-1]
    k = reflectors[words].reshape(B, -1, 1, K)
    beta = 2 * (k.square().sum(-1) > 0.5).to(k.dtype)
    q, v = k.new_zeros(B, words.shape[1], 1, K), torch.zeros_like(k)
    eye = torch.eye(K, dtype=k.dtype).expand(B, 1, K, K)
    _, S = delta_product(q, k, v, beta, num_householder=n, initial_state=eye, output_final_state=True, mode=mode)
    return S[:, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("mode", ["chunk", "recurrent"])
def test_parity_with_one_number(dtype, mode):
    # K = 1, k = 1: beta = 2 turns the sign, beta = 0 keeps it
    bits, targets = tasks.parity(T, 3, seed=1)
    one = torch.ones(3, T, 1, 1, dtype=dtype)
    o, _ = delta_product(
        one, one, 0 * one, 2.0 * bits[..., None].to(dtype), num_householder=1, initial_state=torch.ones(3, 1, 1, 1, dtype=dtype), mode=mode
    )
    assert torch.equal((o[..., 0, 0] < 0).long(), targets)
    torch.testing.assert_close(o.abs(), one)


@pytest.mark.parametrize("m", [3, 5, 12])
def test_cyclic_groups_with_two_reflections_in_the_plane(m):
    words, products = tasks.GroupWordProblem(f"Z{m}", T, 2, seed=m)
    angle = torch.arange(m, dtype=torch.float64) * math.pi / m
    first, second = torch.tensor([1.0, 0.0]).double().expand(m, 2), torch.stack([angle.cos(), angle.sin()], -1)
    S = track(torch.stack([first, second], 1), words, 2)
    turn = 2 * math.pi / m * products[:, -1].double()
    expected = torch.stack([torch.stack([turn.cos(), -turn.sin()], -1), torch.stack([turn.sin(), turn.cos()], -1)], -2)
    torch.testing.assert_close(S, expected, atol=TOLERANCE[torch.float64], rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("name", "n"), [("S3", 2), ("S4", 3), ("S5", 4)])
def test_symmetric_groups_with_transpositions(name, n, dtype):
    words, products = tasks.GroupWordProblem(name, T, 2, seed=n)
    group = tasks.group(name)
    # the state is multiplied from the left, the word's product from the right: transposed matrices, P_x1^T first
    reflectors = permutation_to_reflectors(group.permutations, dtype=dtype)  # of P^T, which gathers: (P^T x)_i = x[p(i)]
    reflectors = reflectors.mT.flip(1)  # the first micro-step stands rightmost
    assert reflectors.shape == (group.order, n, group.permutations.shape[1])
    S = track(reflectors, words, n)
    expected = tasks.permutation_matrices(group.permutations[products[:, -1]], dtype=dtype).mT
    torch.testing.assert_close(S, expected, atol=TOLERANCE[dtype], rtol=0)


def rotations(name: str) -> tuple[torch.Tensor, tasks.Group]:
    """The rotations of the cube (S4) or icosahedron (A5) in 3-space, closed under products from two generators, and their Cayley table."""
    if name == "S4":
        a = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)  # quarter turn
        b = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)  # a third around a corner
    else:
        golden = (1 + math.sqrt(5)) / 2
        axis = torch.tensor([0.0, 1.0, golden], dtype=torch.float64)
        axis = axis / axis.norm()
        cross = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=torch.float64)).mT
        angle = 2 * math.pi / 5
        a = torch.eye(3, dtype=torch.float64) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
        b = torch.diag(torch.tensor([-1.0, -1, 1], dtype=torch.float64))
    elements = [torch.eye(3, dtype=torch.float64)]
    for x in elements:
        for y in (a, b):
            new = x @ y
            if min(float((new - e).abs().max()) for e in elements) > 1e-6:
                elements.append(new)
    R = torch.stack(elements)
    gaps = ((R[:, None] @ R[None])[:, :, None] - R).abs().amax((-1, -2))
    assert float(gaps.amin(-1).max()) < 1e-12
    return R, tasks.group(gaps.argmin(-1))


@pytest.mark.parametrize(("name", "order"), [("S4", 24), ("A5", 60)])
def test_rotations_of_solids_with_two_reflections(name, order):
    R, group = rotations(name)
    assert group.order == order == tasks.group(name).order
    reflectors = from_orthogonal(R.mT)  # at most two: a rotation of 3-space keeps an axis
    assert float(reflectors[..., 2].abs().max()) == 0
    words, products = tasks.GroupWordProblem(group, T, 2, seed=3)
    S = track(reflectors[..., :2].mT.flip(1), words, 2)
    torch.testing.assert_close(S, R[products[:, -1]].mT, atol=TOLERANCE[torch.float64], rtol=0)


def test_two_reflections_turn_by_twice_their_angle():
    k = torch.tensor([[1.0, 0.0], [math.cos(0.3), math.sin(0.3)]], dtype=torch.float64)
    A = transition_matrix(k, torch.tensor([2.0, 2.0]).double())
    turn = torch.tensor([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]], dtype=torch.float64)
    torch.testing.assert_close(A, turn)


def test_transition_matrix_of_a_permutation_is_geocores():
    permutation = torch.tensor([2, 0, 3, 1, 4])
    V = permutation_to_reflectors(permutation, dtype=torch.float64)
    A = transition_matrix(V.mT.flip(0), 2.0 * V.square().sum(0).flip(0))
    torch.testing.assert_close(A, to_matrix(V))
    torch.testing.assert_close(A @ torch.arange(5.0).double(), permutation.double())


def test_one_factor_cannot_turn_and_unit_range_cannot_reflect():
    k = torch.nn.functional.normalize(torch.randn(500, 1, 4, dtype=torch.float64), dim=-1)
    one = transition_matrix(k, 2 * torch.rand(500, 1, dtype=torch.float64))
    assert float(torch.linalg.eigvals(one).imag.abs().max()) < 1e-12
    k = torch.nn.functional.normalize(torch.randn(500, 2, 4, dtype=torch.float64), dim=-1)
    small = transition_matrix(k, torch.rand(500, 2, dtype=torch.float64))
    values = torch.linalg.eigvals(small)
    assert float(values.imag.abs().max()) < 1e-7  # the square root of rounding, where two eigenvalues meet
    assert float(values.real.min()) > -1e-7
    assert float(values.real.max()) < 1 + 1e-7
