"""The paper's algorithm, literally: matrix exponentials per token. The oracle of the tests and the baseline of the benchmark."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["dense_rotations_reference", "rotate_blocks_reference", "rotate_dense_reference", "rotation_matrix_reference"]


def _expm(A: Tensor) -> Tensor:
    # torch.matrix_exp is wrong by up to 3e-12 for a single small float64 matrix, and may raise on strided input.
    flat = A.reshape(-1, *A.shape[-2:]).contiguous()
    return torch.matrix_exp(torch.cat((flat, flat)))[: flat.shape[0]].reshape(A.shape)


def rotation_matrix_reference(
    generators: Float[Tensor, "heads axes m b b"], positions: Float[Tensor, "tokens axes"]
) -> Float[Tensor, "tokens heads d d"]:
    """``R(x) = exp(sum_i x_i A_i)`` with the dense ``A_i = blockdiag(B_i1, ..., B_im)``, one token and one head at a time."""
    tokens = []
    for x in positions:
        heads = []
        for head in generators:
            A = sum(x[i] * torch.block_diag(*head[i]) for i in range(head.shape[0]))
            heads.append(_expm(torch.as_tensor(A)))
        tokens.append(torch.stack(heads))
    return torch.stack(tokens)


def dense_rotations_reference(
    generators: Float[Tensor, "heads axes m b b"], positions: Float[Tensor, "batch tokens axes"]
) -> Float[Tensor, "batch tokens heads d d"]:
    """Rotation matrices as an attention layer of the paper builds them: dense, and anew for every image.

    The exponential is taken block by block, which is the cheap way to fill that tensor.
    """
    blocks = torch.matrix_exp(torch.einsum("bln,hnmij->blhmij", positions, generators))
    m, b = blocks.shape[-3], blocks.shape[-1]
    dense = blocks.new_zeros(*blocks.shape[:3], m, b, m, b)
    for j in range(m):
        dense[..., j, :, j, :] = blocks[..., j, :, :]
    return dense.flatten(-2).flatten(-3, -2)


def rotate_dense_reference(
    x: Float[Tensor, "batch heads tokens dim"],
    generators: Float[Tensor, "heads axes m b b"],
    positions: Float[Tensor, "batch tokens axes"],
) -> Float[Tensor, "batch heads tokens dim"]:
    """Queries or keys times the matrices of ``dense_rotations_reference``."""
    return torch.einsum("blhij,bhlj->bhli", dense_rotations_reference(generators, positions), x)


def rotate_blocks_reference(
    x: Float[Tensor, "batch heads tokens dim"],
    generators: Float[Tensor, "heads axes m b b"],
    positions: Float[Tensor, "tokens axes"],
) -> Float[Tensor, "batch heads tokens dim"]:
    """The same without the dense tensor: one ``matrix_exp`` per token and block, shared by the batch, and an einsum."""
    blocks = torch.matrix_exp(torch.einsum("ln,hnmij->lhmij", positions, generators))
    m, b = blocks.shape[-3], blocks.shape[-1]
    return torch.einsum("lhmij,bhlmj->bhlmi", blocks, x.unflatten(-1, (m, b))).flatten(-2)
