import math

import numpy as np
import pytest
import torch

from eqmotion import ETHUCY, Human36M, MD17Trajectories, make_windows, simulate_particles
from eqmotion._reference import simulate_reference
from eqmotion.data import TrajectoryDataset, expmap_to_positions, particle_energy, read_expmap, read_tracks
from eqmotion.data.human36m import ACTIONS, PARENTS, USED
from eqmotion.data.particles import integrate, start_particles


def start(kind, n, agents, dim, seed=1):
    return start_particles(kind, n, agents, dim, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["charged", "springs", "gravity"])
@pytest.mark.parametrize(("agents", "dim"), [(4, 3), (1, 2), (2, 1)])
def test_simulator_equals_the_loop(kind, agents, dim):
    x, v, strength, _, _ = start(kind, 2, agents, dim)
    fast = integrate(kind, x, v, strength, steps=61, stride=20)
    slow = simulate_reference(x, v, strength, kind=kind, steps=61, stride=20)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["charged", "springs", "gravity"])
def test_simulated_shapes_and_seeds(kind):
    run = simulate_particles(kind, n_sims=3, steps=1000, stride=200, seed=4)
    assert run.x.shape == (3, 5, 4, 3)
    assert run.edges.shape == (3, 5, 5)
    assert run.charges.shape == (3, 5)
    assert run.x.dtype == torch.float64
    assert torch.equal(run.edges, run.edges.mT)
    assert torch.equal(run.edges.diagonal(dim1=1, dim2=2), torch.zeros(3, 5, dtype=torch.long))
    again = simulate_particles(kind, n_sims=3, steps=1000, stride=200, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(run, again, strict=True))
    assert not torch.equal(run.x, simulate_particles(kind, n_sims=3, steps=1000, stride=200, seed=5).x)
    assert simulate_particles(kind, n_sims=1, steps=9, stride=2, dtype=torch.float32, dim=2).x.dtype == torch.float32


def test_default_has_49_frames_and_the_stated_start():
    assert simulate_particles("springs", n_sims=1).x.shape[2] == 49
    x, v, strength, edges, _ = start("springs", 2000, 5, 3)
    torch.testing.assert_close(v.norm(dim=-1), torch.full((2000, 5), 0.5, dtype=torch.float64))
    assert float(x.std()) == pytest.approx(0.5, rel=0.02)
    assert float(edges.double().mean()) == pytest.approx(0.4, rel=0.03)  # half of 20 of 25
    assert set(strength.unique().tolist()) == {0.0, 0.1}
    x, _, _, edges, charges = start("charged", 2000, 5, 3)
    assert float(x.std()) == pytest.approx(1.0, rel=0.02)
    assert set(charges.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(edges[:, 0, 1] == 1, charges[:, 0] == charges[:, 1])


@pytest.mark.parametrize("kind", ["charged", "springs", "gravity"])
def test_conservation(kind):
    x, v, strength, _, _ = start(kind, 20, 5, 3)
    xs, vs = integrate(kind, x, v, strength, steps=2001, stride=100)
    gap = (vs.sum(1) - v.sum(1)[:, None]).abs().amax((1, 2))
    assert float(gap.median() if kind == "charged" else gap.max()) < 1e-12  # forces cut at 100 have no exact counterpart
    energy = particle_energy(kind, xs, vs, strength)
    drift = (energy - energy[:, :1]).abs().amax(1) / energy[:, 0].abs()
    assert float(drift.max() if kind == "springs" else drift.median()) < 1e-3  # near misses of point charges are not resolved


def test_period_of_two_bodies_on_a_spring():
    x = torch.tensor([[[0.5, 0.0], [-0.5, 0.0]]], dtype=torch.float64)
    strength = torch.tensor([[[0.0, 0.1], [0.1, 0.0]]], dtype=torch.float64)
    xs, vs = integrate("springs", x, torch.zeros_like(x), strength, steps=20_001, stride=1)
    r, speed = (xs[0, 0] - xs[0, 1])[:, 0], (vs[0, 0] - vs[0, 1])[:, 0]
    turns = ((speed[:-1] > 0) & (speed[1:] <= 0)).nonzero().flatten()  # back at the largest distance
    period = 1e-3 * (float(turns[0]) + 1 + 1)
    assert period == pytest.approx(2 * math.pi / math.sqrt(0.2), rel=1e-3)
    assert float(r[turns[0]]) == pytest.approx(1.0, abs=1e-5)


def test_windows():
    sequence = torch.arange(12.0).view(12, 1, 1).expand(12, 2, 1)
    past, future = make_windows(sequence, 3, 2, stride=2, every=2)
    assert past.shape == (2, 2, 3, 1)
    assert past[:, 0, :, 0].tolist() == [[0, 2, 4], [2, 4, 6]]
    assert future[:, 1, :, 0].tolist() == [[6, 8], [8, 10]]
    none, nothing = make_windows(sequence, 10, 5)
    assert none.shape == (0, 2, 10, 1)
    assert nothing.shape == (0, 2, 5, 1)


def test_dataset_works_with_a_loader():
    data = TrajectoryDataset(torch.randn(5, 2, 3, 2), torch.randn(5, 2, 4, 2))
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=3)))
    assert [t.shape for t in batch] == [(3, 2, 3, 2), (3, 2, 4, 2), (3, 2)]
    assert torch.equal(data.take(torch.tensor([2])).x[0], data[2].x)


