"""Generators, files, and the bridges to other libraries."""

import numpy as np
import pytest
import torch

from frameavg import PCAFrame
from frameavg.data import NBody, SurfaceNormals, read_nbody, read_obj, sample_mesh, sample_shapes, simulate_charged
from frameavg.data._surfaces import SHAPES
from frameavg.integrations.sklearn import FrameTransformer
from frameavg.transforms import AddFrames
from geocore import so3


def test_simulation_conserves_momentum_and_energy():
    sims = simulate_charged(8, 4, steps=2000, stride=100, seed=1)
    x, v, q = sims.x.double(), sims.v.double(), sims.charges.double()
    assert x.shape == v.shape == (8, 19, 4, 3)
    apart = (x.unsqueeze(-2) - x.unsqueeze(-3)).norm(dim=-1) + torch.eye(4)
    potential = (q[:, None, :, None] * q[:, None, None, :] / apart * (1 - torch.eye(4))).sum((-2, -1)) / 2
    energy = 0.5 * v.square().sum((-2, -1)) + potential
    calm = apart.amin((-3, -2, -1)) > 0.3  # no close meeting, where forces are clamped and a fixed step loses energy
    assert calm.sum() > 1
    momentum = v.sum(-2)
    assert (momentum - momentum[:, :1]).abs()[calm].max() < 1e-6
    assert (energy - energy[:, :1]).abs()[calm].max() < 1e-2


def test_two_bodies_follow_the_equation_of_motion():
    """Acceleration by finite differences against Coulomb's law."""
    sims = simulate_charged(4, 2, steps=300, stride=1, dt=1e-3, seed=0)
    v, x, q = sims.v.double(), sims.x.double(), sims.charges.double()
    found = (v[:, 102] - v[:, 98]) / 4e-3
    r = x[:, 100, 0] - x[:, 100, 1]
    wanted = (q[:, 0] * q[:, 1])[:, None] * r / r.norm(dim=-1, keepdim=True) ** 3
    assert torch.allclose(found[:, 0], wanted, rtol=1e-2, atol=1e-3)


def test_nbody_files_and_pairs(tmp_path):
    sims = simulate_charged(3, 5, steps=4200, seed=0)
    for part, value in (("loc", sims.x.transpose(2, 3)), ("vel", sims.v.transpose(2, 3)), ("charges", sims.charges[..., None])):
        np.save(tmp_path / f"{part}_valid_charged5_initvel1small.npy", value.numpy())
    read = read_nbody(tmp_path, "valid")
    for ours, back in zip(sims, read, strict=True):
        assert torch.equal(ours, back)
    data = NBody(read, limit=2)
    x, v, edge_attr, y = data[1]
    assert len(data) == 2
    assert torch.equal(x, sims.x[1, 30])
    assert torch.equal(v, sims.v[1, 30])
    assert torch.equal(y, sims.x[1, 40])
    assert edge_attr[0, 1, 0] == sims.charges[1, 0] * sims.charges[1, 1]


@pytest.mark.bad_input
def test_bad_nbody_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"loc_train_.*simulate_charged"):
        read_nbody(tmp_path)
    for part, shape in (("loc", (2, 49, 3, 5)), ("vel", (2, 49, 3, 5)), ("charges", (2, 4, 1))):
        np.save(tmp_path / f"{part}_train_charged5_initvel1small.npy", np.zeros(shape))
    with pytest.raises(ValueError, match="must agree"):
        read_nbody(tmp_path)
    with pytest.raises(ValueError, match="start and target"):
        NBody(simulate_charged(1, steps=1000))
    with pytest.raises(ValueError, match="twice stride"):
        simulate_charged(1, steps=100)


@pytest.mark.parametrize("kind", SHAPES)
def test_normals_are_those_of_the_surface(kind):
    """The nearest other points lie in the tangent plane."""
    points, normals = SHAPES[kind](4000, torch.Generator().manual_seed(0))
    normals = torch.nn.functional.normalize(normals, dim=-1)
    near = torch.cdist(points[:200], points).topk(4, largest=False).indices[:, 1:]
    chords = points[near] - points[:200, None]
    slant = (torch.nn.functional.normalize(chords, dim=-1) * normals[:200, None]).sum(-1).abs()
    assert slant.median() < 0.1


def test_shapes_are_unit_sized_and_turn_with_their_normals():
    points, normals = sample_shapes(8, 50, seed=3)
    turned, moved = sample_shapes(8, 50, seed=3, rotate=True)
    assert torch.allclose(points.norm(dim=-1).amax(-1), torch.ones(8))
    assert torch.allclose(normals.norm(dim=-1), torch.ones(8, 50), atol=1e-6)
    assert torch.allclose((points * normals).sum(-1), (turned * moved).sum(-1), atol=1e-5)


