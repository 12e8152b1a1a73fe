"""The experiments: their parts on small inputs, their claims where affordable."""

import math

import pytest
import torch
from torch import nn

from geocore import so3
from rotrep import get_representation
from rotrep.demo import BASELINES, OURS, check_bodies, check_claims, draw, draw_histograms
from rotrep.experiments import inverse_kinematics as ik
from rotrep.experiments import point_cloud, sanity
from rotrep.experiments._bvh import read_bvh
from rotrep.experiments._ensemble import EnsembleMLP, one_thread
from rotrep.experiments._histogram import EDGES, fractions
from rotrep.experiments._pts import read_pts
from rotrep.metrics import RotationErrorSummary, rotation_error_deg

BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0.0 0.0 0.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT LeftUpLeg
  {
    OFFSET 10.0 0.0 0.0
    CHANNELS 3 Zrotation Yrotation Xrotation
    End Site
    {
      OFFSET 0.0 -20.0 0.0
    }
  }
  JOINT RightUpLeg
  {
    OFFSET -10.0 0.0 0.0
    CHANNELS 3 Zrotation Yrotation Xrotation
  }
}
MOTION
Frames: 2
Frame Time: 0.00833
1.0 2.0 3.0 90.0 0.0 0.0 0.0 0.0 90.0 0.0 0.0 0.0
0.0 0.0 0.0 10.0 20.0 30.0 0.0 0.0 0.0 0.0 0.0 0.0
"""


@pytest.fixture
def recording(tmp_path):
    file = tmp_path / "walk.bvh"
    file.write_text(BVH, encoding="utf-8")
    return file


def test_bvh_hand_worked(recording):
    motion = read_bvh(recording, scale=0.01)
    assert motion.names == ("Hips", "LeftUpLeg", "LeftUpLeg_end", "RightUpLeg")
    assert motion.parents == (-1, 0, 1, 0)
    assert motion.frame_time == 0.00833
    torch.testing.assert_close(motion.offsets, torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, -0.2, 0], [-0.1, 0, 0]]))
    torch.testing.assert_close(motion.translation, torch.tensor([[0.01, 0.02, 0.03], [0, 0, 0]]))
    positions = so3.forward_kinematics(motion.rotations, motion.offsets, motion.parents)[1]
    # frame 0: the root turns x to y; the leg turns -y to -z, which the root leaves
    torch.testing.assert_close(positions[0], torch.tensor([[0.0, 0, 0], [0, 0.1, 0], [0, 0.1, -0.2], [0, -0.1, 0]]), atol=1e-7, rtol=0)
    expected = so3.euler_to_matrix(torch.tensor([10.0, 20, 30]).deg2rad(), "ZYX")  # the channels, intrinsic
    torch.testing.assert_close(motion.rotations[1, 0], expected, atol=1e-6, rtol=0)
    assert torch.equal(motion.rotations[:, 2], torch.eye(3).expand(2, 3, 3))


@pytest.mark.bad_input
def test_bvh_errors(tmp_path):
    for text, message in (
        ("ROOT", "does not start with HIERARCHY"),
        (BVH.replace("OFFSET 10.0", "SHIFT 10.0"), "unknown word 'SHIFT'"),
        (BVH.replace("Frames: 2", "Frames: 3"), "3 frames of 12 channels need 36 numbers, found 24"),
        (BVH.replace("Frames:", "frames:"), "no 'Frames:'"),
        (BVH.replace("Time:", "Rate:"), "no 'Frame Time:'"),
        (BVH[: BVH.index("Frames:")], "ends too early"),
    ):
        file = tmp_path / "bad.bvh"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_bvh(file)


def long_recording(recording, frames):
    head = BVH[: BVH.index("1.0 2.0")].replace("Frames: 2", f"Frames: {frames}")
    line = "1.0 2.0 3.0 90.0 0.0 0.0 0.0 0.0 {} 0.0 0.0 0.0\n"
    recording.write_text(head + "".join(line.format(i) for i in range(frames)), encoding="utf-8")
    return read_bvh(recording, scale=0.01)


def test_clips(recording):
    motion = long_recording(recording, 50)
    g = torch.Generator().manual_seed(0)
    clips = [ik.sample_clip([motion], g) for _ in range(40)]
    assert {len(c) for c in clips} == {16, 32, 48}
    for clip in clips:
        # one yaw for the whole clip: the vertical axis of the root keeps its height, the legs are untouched and consecutive
        turn = clip[:, 0] @ motion.rotations[0, 0].mT
        torch.testing.assert_close(turn, turn[:1].expand_as(turn))
        torch.testing.assert_close(turn[:, 1], torch.tensor([0.0, 1, 0]).expand(len(clip), 3), atol=1e-6, rtol=0)
        assert any(torch.equal(clip[:, 1], motion.rotations[i : i + len(clip), 1]) for i in range(50 - len(clip) + 1))
    with pytest.raises(ValueError, match="at least 16 frames"):
        ik.sample_clip([long_recording(recording, 15)], g)


def test_kinematics_against_an_explicit_loop(rng):
    R = so3.renormalize(ik.sample_poses(5, rng).double())
    offsets = torch.tensor(ik.OFFSETS, dtype=torch.float64)
    positions = so3.forward_kinematics(R, offsets, ik.PARENTS)[1]
    for pose in range(5):
        where, turned = {}, {}
        for joint, parent in enumerate(ik.PARENTS):
            G = torch.eye(3, dtype=torch.float64) if parent < 0 else turned[parent]
            where[joint] = (torch.zeros(3, dtype=torch.float64) if parent < 0 else where[parent]) + G @ offsets[joint]
            turned[joint] = G @ R[pose, joint]
            torch.testing.assert_close(positions[pose, joint], where[joint], atol=1e-13, rtol=0)
    bones = (positions[:, 1:] - positions[:, list(ik.PARENTS[1:])]).norm(dim=-1)
    torch.testing.assert_close(bones, offsets[1:].norm(dim=-1).expand(5, 16), atol=1e-12, rtol=0)


def test_poses_and_loss(rng):
    R = ik.sample_poses(4000, rng)
    assert so3.geodesic(R[:, 0], torch.eye(3)).mean() == pytest.approx(math.pi / 2 + 2 / math.pi, abs=0.05)
    assert so3.log(R[:, 1:]).std() == pytest.approx(0.5, abs=0.01)
    p = torch.zeros(2, 17, 3)
    q = p.clone()
    q[:, 1] = 1.0  # one joint of 17 off by 1 in every coordinate, and it is one of the three hips
    assert float(ik.positions_loss(p, q, (1, 4, 7), 10.0)) == pytest.approx(1 / 17 + 10 / 3)


def test_ensemble_members_are_separate_networks(rng):
    net = EnsembleMLP((9, 8, 6), (3, 4))
    x = torch.randn(2, 5, 9, generator=rng)
    for member in range(2):
        layers = [nn.Linear(9, 8), nn.LeakyReLU(), nn.Linear(8, 6)]
        with torch.no_grad():
            for layer, w, b in zip(layers[::2], net.weights, net.biases, strict=True):
                layer.weight.copy_(w[member].T)
                layer.bias.copy_(b[member, 0])
        torch.testing.assert_close(net(x)[member], nn.Sequential(*layers)(x[member]), atol=1e-6, rtol=1e-5)
    alone = EnsembleMLP((9, 8, 6), (4,))
    assert torch.equal(alone.weights[0][0], net.weights[0][1])
    assert net.weights[0].abs().max() <= 1 / 3  # 1 / sqrt(9), as nn.Linear
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_sanity_training_side_by_side_equals_alone():
    recipe = sanity.Recipe(steps=150, test=500)
    rep = get_representation("6d")
    both = sanity.train(rep, seeds=(0, 1), recipe=recipe)
    alone = sanity.train(rep, seeds=(1,), recipe=recipe)
    assert both[1].mean == pytest.approx(alone[0].mean, rel=0.02)  # rounding grows along the training
    assert both[0].mean < 30  # from 126 degrees
    assert sanity.train(rep, seeds=(1,), recipe=recipe)[0] == alone[0]


def test_rates():
    assert sanity.MINIATURE.rate(0) == 1.0
    assert sanity.MINIATURE.rate(3000) == pytest.approx(0.0, abs=1e-12)
    assert (sanity.FULL.rate(9_999), sanity.FULL.rate(10_000)) == (1.0, 0.1)
    assert (sanity.FULL.steps, sanity.FULL.lr, sanity.FULL.batch, sanity.FULL.test) == (500_001, 1e-5, 64, 100_000)


def test_command_lines(tmp_path, capsys, recording):
    assert sanity.main(["--steps", "3", "--only", "6d", "quaternion", "--seeds", "0", "1", "--json", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().out.count("seed") >= 4
    assert (tmp_path / "out.json").read_text(encoding="utf-8").count('"mean"') == 4
    assert ik.main(["--steps", "2", "--only", "6d"]) == 0
    long_recording(recording, 20)
    assert ik.main(["--steps", "2", "--only", "9d", "--bvh", str(recording.parent)]) == 0
    assert "root max" in capsys.readouterr().out
    for arguments in (["--full"], ["--bvh", str(tmp_path / "nowhere")]):
        with pytest.raises(SystemExit):
            ik.main(arguments)


def test_inverse_kinematics_learns():
    recipe = ik.Recipe(steps=1, test=300)
    before = ik.train(get_representation("6d"), recipe=recipe)[0]
    after = ik.train(get_representation("6d"), recipe=ik.Recipe(steps=150, test=300))[0]
    assert after.joint_error < 0.75 * before.joint_error
    assert after.root.mean < before.root.mean


def test_claims_are_checked():
    def summary(mean, most):
        return RotationErrorSummary(1, mean, mean, 0.0, most, {99.0: most}, {})

    outcome = {label: [summary(1.0, 3.0)] for label in OURS} | {label: [summary(4.0, 170.0)] for label in BASELINES}
    assert [c.met for c in check_claims(outcome)] == [True] * 4
    assert [c.met for c in check_claims(outcome | {"10d": [summary(1.6, 11.0)]})] == [False, False, True, True]
    assert [c.met for c in check_claims(outcome | {"euler": [summary(2.0, 90.0)]})] == [True, True, False, False]
    pytest.importorskip("matplotlib")
    assert len(draw(outcome).axes) == 1
    bodies = {
        name: ik.Outcome(0.1, rotation_error_deg(so3.exp(torch.tensor([[0.0, 0.0, a], [0.0, 0.0, 0.01]])), torch.eye(3), thresholds=EDGES))
        for name, a in {"9d": 0.5, "6d": 0.4, "quaternion": 3.0, "euler": 3.1}.items()
    }
    assert [c.met for c in check_bodies(bodies)] == [True, True]
    assert [c.met for c in check_bodies(bodies | {"6d": bodies["euler"]})] == [False, True]
    assert [c.met for c in check_bodies(bodies | {"euler": bodies["6d"]})] == [True, False]
    assert fractions(bodies["9d"].root) == pytest.approx([0, 0, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0])  # 0.57 and 28.6 degrees
    assert len(draw_histograms({name: o.root for name, o in bodies.items()}, ("9d", "6d")).axes) == 1


def cloud_files(folder, count, points=40):
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        rows = torch.randn(points, 3, generator=generator) * torch.tensor([1.0, 0.5, 0.2])
        (folder / f"{i}.pts").write_text("".join(f"{x:.5f} {y:.5f} {z:.5f} 7\n" for x, y, z in rows.tolist()), encoding="utf-8")
    return folder


def test_pts_files(tmp_path):
    file = tmp_path / "a.pts"
    file.write_text("3\r\n# comment\r\n0 1 2\r\n\r\n3,4,5,6\r\n6 7 8\r\n", encoding="utf-8")
    assert torch.equal(read_pts(file), torch.arange(9.0).reshape(3, 3))
    assert read_pts(file, limit=2).shape == (2, 3)
    folder = cloud_files(tmp_path / "clouds", 2)
    assert [c.shape for c in point_cloud.load_clouds(folder)] == [(20, 3)] * 2, "the first half of each file"
    assert point_cloud.load_clouds(folder, points=30)[0].shape == (30, 3)


@pytest.mark.bad_input
def test_bad_pts_files(tmp_path):
    file = tmp_path / "a.pts"
    for text, message in (("0 1 2\n3 x 5\n", r"a\.pts:2"), ("0 1\n", r"a\.pts:1"), ("0 nan 1\n", "finite"), ("# only\n", "no points")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_pts(file)
    with pytest.raises(FileNotFoundError, match="ShapeNet"):
        point_cloud.load_clouds(tmp_path / "none")
    file.write_text("0 1 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="1 points, 5 are wanted"):
        point_cloud.load_clouds(tmp_path, points=5)
    with pytest.raises(ValueError, match="at least one shape"):
        point_cloud.train(get_representation("6d"), [])


def test_point_cloud_network_and_recipe(tmp_path, capsys):
    clouds = point_cloud.load_clouds(cloud_files(tmp_path / "clouds", 3))
    recipe = point_cloud.Recipe(steps=120, lr=2e-3, widths=(16, 32), head=32, test_rotations=20, save_every=50)
    rep = get_representation("6d")
    torch.manual_seed(0)
    fresh = point_cloud.PointCloudNet(rep, recipe.widths, recipe.head)
    shuffled = clouds[0][torch.randperm(len(clouds[0]))]
    torch.testing.assert_close(fresh(clouds[0], shuffled), fresh(shuffled, clouds[0]), rtol=0, atol=1e-6)
    whole = point_cloud.train(rep, clouds, recipe=recipe)
    assert point_cloud.evaluate(whole, clouds, recipe=recipe).mean < point_cloud.evaluate(fresh, clouds, recipe=recipe).mean - 5

    # interrupted after the checkpoint of step 50, and gone on from it
    class StopError(Exception):
        pass

    def stop(step, loss):
        if step == 100:
            raise StopError

    with pytest.raises(StopError):
        point_cloud.train(rep, clouds, recipe=recipe, out=tmp_path / "run", progress=stop)
    resumed = point_cloud.train(rep, clouds, recipe=recipe, out=tmp_path / "run")
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
    folder = str(tmp_path / "clouds")
    assert point_cloud.main(["--train", folder, "--test", folder, "--only", "9d", "--steps", "2", "--out", str(tmp_path / "other")]) == 0
    assert "9d" in capsys.readouterr().out