@pytest.fixture
def md17(tmp_path):
    """A molecule of four atoms, two of them hydrogen, whose positions say the frame."""
    frames = np.arange(1600.0)[:, None, None] + np.array([0.0, 0.1, 0.2, 0.3])[None, :, None] + np.zeros(3)
    np.savez(tmp_path / "md17_water.npz", R=frames, z=np.array([8, 1, 6, 1], dtype=np.uint8), E=np.zeros((1600, 1)), F=frames)
    np.savez(tmp_path / "rmd17_new.npz", coords=frames, nuclear_charges=np.array([8, 1, 6, 1]))
    return tmp_path


def test_md17(md17):
    train = MD17Trajectories(md17, "water", "train", in_steps=3, out_steps=2, size=7)
    assert train.x.shape == (7, 2, 3, 3)
    assert train.y.shape == (7, 2, 2, 3)
    assert train.numbers.tolist() == [8, 6]
    step = train.x[:, 0, 1:, 0] - train.x[:, 0, :-1, 0]
    assert torch.equal(step, torch.full_like(step, 20.0))
    torch.testing.assert_close(train.y[:, 0, 0] - train.x[:, 0, -1], torch.full((7, 3), 20.0))
    parts = {split: MD17Trajectories(md17, "water", split, in_steps=3, out_steps=2) for split in ("train", "val", "test")}
    assert [len(p) for p in parts.values()] == [1000 - 80, 200 - 80, 400 - 80]
    assert float(parts["train"].y[:, 0].max()) < 1000 <= float(parts["val"].x[:, 0].min())
    assert float(parts["val"].y[:, 0].max()) < 1200 <= float(parts["test"].x[:, 0].min())
    assert len(MD17Trajectories(md17, "new", "train", in_steps=3, out_steps=2, heavy_only=False)[0].x) == 4


@pytest.mark.bad_input
def test_md17_errors(md17):
    with pytest.raises(FileNotFoundError, match=r"md17_salt.npz.*sgdml.org"):
        MD17Trajectories(md17, "salt")
    np.savez(md17 / "bad.npz", R=np.zeros((3, 2, 3)))
    with pytest.raises(ValueError, match="must hold z or nuclear_charges"):
        MD17Trajectories(md17 / "bad.npz", "bad")
    with pytest.raises(ValueError, match="at least 381 frames in its val part, got 200"):
        MD17Trajectories(md17, "water", "val")
    with pytest.raises(ValueError, match="split must be one of"):
        MD17Trajectories(md17, "water", "all")


