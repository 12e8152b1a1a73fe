"""torchvision and supervision: the real packages where they can be imported, stand-ins with their documented fields everywhere."""

import enum
import sys
from math import pi
from types import ModuleType, SimpleNamespace

import pytest
import torch

from geocore import planar
from obbkit.integrations import supervision as sv
from obbkit.integrations import torchvision as tv

T = torch.tensor
FORMATS = ("XYXY", "XYWH", "CXCYWH", "XYWHR", "CXCYWHR", "XYXYXYXY")


class Boxes(torch.Tensor):
    """A tensor with a format and a canvas, as ``BoundingBoxes``."""

    @staticmethod
    def __new__(cls, data, *, format, canvas_size):  # noqa: A002, the name that torchvision has
        made = data.as_subclass(cls)
        made.format, made.canvas_size = format, canvas_size
        return made


def boxes(n=50, dtype=torch.float32):
    r = torch.rand(n, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return planar.canonicalize(r * T([60.0, 60, 14, 8, 6.0], dtype=dtype) + T([0, 0, 4.0, 3.0, -3.0], dtype=dtype), "le90")


@pytest.fixture
def stand_in(monkeypatch):
    def put(formats):
        kinds = enum.Enum("BoundingBoxFormat", {name: name for name in formats})
        module = ModuleType("torchvision")
        module.tv_tensors = SimpleNamespace(BoundingBoxes=Boxes, BoundingBoxFormat=kinds)
        monkeypatch.setitem(sys.modules, "torchvision", module)
        return kinds

    return put


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounding_boxes_there_and_back(stand_in, dtype):
    kinds = stand_in(FORMATS)
    b = boxes(dtype=dtype)
    made = tv.to_bounding_boxes(b, (100, 120))
    assert (made.format, made.canvas_size) == (kinds.CXCYWHR, (100, 120))
    assert torch.allclose(torch.deg2rad(made.as_subclass(torch.Tensor)[:, 4]), -b[:, 4], atol=1e-6)  # counter-clockwise there
    back = tv.from_bounding_boxes(made)
    assert back.dtype == dtype
    assert planar.obb_iou(back, b).min() > 1 - 1e-4
    assert tv.from_bounding_boxes(tv.to_bounding_boxes(b[:0], (1, 1))).shape == (0, 5)


def test_every_format_of_one_box(stand_in):
    """A box of 20 x 10 about (50, 40), 30 degrees counter-clockwise on the screen; its first corner by hand."""
    kinds = stand_in(FORMATS)
    first = (50 - 10 * 3**0.5 / 2 - 2.5, 40 + 5 - 5 * 3**0.5 / 2)  # centre + R(-30 degrees) (-10, -5)
    corners = planar.obb_to_corners(T([50.0, 40, 20, 10, -pi / 6]))
    assert torch.allclose(corners[0], T(first), atol=1e-4)
    turned = T([[50.0, 40, 20, 10, -pi / 6]])
    upright = T([[50.0, 40, 20, 10, 0]])
    rows = {
        "XYXY": ([40.0, 35, 60, 45], upright),
        "XYWH": ([40.0, 35, 20, 10], upright),
        "CXCYWH": ([50.0, 40, 20, 10], upright),
        "XYWHR": ([*first, 20.0, 10, 30], turned),
        "CXCYWHR": ([50.0, 40, 20, 10, 30], turned),
        "XYXYXYXY": (corners.flatten().tolist(), turned),
    }
    for name, (row, wanted) in rows.items():
        found = tv.from_bounding_boxes(Boxes(T([row]), format=kinds[name], canvas_size=(100, 100)))
        assert torch.allclose(found, wanted, atol=1e-4), name
    whole = Boxes(T([[40, 35, 60, 45]]), format=kinds.XYXY, canvas_size=(100, 100))  # integers, as annotations have
    assert torch.equal(tv.from_bounding_boxes(whole), upright)


def test_real_torchvision():
    real = pytest.importorskip("torchvision.tv_tensors", exc_type=(ImportError, RuntimeError))  # the latter beside another torch
    from torchvision.transforms.v2.functional import convert_bounding_box_format

    b = boxes()
    made = tv.to_bounding_boxes(b, (100, 100))
    assert made.format == real.BoundingBoxFormat.CXCYWHR
    corners = convert_bounding_box_format(made, new_format=real.BoundingBoxFormat.XYXYXYXY).as_subclass(torch.Tensor)
    assert torch.allclose(corners.reshape(-1, 4, 2), planar.obb_to_corners(b), atol=1e-3)
    for kind in real.BoundingBoxFormat:
        if kind.value in ("CXCYWHR", "XYWHR", "XYXYXYXY"):
            again = tv.from_bounding_boxes(convert_bounding_box_format(made, new_format=kind))
            assert planar.obb_iou(again, b).min() > 1 - 1e-3


@pytest.mark.bad_input
def test_bad_bounding_boxes_are_refused(stand_in):
    with pytest.raises(TypeError, match="must be BoundingBoxes"):
        tv.from_bounding_boxes(boxes())
    with pytest.raises(ValueError, match="boxes must have shape"):
        tv.to_bounding_boxes(boxes()[:, :4], (10, 10))
    stand_in(("XYXY",))
    with pytest.raises(ImportError, match=r"0\.23 or newer"):
        tv.to_bounding_boxes(boxes(), (10, 10))
    sys.modules["torchvision"] = None
    with pytest.raises(ImportError, match="needs a torchvision"):
        tv.to_bounding_boxes(boxes(), (10, 10))


def found():
    b = boxes()
    return {"boxes": b, "scores": torch.linspace(0, 1, len(b)), "labels": torch.arange(len(b)) % 3}


def check_detections():
    f = found()
    d = sv.to_detections(f)
    assert torch.allclose(T(d.xyxy), planar.obb_to_aabb(f["boxes"]))
    assert torch.equal(T(d.data["xyxyxyxy"]), planar.obb_to_corners(f["boxes"]))
    back = sv.from_detections(d)
    assert torch.equal(back["scores"], f["scores"])
    assert torch.equal(back["labels"], f["labels"])
    assert planar.obb_iou(back["boxes"], f["boxes"]).min() > 1 - 1e-4
    none = sv.from_detections(sv.to_detections({k: v[:0] for k, v in f.items()}))
    assert none["boxes"].shape == (0, 5)
    return d


def test_detections_of_a_stand_in(monkeypatch):
    module = ModuleType("supervision")
    module.Detections = SimpleNamespace
    monkeypatch.setitem(sys.modules, "supervision", module)
    d = check_detections()
    d.confidence = d.class_id = None
    assert sv.from_detections(d)["scores"].eq(1).all()
    assert sv.from_detections(d)["labels"].eq(0).all()


def test_real_supervision():
    real = pytest.importorskip("supervision")
    d = check_detections()
    assert isinstance(d, real.Detections)
    strong = d[d.confidence > 0.5]  # corners are filtered along
    assert len(sv.from_detections(strong)["boxes"]) == len(strong) < len(d)


@pytest.mark.bad_input
def test_bad_detections_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="one score and label each"):
        sv.to_detections({**found(), "scores": torch.rand(3)})
    with pytest.raises(ValueError, match="must have data"):
        sv.from_detections(SimpleNamespace(xyxy=torch.zeros(2, 4).numpy(), data={}, confidence=None, class_id=None))
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        sv.to_detections(found())
