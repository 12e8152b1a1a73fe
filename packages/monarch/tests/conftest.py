"""Shared fixtures."""

import os
import sys
from importlib.util import find_spec

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
_LIBRARIES: list[torch.library.Library] = []


@pytest.fixture(scope="session", autouse=True)
def vision_libraries() -> None:
    """Make timm and transformers importable next to a CPU build of torch.

    They import torchvision, whose wheel on the package index is built for CUDA: its compiled operators do not load here, and its
    Python part stops where it describes the result of two of them. Declaring those two, which no model here calls, lets it go on.
    """
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)  # forgotten with the object
