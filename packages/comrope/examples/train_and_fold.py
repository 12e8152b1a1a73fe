"""Train one attention layer with ComRoPE, fold the learned basis into its projections, and compare: the logits do not change."""

import torch
from torch import nn

from comrope import ComRoPE, grid_positions, rope_equation_error

HEADS, HEAD_DIM, WIDTH = 4, 16, 64


def main() -> None:
    torch.manual_seed(0)
    q_proj, k_proj = nn.Linear(WIDTH, HEADS * HEAD_DIM), nn.Linear(WIDTH, HEADS * HEAD_DIM)
    rope = ComRoPE(HEAD_DIM, HEADS, num_axes=2, block_size=4)
    positions = grid_positions((8, 8))
    tokens = torch.randn(16, 64, WIDTH)

    def logits(rotate) -> torch.Tensor:
        q, k = (proj(tokens).unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2) for proj in (q_proj, k_proj))
        q, k = rotate(q, k, positions)
        return q @ k.mT / HEAD_DIM**0.5

    # A toy task for the encoding: attend to the right-hand neighbour, whatever the tokens hold.
    right = torch.arange(64).reshape(8, 8).roll(-1, 1).flatten()
    inner = torch.arange(64) % 8 != 7
    optimizer = torch.optim.Adam([*q_proj.parameters(), *k_proj.parameters(), *rope.parameters()], lr=0.01)
    for step in range(200):
        scores = logits(rope)[..., inner, :]
        loss = nn.functional.cross_entropy(scores.flatten(0, 2), right[inner].repeat(16 * HEADS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 49:
            hits = (scores.argmax(-1) == right[inner]).float().mean().item()
            print(f"step {step + 1}: loss {loss.item():.3f}, attends to its right neighbour {100 * hits:.0f} %")

    print(f"violation of the RoPE equation after training: {rope_equation_error(rope, positions, 3.0):.1e}")
    with torch.no_grad():
        before = logits(rope)
        table = rope.fold_into_(q_proj, k_proj)
        after = logits(table.apply)
    print(f"logits before and after folding differ by {(before - after).abs().max() / before.abs().max():.1e} (relative)")


if __name__ == "__main__":
    main()
