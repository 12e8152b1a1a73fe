"""Oriented boxes from horizontal ones in a minute: train, measure, label, draw."""

import dataclasses
import tempfile
from pathlib import Path

import torch

from geocore.planar import obb_to_aabb
from obbkit.data import ship_scenes
from ucr_rsar import UCRCoder
from ucr_rsar.draw import draw_boxes, save_image
from ucr_rsar.pseudo import pseudo_label
from ucr_rsar.recipes import RECIPES
from ucr_rsar.training import Trainer, evaluate

coder = UCRCoder(m=3)
code = coder.encode(torch.tensor(0.3))
print("code", code, "angle", coder.decode(3 * code), "distance from the circle", coder.restriction(3 * code))

images, targets = ship_scenes(64, seed=0)
horizontal = [
    (x, {**t, "boxes": obb_to_aabb(t["boxes"]), "name": f"scene{i}"}) for i, (x, t) in enumerate(zip(images, targets, strict=True))
]
recipe = dataclasses.replace(RECIPES["tiny"], epochs=4, milestones=(3,), image_size=64, overlap=16)
trainer = Trainer(recipe, horizontal)
history = trainer.run()
print(f"loss {history[0]['loss']:.2f} -> {history[-1]['loss']:.2f}")

held = list(zip(*ship_scenes(16, seed=1), strict=True))
print("after so few steps, AP50", round(evaluate(trainer.model, held, recipe)["AP50"], 3))
folder = Path(tempfile.mkdtemp())
print(pseudo_label(trainer.model, horizontal[:8], folder / "annfiles", recipe, min_iou=0.3))
found = trainer.model.predict(held[0][0][None])[0]
save_image(folder / "scene.png", draw_boxes(held[0][0], found, truth=held[0][1], scale=4.0))
print("pictures and labels:", sorted(p.name for p in folder.iterdir()))