CUBE = """# a cube, as four-cornered faces
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 0 1
v 1 0 1
v 1 1 1
v 0 1 1
f 1//1 4//1 3//1 2//1
f 5 6 7 8
f 1 2 6 5
f 2 3 7 6
f 3 4 8 7
f -8 -4 -1 -5
"""


def test_meshes_are_read_and_sampled(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cube.obj").write_text(CUBE)
    vertices, faces = read_obj(tmp_path / "a" / "cube.obj")
    assert vertices.shape == (8, 3)
    assert faces.shape == (12, 3)
    points, normals = sample_mesh(vertices, faces, 3000, torch.Generator().manual_seed(0))
    side = normals.abs().argmax(-1)
    assert torch.bincount(side).min() > 900  # area decides
    outward = ((points - 0.5) * normals).sum(-1)
    assert torch.allclose(outward, torch.full((3000,), 0.5), atol=1e-5)
    data = SurfaceNormals(tmp_path, 64, rotate=True, scale=(0.5, 0.5))
    x, n = data[0]
    assert len(data) == 1
    assert torch.equal(x, data[0][0])
    assert abs((x - x.mean(0)).norm(dim=-1).max().item() - 0.5) < 0.1
    assert n.shape == (64, 3)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("text", "message"),
    [("v 0 0\nf 1 1 1\n", "line 1"), ("v 0 0 0\nf 1 2 3\n", "line 2"), ("v 0 0 x\n", "line 1"), ("v 0 0 0\n", "must hold faces")],
)
def test_bad_meshes_are_refused(tmp_path, text, message):
    path = tmp_path / "bad.obj"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_obj(path)


@pytest.mark.bad_input
def test_missing_and_flat_meshes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="ABC"):
        read_obj(tmp_path / "none.obj")
    with pytest.raises(FileNotFoundError, match="ABC"):
        SurfaceNormals(tmp_path)
    with pytest.raises(ValueError, match="area"):
        sample_mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]), 5)


def periodic(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"pos": torch.randn(6, 3, generator=g), "cell": torch.randn(1, 3, 3, generator=g), "z": torch.arange(6)}


def test_add_frames_keeps_fractional_coordinates():
    data = periodic()
    out = AddFrames(PCAFrame(3, "SO"))(data)
    assert set(data) == {"pos", "cell", "z"}
    before = data["pos"] @ torch.linalg.inv(data["cell"][0])
    for k in range(4):
        after = out["fa_pos"][:, k] @ torch.linalg.inv(out["fa_cell"][0, k])
        assert torch.allclose(after, before, atol=1e-4)
    back = torch.einsum("kij,nkj->nki", out["fa_rot"][0], out["fa_pos"])
    assert torch.allclose(back, data["pos"][:, None].expand(-1, 4, -1), atol=1e-5)


def test_add_frames_in_a_pyg_batch():
    from torch_geometric.data import Batch, Data
    from torch_geometric.transforms import Compose

    transform = Compose([AddFrames(n_samples=2, generator=torch.Generator().manual_seed(0))])
    items = [Data(**periodic(seed)) for seed in range(3)]
    batch = Batch.from_data_list([transform(item) for item in items])
    assert batch.fa_pos.shape == (18, 2, 3)
    assert batch.fa_rot.shape == batch.fa_cell.shape == (3, 2, 3, 3)
    assert not hasattr(items[0], "fa_pos")


@pytest.mark.bad_input
def test_add_frames_refuses_what_has_no_positions():
    with pytest.raises(ValueError, match="data must have positions"):
        AddFrames()({"x": torch.randn(3, 3)})
    with pytest.raises(ValueError, match="cell must have 3 rows"):
        AddFrames()({"pos": torch.randn(5, 3), "cell": torch.eye(2)})


def test_canonical_features_of_sklearn():
    from sklearn.base import clone
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 5, 3))
    y = np.linalg.norm(X[:, 0] - X[:, 1], axis=-1)
    R = so3.random((40,), generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    turned = np.einsum("bij,bnj->bni", R, X) + 2.0
    assert np.allclose(FrameTransformer().fit_transform(X), FrameTransformer().fit_transform(turned), atol=1e-9)
    model = make_pipeline(clone(FrameTransformer(dim=3)), Ridge()).fit(X.reshape(40, -1), y)
    assert np.allclose(model.predict(X.reshape(40, -1)), model.predict(turned.reshape(40, -1)), atol=1e-8)


@pytest.mark.bad_input
@pytest.mark.parametrize("X", [np.zeros((2, 7)), np.zeros((2, 0, 3)), np.full((2, 6), np.nan)])
def test_bad_features_are_refused(X):
    with pytest.raises(ValueError, match="X must"):
        FrameTransformer().fit(X)
