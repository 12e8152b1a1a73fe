"""A sequence model of three packages: deltaproduct layers, a comrope-equipped attention layer beside them, a rotrep head on top."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comrope import ComRoPE, RotaryTable
from deltaproduct import DeltaProduct, DeltaProductCache
from geocore import so3
from geocore.testing import assert_same
from rotrep import RotationHead

WIDTH, HEADS, DIM = 32, 2, 16


class CausalAttention(nn.Module):
    """Softmax attention over the past with a learned rotary embedding of the time step."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.rope: ComRoPE | RotaryTable = ComRoPE(DIM, HEADS, 1, block_size=4)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, DIM)).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = self.rope.apply(q, k, positions) if isinstance(self.rope, RotaryTable) else self.rope(q, k, positions)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Tracker(nn.Module):
    """Commands in, the orientation after each of them out."""

    def __init__(self, commands: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(commands, WIDTH)
        self.first = DeltaProduct(WIDTH, num_heads=HEADS, head_dim=DIM, num_householder=2, use_short_conv=False, layer_idx=0)
        self.attention = CausalAttention()
        self.second = DeltaProduct(WIDTH, num_heads=HEADS, head_dim=DIM, num_householder=2, use_short_conv=False, layer_idx=1)
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH) for _ in range(4))
        self.head = RotationHead(WIDTH, "6d", hidden=(64,))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        positions = torch.arange(tokens.shape[1], dtype=x.dtype, device=x.device)[:, None]
        x = x + self.first(self.norms[0](x))[0]
        x = x + self.attention(self.norms[1](x), positions)
        x = x + self.second(self.norms[2](x))[0]
        return self.head(self.norms[3](x)).matrix


def commands(batch: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Quarter turns about the three axes, and the products so far: a state to track, not a feature to read off."""
    tokens = torch.randint(3, (batch, length), generator=torch.Generator().manual_seed(seed))
    turns = so3.exp(torch.eye(3) * torch.pi / 2)
    state, states = torch.eye(3).expand(batch, 3, 3), []
    for step in tokens.unbind(1):
        state = turns[step] @ state
        states.append(state)
    return tokens, torch.stack(states, 1)


def test_three_packages_train_together(tmp_path):
    torch.manual_seed(0)
    tokens, target = commands(256, 6)
    model = Tracker(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = so3.geodesic(model(tokens), target).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert losses[-1] < 0.45 * losses[0]
    model.eval()
    with torch.no_grad():
        plain = model(tokens)
        others, truth = commands(128, 6, seed=1)
        unseen = [i for i, row in enumerate(others.tolist()) if row not in tokens.tolist()]
        assert len(unseen) > 50
        assert so3.geodesic(model(others[unseen]), truth[unseen]).mean() < 0.5 * losses[0], "sequences it was not trained on"

        torch.save(model.state_dict(), tmp_path / "tracker.pt")
        other = Tracker(3).eval()
        other.load_state_dict(torch.load(tmp_path / "tracker.pt", weights_only=True))
        assert torch.equal(other(tokens), plain)

        torch._dynamo.reset()
        assert_same("compiled", torch.compile(model, fullgraph=True, backend="aot_eager")(tokens), plain, 1e-4)
        batch = torch.export.Dim("batch", min=2, max=512)
        program = torch.export.export(model, (tokens,), dynamic_shapes=({0: batch},))
        assert_same("exported", program.module()(tokens[:5]), plain[:5], 1e-4)

        model.attention.rope = model.attention.rope.fold_into_(model.attention.q, model.attention.k)
        assert_same("folded", model(tokens), plain, 1e-4)


def test_recurrent_layers_decode_token_by_token():
    torch.manual_seed(0)
    model = Tracker(3).eval()
    tokens, _ = commands(2, 9)
    with torch.no_grad():
        x = model.embed(tokens)
        whole = model.second(model.first(x)[0])[0]
        cache, pieces = DeltaProductCache(), []
        for t in range(9):
            y, cache = model.first(x[:, t : t + 1], cache=cache, use_cache=True)
            y, cache = model.second(y, cache=cache, use_cache=True)
            pieces.append(y)
    assert_same("decoded", torch.cat(pieces, 1), whole, 1e-5)
