"""The weakly supervised head and the detector around it."""

from copy import deepcopy
from math import pi

import pytest
import torch
from torch import nn

from geocore import planar
from geocore.planar import angle_diff, wrap
from obbkit import build_coder
from obbkit.data import ship_scenes
from obbkit.views import three_views
from ucr_rsar import CODERS, H2RBoxHead, UCRCoder, UnitCircleLoss, WeakOrientedDetector, build_tiny_detector
from ucr_rsar._reference import (
    decode_reference,
    encode_reference,
    object_codes_reference,
    object_codes_unique,
    restriction_reference,
)
from ucr_rsar.detector import horizontal
from ucr_rsar.functional import object_codes

T = torch.tensor
R = 1.1


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(coder="ucr3", classes=2, **options):
    torch.manual_seed(0)
    return build_tiny_detector(classes, coder, **options)


def scene(n=2, seed=0):
    images, targets = ship_scenes(n, seed=seed)
    for i, t in enumerate(targets):
        t["labels"] = (torch.arange(len(t["labels"])) + i) % 2
    return images, targets


def none(images):
    return [{"boxes": torch.zeros(0, 5), "labels": torch.zeros(0, dtype=torch.int64)} for _ in images]


def total(losses):
    return sum(losses.values(), torch.zeros(()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [2, 3, 5, 8])
def test_coder_equals_the_literal_one(m, dtype):
    t = (torch.linspace(-3, 3, 701, dtype=torch.float64) + 1e-3).to(dtype)
    coder, tol = UCRCoder(m, invalid_thr=0.2), 2e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(coder.encode(t), encode_reference(t, m), rtol=0, atol=tol)
    x = torch.randn(300, m, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
    apart = (coder.amplitude(x).square() - 0.2).abs() > 1e-3  # rounding may put a code on either side of the threshold
    x = x[apart].to(dtype).requires_grad_()
    ours, literal = coder.decode(x), decode_reference(x, m, 0.2)
    assert angle_diff(ours, literal).abs().max() < tol
    g = torch.linspace(-1, 1, len(x), dtype=dtype)
    pairs = [torch.autograd.grad(y, x, g) for y in (ours, literal)]
    if m <= 3:
        torch.testing.assert_close(coder.restriction(x), restriction_reference(x, m))
        pairs += [torch.autograd.grad(f, x) for f in (coder.restriction(x), restriction_reference(x, m))]
    for (a,), (b,) in zip(pairs[::2], pairs[1::2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=tol)


@pytest.mark.parametrize("points", [0, 1, 7, 97])
def test_object_codes_equal_the_loop(points):
    g = torch.Generator().manual_seed(points)
    count = 11
    code = torch.randn(points, 3, generator=g, dtype=torch.float64).requires_grad_()
    obj, view = torch.randint(count - 2, (points,), generator=g), torch.randint(3, (points,), generator=g)
    mean, complete = object_codes(code, obj, view, count)
    wanted, both = object_codes_reference(code, obj, view, count)
    torch.testing.assert_close(mean, wanted)
    assert torch.equal(complete, both)
    assert not complete[-1]  # no point has it
    if points:
        w = torch.randn(mean.shape, generator=g, dtype=torch.float64)
        pair = [torch.autograd.grad((w * x).sum(), code)[0] for x in (mean, wanted)]
        torch.testing.assert_close(*pair)
        torch.testing.assert_close(object_codes_unique(code, obj, view), mean[:, complete])


def test_labels_tell_no_angle():
    """zhasion/RSAR#1: other rectangles with the same upright hull, which weak supervision must not tell apart, give the same losses."""
    images, targets = scene()
    model = tiny(agnostic=(1,))
    losses = model(images, targets, rotation=R)
    for seed in range(3):
        scrambled = []
        for t in targets:
            angle = pi * torch.rand(len(t["boxes"]), generator=torch.Generator().manual_seed(seed))
            hull = planar.obb_to_aabb(t["boxes"])
            width, height = (hull[:, 2:] - hull[:, :2]).unbind(-1)
            c, s = angle.cos().abs(), angle.sin().abs()
            # rectangles of any sides w c + h s = width, w s + h c = height; where that asks for a negative side, another angle does not
            w, h = (width * c - height * s) / (c**2 - s**2), (height * c - width * s) / (c**2 - s**2)
            fits = (w > 0) & (h > 0)
            angle, w, h = torch.where(fits, angle, 0.0), torch.where(fits, w, width), torch.where(fits, h, height)
            centre = 0.5 * (hull[:, 2:] + hull[:, :2])
            boxes = torch.cat([centre, torch.stack([w, h, angle], -1)], 1)
            torch.testing.assert_close(planar.obb_to_aabb(boxes), hull, rtol=1e-4, atol=1e-3)
            scrambled.append({**t, "boxes": boxes})
        assert any((angle_diff(a["boxes"][:, 4], b["boxes"][:, 4]).abs() > 0.1).any() for a, b in zip(scrambled, targets, strict=True))
        for name, value in model(images, scrambled, rotation=R).items():
            torch.testing.assert_close(value, losses[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    upright = [{**t, "boxes": planar.obb_to_aabb(t["boxes"])} for t in targets]
    for name, value in model(images, upright, rotation=R).items():
        assert torch.equal(value, losses[name]), name
    full = tiny(supervision="obb")
    assert not torch.allclose(total(full(images, targets)), total(full(images, scrambled)), rtol=1e-3)


def oracle(coder, targets, rotation, shift=0.0):
    """Views of ``targets``, and predictions whose angle turns with the image and whose boxes are right."""
    images = torch.zeros(len(targets), 1, 64, 64)
    head = H2RBoxHead(4, 2, [4], coder, feat_channels=8, stacked_convs=1)
    _, out = three_views(images, [horizontal(t) for t in targets], rotation)
    turn = torch.as_tensor(rotation, dtype=torch.float64).expand(len(targets))
    true = torch.cat([t["boxes"][:, 4].double() + shift for t in targets])
    sizes = torch.cat([t["boxes"][:, 2:4].double() for t in targets])
    if shift:
        sizes = sizes.flip(-1)
    preds = {k: [torch.zeros(len(out), c, 16, 16, dtype=torch.float64)] for k, c in (("cls", 2), ("centerness", 1), ("distances", 4))}
    preds["code"] = [torch.randn(len(out), coder.encode_size, 16, 16, dtype=torch.float64)]
    flat, points, levels = head.flatten(preds)
    found = head.assign(points.double(), levels, [{**t, "boxes": t["boxes"].double()} for t in out])
    view, image = (T([t[k] for t in out])[found.image] for k in ("view", "image"))
    angle = true[found.object]
    angle = wrap(torch.where(view == 1, angle + turn[image], torch.where(view == 2, -angle, angle)))
    flat["code"].flatten(0, 1)[found.row] = coder.encode(angle)
    c, s = angle.cos(), angle.sin()
    d = found.points - found.boxes[:, :2]
    x, y = c * d[:, 0] + s * d[:, 1], c * d[:, 1] - s * d[:, 0]
    w, h = (0.5 * sizes[found.object]).unbind(-1)
    flat["distances"].flatten(0, 1)[found.row] = torch.stack([w + x, h + y, w - x, h - y], -1)
    maps = {k: [v.mT.unflatten(-1, (16, 16)).contiguous()] for k, v in flat.items()}
    return head.double(), maps, out


def single(n):
    g = torch.Generator().manual_seed(5)
    r = torch.rand(n, 5, generator=g)
    return [{"boxes": (r[i : i + 1] * T([4.0, 4, 10, 3, 3.0]) + T([30.0, 30, 14, 8, -1.5])), "labels": T([i % 2])} for i in range(n)]


@pytest.mark.parametrize("name", ["ucr2", "ucr3", "psc3", "acm2", "direct"])
@pytest.mark.parametrize("rotation", [R, "each"])
def test_an_equivariant_head_has_no_loss(name, rotation):
    kind, options = CODERS[name]
    coder = build_coder(kind, **options)
    targets = single(4)
    rotation = T([0.8, 1.2, 1.7, 2.3], dtype=torch.float64) if rotation == "each" else rotation
    for shift in (0.0, pi / 2):  # a quarter turn with the sides exchanged is the same box
        head, preds, out = oracle(coder, targets, rotation, shift)
        losses = head.loss(preds, out, rotation)
        assert losses["symmetry"].item() == pytest.approx(0.0, abs=1e-10)
        assert losses["box"].item() == pytest.approx(0.0, abs=1e-5)
        if name.startswith("ucr"):
            assert losses["restriction"].item() == pytest.approx(0.0, abs=1e-10)
    wrong = head.loss(preds, out, R + 0.5)
    assert wrong["symmetry"].item() > 0.1


def test_rotations_belong_to_their_image():
    """With one rotation an image, each object is compared with that of its own image: with the others the loss is not zero."""
    rotation = T([0.8, 1.2, 1.7, 2.3], dtype=torch.float64)
    for m in (2, 3):
        head, preds, out = oracle(UCRCoder(m), single(4), rotation)
        assert head.loss(preds, out, rotation)["symmetry"] < 1e-10
        assert head.loss(preds, out, rotation.flip(0))["symmetry"] > 0.1
    images, targets = scene(3)
    model = tiny()
    losses = model(images, targets, rotation=T([0.8, 1.2, 2.0]))
    assert all(v.isfinite() for v in losses.values())
    same = model(images, targets, rotation=T([R, R, R]))
    for k, value in model(images, targets, rotation=R).items():
        torch.testing.assert_close(same[k], value)


@pytest.mark.parametrize("supervision", ["hbb", "obb"])
@pytest.mark.parametrize("name", [name for name in CODERS if name != "csl"])
def test_losses_are_finite_and_connected(name, supervision):
    model = tiny(name, supervision=supervision)
    images, targets = scene()
    corner = {"boxes": T([[3.0, 3, 10, 5, 0.3]]), "labels": T([0])}  # gone in the rotated view
    one = {k: v[:1] for k, v in targets[0].items()}
    empty = none(images)
    for case in (targets, empty, [one, empty[0]], [corner, empty[0]], [corner, one]):
        losses = model(images, case, **({"rotation": pi / 4} if supervision == "hbb" else {}))
        wanted = {"cls", "centerness", "box", "symmetry" if supervision == "hbb" else "angle"}
        assert set(losses) == wanted | ({"restriction"} if name.startswith("ucr") else set())
        for value in losses.values():
            assert value.shape == ()
            assert value.isfinite()
            assert value.requires_grad
        model.zero_grad()
        total(losses).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    if supervision == "hbb":
        assert model(images, [corner, empty[0]], rotation=pi / 4)["symmetry"].item() == 0


def test_objects_are_matched_by_number():
    """The object that leaves the rotated view is left out; the others keep their own partner."""
    targets = single(3)
    lost = {"boxes": torch.cat([T([[3.0, 3, 12, 8, 0.4]]), targets[0]["boxes"]]), "labels": T([0, 1])}
    head, preds, out = oracle(UCRCoder(3), [lost, *targets[1:]], R)
    assert [len(t["object"]) for t in out] == [2, 1, 1, 1, 1, 1, 2, 1, 1]
    assert head.loss(preds, out, R)["symmetry"] < 1e-10


def test_classes_without_direction():
    targets = single(4)
    head, preds, out = oracle(UCRCoder(3), targets, R)
    turned = R + 0.4
    each = head.loss(preds, out, turned)["symmetry"]
    for agnostic, share in (((0,), 0.5), ((0, 1), 0.0)):
        head.agnostic = agnostic
        assert head.loss(preds, out, turned)["symmetry"].item() == pytest.approx(share * each.item(), abs=1e-10)
    model = tiny(agnostic=(0, 1))
    found = model.eval().predict(torch.rand(1, 1, 64, 64), score_threshold=0.0)[0]
    assert len(found["boxes"]) > 0
    assert (found["boxes"][:, 4] == 0).all()


def test_restriction_reaches_every_positive_point():
    model = tiny("ucr3", restriction=0.5, agnostic=(0, 1))
    images, targets = scene()
    value = model(images, targets, rotation=R)["restriction"]
    model.zero_grad()
    value.backward()
    assert model.head.angle.weight.grad.abs().sum() > 0
    waiting = tiny("ucr3", restriction=0.5, warmup=1)
    assert waiting(images, targets, rotation=R)["restriction"] == 0
    assert waiting(images, targets, rotation=R)["restriction"] > 0
    own = UnitCircleLoss(UCRCoder(3), 0.1, form="norm")
    head = H2RBoxHead(8, 1, [4], own.coder, restriction=own, feat_channels=8, stacked_convs=1)
    assert head.restriction is own
    assert tiny("psc3").head.restriction is None


@pytest.mark.slow
@pytest.mark.parametrize("supervision", ["hbb", "obb"])
def test_training_lowers_the_loss(supervision):
    model = tiny(supervision=supervision)
    images, targets = scene(4)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    seen = []
    for _ in range(40):
        losses = model(images, targets, **({"rotation": R} if supervision == "hbb" else {}))
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        seen.append(total(losses).item())
    assert min(seen[-5:]) < 0.7 * seen[0]


def test_predictions():
    model = tiny().eval()
    images, _ = scene(3)
    found = model(images)
    assert len(found) == 3
    found = model.predict(images, [(64, 64), (64, 64), (20, 30)], score_threshold=0.001, max_per_image=17)
    for k, one in enumerate(found):
        n = len(one["scores"])
        assert one["boxes"].shape == (n, 5)
        assert one["labels"].shape == (n,)
        assert n <= 17
        assert (one["scores"].diff() <= 0).all()
        assert (one["boxes"][:, :2] <= T([30, 20]) if k == 2 else T([True])).all()
    assert len(model.predict(images[:1], score_threshold=1.0)[0]["boxes"]) == 0
    assert not model.predict(images[:1], score_threshold=0.001)[0]["boxes"].requires_grad


def test_state_goes_round(tmp_path):
    model = tiny("ucr3", warmup=5)
    images, targets = scene()
    model(images, targets)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    other = build_tiny_detector(2, "ucr3", warmup=5)
    other.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert other.head.restriction.steps == 1
    for a, b in zip(model(images, targets, rotation=R).values(), other(images, targets, rotation=R).values(), strict=True):
        assert torch.equal(a, b)
    copy = deepcopy(model)
    assert copy.head.restriction.coder is copy.head.coder
    count = sum(p.numel() for p in model.parameters())
    assert 40_000 < count < 80_000


def test_other_backbones_and_rotations():
    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3, 8, 1)

        def forward(self, x):
            y = self.conv(x)
            return [y, y[..., ::2, ::2]]

    generator = torch.Generator().manual_seed(3)
    head = H2RBoxHead(8, 2, [8, 16], UCRCoder(2), feat_channels=8, stacked_convs=0)
    model = WeakOrientedDetector(Maps(), None, head, (0.1, 0.2), "zeros", generator=generator)
    images, targets = scene()
    first = model(images, targets)
    generator.manual_seed(3)
    for k, value in model(images, targets).items():
        assert torch.equal(value, first[k])
    assert model.predict(images, score_threshold=0.0)[0]["boxes"].shape[1] == 5


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_tiny_detector(1, "ucr4"), "coder must be one of 'ucr2'"),
        (lambda: build_tiny_detector(1, supervision="point"), "supervision must be one of"),
        (lambda: WeakOrientedDetector(nn.Identity(), None, nn.Identity(), (0.9, 0.1)), "view_range must be shares of pi"),
        (lambda: WeakOrientedDetector(nn.Identity(), None, nn.Identity(), view_padding="mirror"), "view_padding must be one of"),
        (lambda: tiny()(*scene()[:1], none([0])), "targets must be one an image"),
        (lambda: tiny()(torch.zeros(1, 1, 64, 64), [{"boxes": torch.zeros(2, 3), "labels": T([0, 0])}]), r"targets\[0\] must have boxes"),
        (lambda: tiny(supervision="obb")(torch.zeros(1, 1, 64, 64), [{"boxes": torch.zeros(1, 4), "labels": T([0])}]), "oriented boxes"),
        (lambda: tiny("csl")(*scene()), "coder must decode with a gradient"),
        (lambda: tiny(agnostic=(2,)), "agnostic must name classes below 2"),
        (lambda: tiny().head.loss(tiny().head([torch.zeros(1, 32, 4, 4)]), none([0]), 0.3), "targets must come from three_views"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
