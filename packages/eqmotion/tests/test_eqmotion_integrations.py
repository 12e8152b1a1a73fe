import sys

import pytest
import torch

from eqmotion import EqMotion
from eqmotion.integrations import plotting, pyg


def test_figures(tmp_path):
    pytest.importorskip("matplotlib")
    past, future = torch.randn(3, 6, 2), torch.randn(3, 4, 2)
    figure = plotting.plot_trajectories(past, future, torch.randn(3, 5, 4, 2), title="modes")
    assert len(figure.axes[0].lines) == 3 + 3 + 15
    flat = plotting.plot_trajectories(past[..., :1], future[..., :1], future[..., :1])
    assert len(flat.axes[0].lines) == 9
    categories = torch.nn.functional.one_hot(torch.tensor([[0, 1, 0], [1, 0, 2], [0, 2, 0]]), 3).float()
    drawn = plotting.draw_interactions(categories, null=(2,))
    drawn.savefig(tmp_path / "g.png")
    assert len(drawn.axes[0].collections) > 0
    file = plotting.animate(past, future, future + 0.1, tmp_path / "deep" / "a.gif", title="three")
    assert file.read_bytes()[:6] in (b"GIF87a", b"GIF89a")
    from PIL import Image

    with Image.open(file) as image:
        assert image.n_frames == 10


def batch():
    data = pytest.importorskip("torch_geometric.data")
    generator = torch.Generator().manual_seed(0)
    scenes = [data.Data(pos=torch.randn(n, 6, 3, generator=generator), num_nodes=n) for n in (3, 1, 4)]
    return scenes, data.Batch.from_data_list(scenes)


def test_torch_geometric_scenes_equal_single_ones():
    scenes, together = batch()
    model = EqMotion(6, 4, channels=4, hidden_dim=6, n_layers=2).eval()
    adapter = pyg.PyGEqMotion(model)
    with torch.no_grad():
        out = adapter(together)
        start = edge = 0
        for scene in scenes:
            n = len(scene.pos)
            want = model(scene.pos)
            torch.testing.assert_close(out.pred[start : start + n], want.pred, atol=1e-6, rtol=1e-5)
            count = n * (n - 1)
            sender, receiver = out.edge_index[:, edge : edge + count] - start
            torch.testing.assert_close(out.categories[edge : edge + count], want.categories[receiver, sender], atol=1e-6, rtol=0)
            torch.testing.assert_close(adapter(scene).pred, want.pred, atol=1e-6, rtol=1e-5)
            start, edge = start + n, edge + count
        together.edge_index = out.edge_index
        sparse = adapter(together)
    torch.testing.assert_close(sparse.pred, out.pred, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(sparse.categories, out.categories, atol=1e-6, rtol=0)
    modes = pyg.PyGEqMotion(EqMotion(6, 4, channels=4, hidden_dim=6, n_layers=1, n_modes=2, mode_scores=True))(together)
    assert modes.pred.shape == (8, 2, 4, 3)
    assert modes.mode_logits.shape == (8, 2)


def test_there_and_back():
    scenes, together = batch()
    x, mask = pyg.to_dense(together)
    assert x.shape == (3, 4, 6, 3)
    assert mask.sum(1).tolist() == [3, 1, 4]
    back = pyg.to_data_list(x, x[:, :, :2], mask)
    for a, b in zip(back, scenes, strict=True):
        assert torch.equal(a.pos, b.pos)
        assert torch.equal(a.y, b.pos[:, :2])
    assert len(pyg.to_data_list(x)) == 3


@pytest.mark.bad_input
def test_errors(monkeypatch):
    _, together = batch()
    together.pos = together.pos[:, 0]
    with pytest.raises(ValueError, match=r"data.pos must have shape \(agents, T, d\)"):
        pyg.to_dense(together)
    with pytest.raises(ValueError, match=r"x must have shape \(B, N, T, d\)"):
        pyg.to_data_list(torch.zeros(2, 3, 4))
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(ImportError, match=r"install eqmotion\[pyg\]"):
        pyg.PyGEqMotion(EqMotion(6, 4))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"install eqmotion\[demo\]"):
        plotting.plot_trajectories(torch.zeros(1, 2, 2))