TRACKS = """0.0 1.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 0.0 -1.0 0.0 -1.0
0.0 2.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 1.5 -1.0 0.0 -1.0
0.0 3.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 9.0 -1.0 0.0 -1.0
1.0 1.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 0.0 -1.0 1.0 -1.0
1.0 2.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 1.5 -1.0 1.0 -1.0
1.0 3.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 9.0 -1.0 1.0 -1.0
2.0 1.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 0.0 -1.0 2.0 -1.0
2.0 2.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 1.5 -1.0 2.0 -1.0
2.0 3.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 9.0 -1.0 2.0 -1.0
3.0 1.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 0.0 -1.0 3.0 -1.0
3.0 2.0 Pedestrian -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 1.5 -1.0 3.0 -1.0
"""


@pytest.fixture
def ethucy(tmp_path):
    (tmp_path / "zara1").mkdir()
    (tmp_path / "zara1" / "crowds_zara01.txt").write_text(TRACKS)
    for split in ("train", "val"):
        (tmp_path / "zara1" / f"biwi_eth_{split}.txt").write_text(TRACKS)
    return tmp_path


def test_pedestrians(ethucy):
    test = ETHUCY(ethucy, "zara1", "test", in_steps=2, out_steps=1)
    # from frame 0 all three are seen for three frames, from frame 1 pedestrians 1 and 2
    assert test.x.shape == (5, 3, 2, 2)
    assert test.mask.tolist() == [[True, True, False], [True, True, False], [True, False, False], [True, True, False], [True, True, False]]
    assert test.x[0, :2, :, 0].tolist() == [[0.0, 0.0], [1.5, 1.5]]
    assert test.x[1, :2, :, 0].tolist() == [[1.5, 1.5], [0.0, 0.0]]
    assert test.x[2, 0].tolist() == [[9.0, 0.0], [9.0, 1.0]]
    assert test.y[3, 0].tolist() == [[0.0, 3.0]]
    assert torch.equal(test.x[2, 1:], torch.zeros(2, 2, 2))
    assert ETHUCY(ethucy, "zara1", "train", in_steps=2, out_steps=1, max_agents=1).mask.shape == (5, 1)
    near = ETHUCY(ethucy, "zara1", "val", in_steps=2, out_steps=1, radius=1.0)
    assert not near.mask[:, 1:].any()
    scaled = ETHUCY(ethucy, "zara1", "test", in_steps=2, out_steps=1, test_scale=1.6)
    torch.testing.assert_close(scaled.x * 1.6, test.x)
    assert scaled.scale == 1.6


