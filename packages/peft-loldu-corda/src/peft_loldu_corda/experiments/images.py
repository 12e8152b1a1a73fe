"""LoLDU, CorDA or LoRA on an image set with a ViT from a local folder.

``python -m peft_loldu_corda.experiments.images --model vit-base/ --train flowers/train --test flowers/test``; images lie in
``CLASS/IMAGE.jpg``. The paper's setting: query and value, ``r`` = 768 on a width of 768. Nothing is downloaded. Needs Pillow.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from peft_loldu_corda.experiments import glue
from peft_loldu_corda.experiments._data import load_image_folder

__all__ = ["main", "read_images"]


def read_images(paths: Sequence[Path], size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images as ``(n, 3, size, size)``, resized and normalised."""
    import numpy as np
    from PIL import Image

    pixels = []
    for path in paths:
        with Image.open(path) as opened:
            array = np.asarray(opened.convert("RGB").resize((size, size), Image.Resampling.BILINEAR), dtype="float32") / 255
        pixels.append(torch.from_numpy(array).permute(2, 0, 1))
    shift, scale = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (mean, std))
    return (torch.stack(pixels) - shift) / scale


def main(argv: Sequence[str] | None = None) -> float:
    """Command line; returns the accuracy in percent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a ViT")
    parser.add_argument("--train", required=True, help="folder of training images")
    parser.add_argument("--test", required=True, help="folder of test images")
    parser.add_argument("--method", choices=glue.METHODS, default="loldu")
    parser.add_argument("--rank", default="full", help="a number, or 'full' with loldu")
    parser.add_argument("--lr", type=float, default=3e-2, help="3e-2 suits loldu, 1e-3 the others; tune it for each")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--targets", default="query,value", help="names of the layers; q_proj,v_proj in recent transformers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    from transformers import ViTForImageClassification

    torch.manual_seed(options.seed)
    paths, labels, names = load_image_folder(options.train)
    test_paths, test_labels, test_names = load_image_folder(options.test)
    if names != test_names:
        raise ValueError(f"train and test must hold the same classes, got {len(names)} and {len(test_names)}")
    model: Any = ViTForImageClassification.from_pretrained(
        options.model, local_files_only=True, num_labels=len(names), ignore_mismatched_sizes=True
    )
    model.to(options.device)

    def batches(files: Sequence[Path], classes: Sequence[int], order: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for part in order.split(options.batch_size):
            chosen = part.tolist()
            pixels = read_images([files[i] for i in chosen], model.config.image_size, (0.5,) * 3, (0.5,) * 3)
            found.append({"pixel_values": pixels, "labels": torch.tensor([classes[i] for i in chosen])})
        return found

    generator = torch.Generator().manual_seed(options.seed)
    training = batches(paths, labels, torch.randperm(len(paths), generator=generator))
    r: int | str = "full" if options.rank == "full" else int(options.rank)
    model = glue.adapted(model, options.method, r=r, calibration=training[:16], targets=options.targets.split(","), task_type=None)
    for p in model.base_model.model.classifier.parameters():
        p.requires_grad_(True)  # the classes are new, so the head is trained, too
    glue.train(model, training, lr=options.lr, epochs=options.epochs, device=options.device)
    score = glue.accuracy(model, batches(test_paths, test_labels, torch.arange(len(test_paths))), options.device)
    Console().print(f"{options.method}, lr {options.lr:g}: {score:.2f} % of {len(test_paths)} test images, {len(names)} classes")
    return score


if __name__ == "__main__":
    main()
