"""Annotation files, folders, tiles, exports and scenes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from geocore import planar
from obbkit.data import (
    RSAR_CLASSES,
    AnnotationError,
    DOTADataset,
    RSARDataset,
    collate,
    merge_tiles,
    read_dior_xml,
    read_dota_txt,
    read_yolo_obb,
    scan_dota_txt,
    ship_scenes,
    split_tiles,
    tile_windows,
    to_coco,
    to_yolo_obb,
    write_dota_results,
    write_dota_txt,
)

T = torch.tensor


def boxes(n, seed=0):
    r = torch.rand(n, 5, generator=torch.Generator().manual_seed(seed))
    return r * T([60.0, 60, 20, 10, 3.0]) + T([10.0, 10, 5, 4, -1.5])


def dior(*objects):
    return "<annotation><filename>00001.jpg</filename>" + "".join(f"<object>{o}</object>" for o in objects) + "</annotation>"


def robndbox(values):
    keys = [f"{a}_{c}" for c in ("left_top", "right_top", "right_bottom", "left_bottom") for a in "xy"]
    return "<robndbox>" + "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, values, strict=False)) + "</robndbox>"


SHIP = f"<type>robndbox</type><name>ship</name><difficult>1</difficult>{robndbox([10, 10, 30, 12, 29, 20, 9, 18])}"
UPRIGHT = "<name>dam</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"


def test_dior_files(tmp_path):
    path = tmp_path / "00001.xml"
    path.write_text(dior(SHIP, UPRIGHT).replace("><", ">\r\n<"))
    found = read_dior_xml(path)
    assert found.names == ["ship", "dam"]
    assert found.difficulty.tolist() == [1, 0]
    assert found.polygons.tolist() == [[[10, 10], [30, 12], [29, 20], [9, 18]], [[3, 4], [9, 4], [9, 8], [3, 8]]]
    path.write_text(dior())
    assert read_dior_xml(path).polygons.shape == (0, 4, 2)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (UPRIGHT.replace("dam", " "), "name is missing"),
        ("<name>ship</name>", "robndbox or bndbox is missing"),
        (UPRIGHT.replace("<xmax>9</xmax>", ""), "expected 4 finite numbers"),
        (SHIP.replace(">12<", ">nan<"), "expected 8 finite numbers"),
        (SHIP.replace(">12<", ">a<"), "expected numbers in robndbox"),
        (f"<name>ship</name>{robndbox([10, 10, 30, 20, 30, 10, 10, 20])}", "convex quadrilateral"),
        (SHIP.replace("<difficult>1", "<difficult>x"), "difficult must be an integer"),
    ],
)
def test_bad_dior_objects(tmp_path, bad, message):
    path = tmp_path / "00001.xml"
    path.write_text(dior(UPRIGHT, bad, SHIP))
    with pytest.raises(AnnotationError, match=f"00001.xml, object 2: .*{message}"):
        read_dior_xml(path)
    found = read_dior_xml(path, errors="skip")
    assert (found.names, found.skipped) == (["dam", "ship"], 1)
    path.write_text(dior(UPRIGHT)[:-20])
    with pytest.raises(AnnotationError, match="no XML"):
        read_dior_xml(path)
    with pytest.raises(FileNotFoundError, match="is missing"):
        read_dior_xml(tmp_path / "none.xml")


def test_dota_files_there_and_back(tmp_path):
    b = boxes(20) + T([-20.0, 0, 0, 0, 0])  # some corners outside of the image
    write_dota_txt(tmp_path / "a.txt", b, ["ship", "large-vehicle"] * 10, [0, 1] * 10)
    found = read_dota_txt(tmp_path / "a.txt")
    assert (found.polygons - planar.obb_to_corners(b).double()).abs().max() < 1e-2
    assert found.names == ["ship", "large-vehicle"] * 10
    assert found.difficulty.tolist() == [0, 1] * 10
    assert found.polygons.min() < 0
    again = tmp_path / "b.txt"
    write_dota_txt(again, found.polygons, found.names, found.difficulty)
    assert again.read_text() == (tmp_path / "a.txt").read_text()


def test_dota_headers_line_ends_and_old_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"imagesource:GoogleEarth\r\ngsd:0.146\r\n\r\n0 0 4 0 4 2 0 2 ship\r\n1.5,1,5,1,5,3,1.5,3,plane,1\r\n")
    found = read_dota_txt(path)
    assert found.names == ["ship", "plane"]
    assert found.difficulty.tolist() == [0, 1]
    path.write_text("")
    assert read_dota_txt(path).polygons.shape == (0, 4, 2)


BAD = {
    "columns": "0 0 4 0 4 2 0 2\n",
    "text": "0 0 4 0 four 2 0 2 ship 0\n",
    "nan": "0 0 4 0 4 nan 0 2 ship 0\n",
    "infinite": "0 0 4 0 4 inf 0 2 ship 0\n",
    "difficulty": "0 0 4 0 4 2 0 2 ship hard\n",
    "crossing": "0 0 4 2 4 0 0 2 ship 0\n",
    "dart": "0 0 4 0 1 1 0 4 ship 0\n",
    "point": "1 1 1 1 1 1 1 1 ship 0\n",
    "line": "0 0 1 1 2 2 3 3 ship 0\n",
}


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", BAD)
def test_bad_lines_are_named_or_counted(tmp_path, kind):
    path = tmp_path / "P0001.txt"
    path.write_text("gsd:1\n0 0 4 0 4 2 0 2 ship 0\n" + BAD[kind] + "9 9 12 9 12 11 9 11 ship 0\n")
    with pytest.raises(AnnotationError, match=r"P0001\.txt, line 3"):
        read_dota_txt(path)
    found = read_dota_txt(path, errors="skip")
    assert found.skipped == 1
    assert len(found.polygons) == len(found.names) == 2


def test_every_fault_of_a_file_is_found(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("gsd:1\n0 0 4 0 4 2 0 2 ship 0\n" + "".join(BAD.values()) + "9 9 12 9 12 11 9 11 car 1\n")
    found, lines, problems = scan_dota_txt(path)
    assert found.names == ["ship", "car"]
    assert found.difficulty.tolist() == [0, 1]
    assert lines == [2, 3 + len(BAD)]
    assert [number for number, _ in problems] == list(range(3, 3 + len(BAD)))
    assert found.skipped == len(BAD)
    assert all(text for _, text in problems)


@pytest.mark.bad_input
def test_bad_writes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        read_dota_txt(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="single words"):
        write_dota_txt(tmp_path / "a.txt", boxes(1), ["large vehicle"])
    with pytest.raises(ValueError, match="one length"):
        write_dota_txt(tmp_path / "a.txt", boxes(2), ["ship"])
    with pytest.raises(ValueError, match="finite"):
        write_dota_txt(tmp_path / "a.txt", boxes(1) * torch.nan, ["ship"])


def test_large_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0 0 4 0 4 2 0 2 ship 0\n" * 50_000)
    assert len(read_dota_txt(path).names) == 50_000


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annfiles").mkdir()
    for i, (suffix, b) in enumerate(zip((".png", ".jpg", ".bmp"), (boxes(3), boxes(2, 1), boxes(0)), strict=True)):
        pixels = np.random.default_rng(i).integers(0, 255, (60 + i, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"im{i}{suffix}")
        write_dota_txt(tmp_path / "annfiles" / f"im{i}.txt", b, ["ship"] * len(b), [2] * len(b))
    return tmp_path


def test_folders(folder):
    data = RSARDataset(folder)
    assert data.classes == RSAR_CLASSES
    assert len(data) == 3
    image, target = data[0]
    assert image.shape == (3, 60, 80)
    assert 0 <= image.min() < image.max() <= 1
    assert planar.obb_iou(target["boxes"], boxes(3)).min() > 0.97
    assert (target["boxes"][:, 2] >= target["boxes"][:, 3]).all()
    assert data[2][1]["boxes"].shape == (0, 5)
    assert RSARDataset(folder, difficulty_max=1)[0][1]["ignore"].all()
    images, targets = collate([data[0], data[2]])
    assert images.shape == (2, 3, 62, 80)
    assert targets[0]["size"] == (60, 80)


def test_horizontal_supervision_hides_the_angle(folder):
    """Other rectangles with the same upright hull give the same labels."""
    first = RSARDataset(folder, supervision="hbb")[0][1]["boxes"]
    assert first.shape == (3, 4)
    assert torch.allclose(first, planar.obb_to_aabb(boxes(3)), atol=2e-2)
    b = boxes(3)
    mirrored = torch.cat([b[:, :4], -b[:, 4:]], 1)
    write_dota_txt(folder / "annfiles" / "im0.txt", mirrored, ["ship"] * 3)
    assert torch.allclose(RSARDataset(folder, supervision="hbb")[0][1]["boxes"], first, atol=2e-2)


@pytest.mark.bad_input
def test_bad_folders_are_refused(folder):
    with pytest.raises(FileNotFoundError, match="must hold one of the folders"):
        DOTADataset(folder / "images", ["ship"])
    with pytest.raises(AnnotationError, match="class 'ship' is not one of plane"):
        DOTADataset(folder, ["plane"])[0]
    skipping = DOTADataset(folder, ["plane"], unknown="skip")
    assert skipping[0][1]["boxes"].shape == (0, 5)
    assert skipping.skipped == 3
    (folder / "annfiles" / "im1.txt").unlink()
    with pytest.raises(FileNotFoundError, match="'im1'"):
        RSARDataset(folder)
    assert RSARDataset(folder, missing="empty")[1][1]["boxes"].shape == (0, 5)
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(folder / "images" / "im0.bmp")
    with pytest.raises(ValueError, match="'im0' with several suffixes"):
        RSARDataset(folder, missing="empty")


def test_tiles_cover_the_image_and_merge_back():
    windows = tile_windows(250, 130, 100, 20)
    seen = np.zeros((130, 250), dtype=int)
    for x, y, w, h in windows:
        assert x + w <= 250
        assert y + h <= 130
        seen[y : y + h, x : x + w] += 1
    assert seen.min() >= 1
    assert tile_windows(50, 40, 100, 20) == [(0, 0, 50, 40)]
    b = boxes(30) * T([3.5, 1.8, 0.5, 0.5, 1])
    tiles = split_tiles("P0001", 250, 130, planar.obb_to_corners(b), size=100, overlap=20, min_share=0.5)
    assert tiles[1].name == "P0001__80___0"
    results, found = {}, set()
    for tile in tiles:
        local = planar.translate(b[tile.objects], -T([tile.window[0], tile.window[1]]).float())
        assert torch.allclose(planar.obb_to_corners(local).double(), tile.polygons, atol=1e-4)
        assert (tile.share >= 0.5).all()
        found |= set(tile.objects.tolist())
        results[tile.name] = {"boxes": local, "scores": torch.ones(len(local)), "labels": tile.objects % 2}
    inside = [i for i in range(30) if 5 < b[i, 0] < 245 and 5 < b[i, 1] < 125]
    assert set(inside) <= found
    merged = merge_tiles(results, iou_threshold=0.99)["P0001"]
    assert len(merged["boxes"]) == len(found)
    with pytest.raises(ValueError, match="tiles must be named"):
        merge_tiles({"P0001": merged})
    with pytest.raises(ValueError, match="overlap must lie"):
        tile_windows(10, 10, 5, 5)


def test_exports(tmp_path):
    b = planar.canonicalize(boxes(5))
    to_yolo_obb(tmp_path / "a.txt", b, [0, 1, 2, 3, 4], (90, 120))
    rows = (tmp_path / "a.txt").read_text().splitlines()
    assert len(rows[0].split()) == 9
    back, labels = read_yolo_obb(tmp_path / "a.txt", (90, 120))
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert planar.obb_iou(back, b).min() > 0.999
    (tmp_path / "a.txt").write_text("0 1 2\n")
    with pytest.raises(AnnotationError, match="line 1"):
        read_yolo_obb(tmp_path / "a.txt", (90, 120))
    coco = to_coco([{"file_name": "a.png", "height": 90, "width": 120}], [{"boxes": b, "labels": torch.arange(5)}], list("abcde"))
    assert json.loads(json.dumps(coco))["annotations"][4]["category_id"] == 5
    hull = planar.obb_to_aabb(b)[0].tolist()
    assert coco["annotations"][0]["bbox"] == pytest.approx([hull[0], hull[1], hull[2] - hull[0], hull[3] - hull[1]], rel=1e-4)
    paths = write_dota_results(
        tmp_path / "out", {"P1": {"boxes": b, "scores": torch.ones(5), "labels": T([0, 0, 1, 1, 1])}}, ["ship", "car", "tank"]
    )
    assert [p.name for p in paths] == ["Task1_ship.txt", "Task1_car.txt", "Task1_tank.txt"]
    assert len(paths[1].read_text().splitlines()) == 3
    assert paths[2].read_text() == ""


def test_scenes():
    images, targets = ship_scenes(20, seed=1)
    again, _ = ship_scenes(20, seed=1)
    assert torch.equal(images, again)
    assert images.shape == (20, 1, 64, 64)
    bright = dark = 0.0
    for image, target in zip(images, targets, strict=True):
        b = target["boxes"]
        assert 1 <= len(b) <= 4
        assert (planar.obb_iou_matrix(b, b) - torch.eye(len(b))).abs().max() < 1e-5
        mask = planar.rasterize(planar.obb_to_corners(b), (64, 64)).any(0)
        bright += image[0][mask].mean().item()
        dark += image[0][~mask].mean().item()
    assert bright > 2 * dark
    with pytest.raises(ValueError, match="length, aspect and looks"):
        ship_scenes(1, length=(9.0, 80.0))