def test_plain_columns_and_frame_steps(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("780\t1\t8.46\t3.59\n790\t1\t9.57\t3.79\n800\t1\t10.67\t3.99\n")
    frames, ids, places = read_tracks(file)
    assert frames.tolist() == [0, 1, 2]
    assert ids.tolist() == [1, 1, 1]
    assert places[1].tolist() == [9.57, 3.79]


@pytest.mark.bad_input
def test_pedestrian_errors(ethucy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"biwi_hotel.txt; copy datasets/eth_ucy of Khrylx/AgentFormer"):
        ETHUCY(ethucy, "hotel", "test")
    with pytest.raises(FileNotFoundError, match=r"\*_train.txt"):
        ETHUCY(ethucy, "hotel", "train")
    with pytest.raises(ValueError, match="leave_one_out must be one of"):
        ETHUCY(ethucy, "zara9")
    file = tmp_path / "bad.txt"
    file.write_text("0 1 2.0 3.0\n0 1 2.0\n")
    with pytest.raises(ValueError, match="line 2, must have 17 fields"):
        read_tracks(file)


@pytest.fixture
def human(tmp_path):
    """Subjects with two short takes of one action; subject 5 turns one knee."""
    generator = torch.Generator().manual_seed(0)
    for subject in (1, 5, 6, 7, 8, 9, 11):
        folder = tmp_path / f"S{subject}"
        folder.mkdir()
        for take in (1, 2):
            frames = 0.3 * torch.randn(60, 99, generator=generator, dtype=torch.float64)
            lines = (",".join(f"{value:.7f}" for value in row) for row in frames.tolist())
            (folder / f"walking_{take}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_rest_pose_and_one_turned_joint():
    frames = torch.zeros(2, 99, dtype=torch.float64)
    frames[1, 3 + 3 * 2 : 6 + 3 * 2] = torch.tensor([math.pi / 2, 0.0, 0.0], dtype=torch.float64)  # the right knee, about x
    places = expmap_to_positions(frames)
    rest = places[0]
    assert rest[3].tolist() == pytest.approx([-132.948591, -442.894612 - 454.206447, 0.0])
    assert rest[15].tolist() == pytest.approx([0.0, 0.1 + 233.383263 + 257.077681 + 121.134938 + 115.002227 - 0.1, 0.0], abs=0.2)
    shin = places[1, 3] - places[1, 2]
    # row vectors: (0, -l, 0) times the matrix of a quarter turn about x
    assert shin.tolist() == pytest.approx([0.0, 0.0, 454.206447], abs=1e-9)
    moved = (places[1] - rest).norm(dim=-1) > 1e-9
    assert moved.nonzero().flatten().tolist() == [3, 4, 5]
    bones = torch.tensor([p >= 0 for p in PARENTS])
    parents = torch.tensor(PARENTS)[bones]
    lengths = [(p[bones] - p[parents]).norm(dim=-1) for p in expmap_to_positions(torch.randn(2, 99, dtype=torch.float64))]
    torch.testing.assert_close(lengths[0], lengths[1])


def test_root_is_set_to_zero_unless_asked():
    frames = torch.randn(1, 99, dtype=torch.float64)
    still = frames.clone()
    still[:, :6] = 0
    torch.testing.assert_close(expmap_to_positions(frames), expmap_to_positions(still))
    torch.testing.assert_close(expmap_to_positions(frames, keep_root=True)[0, 0], frames[0, :3])


def test_human36m(human):
    assert len(USED) == 22
    assert len(ACTIONS) == 15
    train = Human36M(human, "train", in_steps=10, out_steps=10, actions=("walking",))
    assert train.x.shape == (5 * 2 * 11, 22, 10, 3)
    test = Human36M(human, "test", in_steps=10, out_steps=10, actions=("walking",), stride=4)
    assert test.x.shape == (2 * 3, 22, 10, 3)
    assert test.actions == ["walking"] * 6
    frames = read_expmap(human / "S5" / "walking_1.txt")
    want = expmap_to_positions(frames)[::2][4 : 4 + 10][:, list(USED)] / 100
    torch.testing.assert_close(test.x[1].double().transpose(0, 1), want, atol=1e-6, rtol=1e-6)
    assert len(Human36M(human, "val", actions=("walking",))) == 22


@pytest.mark.bad_input
def test_human36m_errors(human):
    with pytest.raises(FileNotFoundError, match=r"S11/directions_1.txt.*DMGNN"):
        Human36M(human, "val")
    (human / "S11" / "walking_2.txt").write_text("1.0,2.0\n")
    with pytest.raises(ValueError, match="line 1, must have 99 comma-separated values, got 2"):
        Human36M(human, "val", actions=("walking",))
    with pytest.raises(ValueError, match="actions must be one of"):
        Human36M(human, "val", actions=("flying",))


@pytest.mark.bad_input
def test_simulator_and_window_errors():
    with pytest.raises(ValueError, match="kind must be one of"):
        simulate_particles("magnets", n_sims=1)
    with pytest.raises(ValueError, match="n_sims must be at least 1"):
        simulate_particles("springs", n_sims=0)
    with pytest.raises(ValueError, match="steps must be greater than stride"):
        simulate_particles("springs", n_sims=1, steps=100, stride=100)
    with pytest.raises(ValueError, match=r"sequence must have shape \(L, N, d\)"):
        make_windows(torch.zeros(3, 2), 1, 1)
    with pytest.raises(ValueError, match="x and y must have shapes"):
        TrajectoryDataset(torch.zeros(2, 3, 4, 2), torch.zeros(2, 2, 4, 2))
