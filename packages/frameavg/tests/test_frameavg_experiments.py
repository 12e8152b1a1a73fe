"""The experiments run, learn, and separate what they claim to separate."""

from dataclasses import replace

import pytest
import torch

from frameavg import FAGNN, FAPointNet
from frameavg.data import sample_shapes
from frameavg.experiments import cube, digits, graphs, nbody, normals


def test_graph_atlas_numbers():
    A = graphs.atlas()
    found = graphs.separation(A)
    assert (found.graphs, found.pairs, found.wl_pairs) == (853, 363_378, 17)
    assert found.merged == 0
    assert found.closest > 0.5
    assert found.invariance < 1e-12
    assert max(found.sizes) == 5040
    assert found.sizes[1] == 136
    sizes = sorted(size for size, count in found.sizes.items() for _ in range(count))
    assert sizes[len(sizes) // 2] == 4


def test_graph6_files(tmp_path):
    path = tmp_path / "pair.g6"
    path.write_bytes(b"DQc\nDqK\n")
    A = graphs.read_graph6(str(path))
    assert A.shape == (2, 5, 5)
    assert (A.sum((-2, -1)) > 0).all()
    path.write_bytes(b"DQc\nC~\n")
    with pytest.raises(ValueError, match=r"sizes \[4, 5\]"):
        graphs.read_graph6(str(path))
    with pytest.raises(FileNotFoundError, match="graph"):
        graphs.read_graph6(str(tmp_path / "none.g6"))


def test_cube_table():
    table = cube.run()
    principal, weighted = (table[name] for name in cube.FRAMES)
    assert principal["gap 0"] > 0.1 > 1e-6 > principal["gap 0.001"]
    assert all(error < 1e-12 for key, error in weighted.items() if key.startswith("gap"))
    assert principal["jump"] > 0.05
    assert weighted["jump"] < 1e-3


def test_digits_learn_and_are_invariant():
    found = digits.train("frame averaging, SO(2)", recipe=digits.Recipe(epochs=4))
    assert found["upright"] == found["rotated"]
    assert found["upright"] > 0.3
    assert digits.train("backbone", recipe=digits.Recipe(epochs=4))["difference"] > 1.0


def test_nbody_training_lowers_the_error():
    recipe = replace(nbody.MINIATURE, scenes=60, test=20, epochs=10, hidden=12, n_layers=2, batch=20)
    data = nbody.load(recipe)
    for model in (FAGNN(recipe.hidden, recipe.n_layers), nbody.PlainGNN(recipe.hidden, recipe.n_layers)):
        errors = nbody.train(model, data, recipe)
        assert len(errors) == 10
        assert errors[-1] < errors[0]


@pytest.mark.parametrize("local", [False, True])
def test_normals_learn(local):
    torch.manual_seed(0)
    recipe = replace(normals.MINIATURE, points=32, shapes=32, epochs=16, batch=8, widths=(16, 32), head=(16,))
    data = sample_shapes(recipe.shapes, recipe.points, seed=1)
    model = FAPointNet(local, neighbours=6, channels=3, widths=recipe.widths, head=recipe.head)
    before = normals.evaluate(model, data, rotated=False)
    normals.train(model, data, recipe)
    after = normals.evaluate(model, data, rotated=False)
    assert after < before
    assert normals.evaluate(model, data, rotated=True) == pytest.approx(after, abs=1e-3)
