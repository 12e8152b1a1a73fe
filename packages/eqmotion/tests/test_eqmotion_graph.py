import pytest
import torch

from eqmotion import EqMotion, equivariance_report
from eqmotion.graph import knn_edges, radius_edges
from geocore.testing.benchmark import peak_memory


def complete(n: int) -> torch.Tensor:
    receiver, sender = (~torch.eye(n, dtype=torch.bool)).nonzero(as_tuple=True)
    return torch.stack([sender, receiver])


@pytest.mark.parametrize(
    "options", [{}, {"aggregation": "mean"}, {"n_modes": 2}, {"group": "SO", "up_axis": 0}, {"edge_attr_dim": 2}], ids=str
)
@pytest.mark.parametrize("masked", [False, True])
def test_complete_sparse_graph_equals_the_dense_one(small, scenes, options, masked):
    dense, x = small(**options), scenes().requires_grad_()
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]]) if masked else None
    attr = {"edge_attr": torch.randn(2, 5, 5, 2).double()} if "edge_attr_dim" in options else {}
    want = dense(x, mask=mask, **attr)
    grad = torch.autograd.grad(want.pred.square().sum(), x)[0]
    for graph in ({"graph": complete(5)}, {"graph": "knn", "k": 4}, {"graph": "radius", "radius": 100.0}):
        sparse = small(**options, **graph)
        sparse.load_state_dict(dense.state_dict())
        out = sparse(x, mask=mask, **attr)
        torch.testing.assert_close(out.pred, want.pred, atol=1e-12, rtol=1e-11)
        torch.testing.assert_close(torch.autograd.grad(out.pred.square().sum(), x)[0], grad, atol=1e-11, rtol=1e-10)
        sender, receiver = out.edge_index
        scene = receiver // 5
        assert torch.equal(scene, sender // 5)
        seen = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask
        keep = seen.flatten()[sender] & seen.flatten()[receiver]
        torch.testing.assert_close(out.categories[keep], want.categories[scene, receiver % 5, sender % 5][keep], atol=1e-12, rtol=0)
    out = dense(x, mask=mask, edge_index=torch.cat([complete(5), complete(5) + 5], dim=1), **attr)
    torch.testing.assert_close(out.pred, want.pred, atol=1e-12, rtol=1e-11)


def test_rows_of_categories_sum_to_one_and_fit_the_edges(small, scenes):
    out = small(graph="knn", k=2, n_categories=3)(scenes()[0])
    assert out.categories.shape == out.category_logits.shape == (10, 3)
    torch.testing.assert_close(out.categories.sum(-1), torch.ones(10, dtype=torch.float64))
    again = small(graph="knn", k=2, n_categories=3)
    torch.testing.assert_close(again(scenes()[0], categories=out.categories).pred, out.pred)


def test_neighbours_by_hand():
    x = torch.tensor([0.0, 1.0, 3.0, 10.0]).view(1, 4, 1, 1).expand(1, 4, 2, 1)
    assert knn_edges(x, 1).tolist() == [[1, 0, 1, 2], [0, 1, 2, 3]]
    assert sorted(zip(*radius_edges(x, 2.5).tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    mask = torch.tensor([[True, False, True, True]])
    assert knn_edges(x, 1, mask).tolist() == [[2, 0, 0, 2], [0, 1, 2, 3]]
    assert sorted(zip(*radius_edges(x, 3.5, mask).tolist(), strict=True)) == [(0, 1), (0, 2), (2, 0), (2, 1)]
    assert knn_edges(x[:, :1], 5).shape == (2, 0)


def test_neighbourhoods_are_equivariant(small, scenes):
    for graph in ({"graph": "knn", "k": 2}, {"graph": "radius", "radius": 1.5}):
        report = equivariance_report(small(**graph), scenes())
        assert max(report.rotation, report.reflection, report.translation, report.permutation) < 1e-12


def test_agents_without_neighbours(small, scenes):
    x = scenes(1, 3, 7, 2) * 1e-3
    x[0, 2] += 100.0
    model = small(graph="radius", radius=1.0)
    out = model(x)
    assert out.edge_index.tolist() == [[1, 0], [0, 1]]
    assert torch.isfinite(out.pred).all()
    assert small(graph="radius", radius=1e-9)(x).categories.shape == (0, 2)


def test_large_scenes_fit_into_memory():
    model = EqMotion(20, 20, graph="knn", k=16, aggregation="mean").eval()
    x = torch.randn(1, 500, 20, 3)

    def forward():
        with torch.no_grad():
            return model(x)

    def step():
        return torch.autograd.grad(model(x).pred.square().sum(), [p for p in model.parameters() if p.requires_grad])

    assert peak_memory(forward) < 2**28
    assert peak_memory(step) < 2**30


@pytest.mark.bad_input
def test_errors(small, scenes):
    x = scenes()
    with pytest.raises(ValueError, match=r"graph must hold indices in \[0, 5\), got 0 to 5"):
        small(graph=torch.tensor([[0], [5]]))(x)
    with pytest.raises(ValueError, match=r"edge_index must hold indices in \[0, 10\), got -1"):
        small()(x, edge_index=torch.tensor([[0], [-1]]))
    with pytest.raises(TypeError, match=r"edge_index must be an integer tensor"):
        small()(x, edge_index=torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"categories must have shape .* or \(20, 2\)"):
        small(graph="knn", k=2)(x, categories=torch.zeros(3, 2).double())
