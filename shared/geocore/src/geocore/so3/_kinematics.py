"""Rotations along a kinematic tree, and repair of drifted matrices."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_trailing
from geocore._precision import full_precision

__all__ = ["forward_kinematics", "renormalize"]


def _levels(parents: Sequence[int]) -> list[list[int]]:
    """Joints by depth; every joint's parent is in the level before."""
    children: list[list[int]] = [[] for _ in parents]
    level = []
    for joint, parent in enumerate(parents):
        if not -1 <= parent < len(parents):
            raise ValueError(f"parents must hold joint indices below {len(parents)}, or -1 for a root, got {parent} for joint {joint}")
        (level if parent < 0 else children[parent]).append(joint)
    levels = []
    while level:
        levels.append(level)
        level = [child for joint in level for child in children[joint]]
    if sum(map(len, levels)) != len(parents):
        raise ValueError(f"parents must form a tree with root -1, got a cycle in {list(parents)}")
    return levels


@full_precision
def forward_kinematics(
    rotations: Float[Tensor, "*#batch j 3 3"], offsets: Float[Tensor, "*#batch j 3"], parents: Sequence[int]
) -> tuple[Float[Tensor, "*batch j 3 3"], Float[Tensor, "*batch j 3"]]:
    """Global rotations and positions of the joints of a tree.

    ``G_j = G_parent R_j`` and ``p_j = p_parent + G_parent offset_j``; for a root ``G = R`` and ``p = offset``. Computed level by
    level, so the cost follows the depth of the tree, not the number of joints.

    Args:
        rotations: Local rotation of every joint, shape ``(..., J, 3, 3)``.
        offsets: Position of every joint in its parent's frame, shape ``(..., J, 3)`` or ``(J, 3)``.
        parents: Parent index of every joint, -1 for a root; any order, several roots allowed.

    Returns:
        Global rotations ``(..., J, 3, 3)`` and positions ``(..., J, 3)``.

    Raises:
        ValueError: If the numbers of joints differ, the batches do not broadcast or ``parents`` is not a tree.

    Example:
        >>> half_turn = exp(torch.tensor([[0.0, 0.0, torch.pi], [0.0, 0.0, 0.0]]))
        >>> _, positions = forward_kinematics(half_turn, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), [-1, 0])
        >>> positions[1]  # about [-1, 0, 0]
    """
    check_trailing("rotations", rotations, (None, 3, 3))
    check_trailing("offsets", offsets, (None, 3))
    joints = rotations.shape[-3]
    parents = [int(p) for p in parents]
    if offsets.shape[-2] != joints or len(parents) != joints or joints < 1:
        raise ValueError(
            f"rotations, offsets and parents must hold the same number >= 1 of joints, got {joints}, {offsets.shape[-2]} and {len(parents)}"
        )
    levels = _levels(parents)
    batch = check_broadcastable(rotations=rotations.shape[:-3], offsets=offsets.shape[:-2])
    rotations = rotations.expand(*batch, joints, 3, 3)
    offsets = offsets.expand(*batch, joints, 3)

    G, p = rotations[..., levels[0], :, :], offsets[..., levels[0], :]
    all_G, all_p = [G], [p]
    for above, level in pairwise(levels):
        slot = [above.index(parents[joint]) for joint in level]
        G, p = G[..., slot, :, :], p[..., slot, :]
        p = p + (G @ offsets[..., level, :].unsqueeze(-1)).squeeze(-1)
        G = G @ rotations[..., level, :, :]
        all_G.append(G)
        all_p.append(p)
    order = [joint for level in levels for joint in level]
    back = sorted(range(joints), key=order.__getitem__)
    return torch.cat(all_G, -3)[..., back, :, :], torch.cat(all_p, -2)[..., back, :]


@full_precision
def renormalize(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """One Newton step towards the nearest rotation, ``R (3 I - R^T R) / 2``: undoes the drift of long products.

    A singular value ``1 + d`` becomes ``1 - 3/2 d^2 - d^3/2``, so one step takes an orthogonality error of 1e-4 to 1e-8; singular
    values in (0, sqrt(3)) converge to 1 when it is repeated. For matrices far from a rotation use ``geocore.son.special_procrustes``.

    Args:
        R: Nearly orthogonal matrices, shape ``(..., 3, 3)``.

    Returns:
        Matrices, shape ``(..., 3, 3)``, closer to orthogonal.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
    """
    check_trailing("R", R, (3, 3))
    return 1.5 * R - 0.5 * (R @ (R.mT @ R))
