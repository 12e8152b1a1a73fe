import pytest
import torch

from geocore import so3
from geocore.testing import max_error_eps

PARENTS = [3, 0, 0, -1, 2, 4, 3, -1]  # unordered, two roots, depth 5


def by_loop(rotations, offsets, parents):
    done_R, done_p = {}, {}

    def visit(j):
        if j not in done_R:
            if parents[j] < 0:
                done_R[j], done_p[j] = rotations[..., j, :, :], offsets[..., j, :]
            else:
                R, p = visit(parents[j])
                done_R[j] = R @ rotations[..., j, :, :]
                done_p[j] = p + (R @ offsets[..., j, :, None])[..., 0]
        return done_R[j], done_p[j]

    for j in range(len(parents)):
        visit(j)
    order = range(len(parents))
    return torch.stack([done_R[j] for j in order], -3), torch.stack([done_p[j] for j in order], -2)


@pytest.mark.parametrize("shared", [True, False])
def test_forward_kinematics_against_a_loop(rng, shared):
    R = so3.random((4, 8), generator=rng, dtype=torch.float64)
    offsets = torch.randn(*(() if shared else (4,)), 8, 3, generator=rng, dtype=torch.float64)
    G, p = so3.forward_kinematics(R, offsets, PARENTS)
    expected = by_loop(R, offsets.expand(4, 8, 3), PARENTS)
    assert torch.equal(G, expected[0])
    assert max_error_eps(p, expected[1]) <= 8
    # bone lengths are preserved
    for j, parent in enumerate(PARENTS):
        if parent >= 0:
            length = torch.linalg.vector_norm(p[:, j] - p[:, parent], dim=-1)
            assert max_error_eps(length, torch.linalg.vector_norm(offsets[..., j, :], dim=-1).expand(4)) <= 32


def test_forward_kinematics_by_hand():
    quarter = so3.exp(torch.tensor([[0.0, 0, torch.pi / 2], [0, 0, torch.pi / 2], [0, 0, 0]], dtype=torch.float64))
    offsets = torch.tensor([[5.0, 0, 0], [1, 0, 0], [1, 0, 0]], dtype=torch.float64)
    _, p = so3.forward_kinematics(quarter, offsets, [-1, 0, 1])
    assert (p - torch.tensor([[5.0, 0, 0], [5, 1, 0], [4, 1, 0]])).abs().max() < 1e-15


def test_forward_kinematics_of_one_joint_and_of_nothing(rng):
    R = so3.random((0, 2), generator=rng)
    G, p = so3.forward_kinematics(R, torch.zeros(2, 3), [-1, 0])
    assert G.shape == (0, 2, 3, 3)
    assert p.shape == (0, 2, 3)
    G, p = so3.forward_kinematics(so3.random(1, generator=rng), torch.ones(1, 3), (-1,))
    assert p.tolist() == [[1, 1, 1]]


def test_forward_kinematics_derivatives(rng, check_directional):
    R = so3.random(8, generator=rng, dtype=torch.float64)
    check_directional(
        lambda R, o: so3.forward_kinematics(R, o, PARENTS), R, torch.randn(8, 3, generator=rng, dtype=torch.float64), second=False
    )


def test_renormalize(rng, check_directional):
    R = so3.random(100, generator=rng, dtype=torch.float64)
    for drift in (1e-2, 1e-4, 1e-6):
        noisy = R + drift * torch.randn(100, 3, 3, generator=rng, dtype=torch.float64)
        U, S, Vh = torch.linalg.svd(noisy)
        # the singular vectors stay, a singular value s becomes s (3 - s^2) / 2
        expected = U @ torch.diag_embed(S * (3 - S * S) / 2) @ Vh
        assert max_error_eps(so3.renormalize(noisy), expected) <= 32
        once = (so3.renormalize(noisy).mT @ so3.renormalize(noisy) - torch.eye(3)).abs().max()
        assert once <= 4 * (noisy.mT @ noisy - torch.eye(3)).abs().max() ** 2 + 1e-14
    assert max_error_eps(so3.renormalize(R), R) <= 8
    check_directional(so3.renormalize, R[:2])
