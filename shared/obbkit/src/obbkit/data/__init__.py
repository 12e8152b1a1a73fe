"""Annotation files and image folders of oriented-box data sets, tiles, and exports."""

from obbkit.data.datasets import RSAR_CLASSES, DOTADataset, RSARDataset, collate
from obbkit.data.dior import read_dior_xml
from obbkit.data.dota import AnnotationError, Annotations, read_dota_txt, scan_dota_txt, write_dota_results, write_dota_txt
from obbkit.data.export import read_yolo_obb, to_coco, to_yolo_obb
from obbkit.data.scenes import ship_scenes
from obbkit.data.tiles import Tile, merge_tiles, split_tiles, tile_windows

__all__ = [
    "RSAR_CLASSES",
    "AnnotationError",
    "Annotations",
    "DOTADataset",
    "RSARDataset",
    "Tile",
    "collate",
    "merge_tiles",
    "read_dior_xml",
    "read_dota_txt",
    "read_yolo_obb",
    "scan_dota_txt",
    "ship_scenes",
    "split_tiles",
    "tile_windows",
    "to_coco",
    "to_yolo_obb",
    "write_dota_results",
    "write_dota_txt",
]
