"""A sequence model of three packages: deltaproduct layers, a comrope-equipped attention layer beside them, a rotrep head on top."""

import torch
from sequence_model import Tracker, commands

from deltaproduct import DeltaProductCache
from geocore import so3
from geocore.testing import assert_same


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
