"""Coders and the evaluator in the registries of mmengine, where mmrotate 1.x and other descendants find them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from obbkit.coders import ACMCoder, CSLCoder, DirectCoder, PSCCoder
from obbkit.metrics import COCO_THRESHOLDS, RotatedMAP

try:
    from mmengine.evaluator import BaseMetric
    from mmengine.registry import METRICS, TASK_UTILS, Registry
except ImportError as error:
    raise ImportError("obbkit.integrations.mmengine needs mmengine: pip install 'obbkit[mmengine]'") from error

__all__ = ["OBBMetric", "add", "register"]


class OBBMetric(BaseMetric):
    """``RotatedMAP`` as a metric of mmengine, for the samples of mmrotate 1.x.

    A sample has ``pred_instances`` and ``gt_instances`` with ``bboxes (n, 5)`` and ``labels``, the former also ``scores``; objects of
    ``ignored_instances`` do not count. Boxes may be tensors or have one as ``tensor``.

    Args:
        num_classes, iou_thrs, eval_mode: As ``RotatedMAP``.
        collect_device, prefix: As every metric of mmengine.
    """

    default_prefix = "obb"

    def __init__(
        self,
        num_classes: int,
        iou_thrs: Sequence[float] = COCO_THRESHOLDS,
        eval_mode: str = "11points",
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.metric = RotatedMAP(iou_thrs, eval_mode, num_classes)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the boxes of a batch on the CPU."""
        for sample in data_samples:
            pred, real = sample["pred_instances"], sample["gt_instances"]
            hard = sample.get("ignored_instances", {})
            kept, dropped = _boxes(real), _boxes(hard)
            found = {"boxes": _boxes(pred), "scores": _cpu(pred["scores"]), "labels": _cpu(pred["labels"])}
            target = {
                "boxes": torch.cat([kept, dropped]),
                "labels": torch.cat([_cpu(real["labels"]), _cpu(hard["labels"]) if len(dropped) else torch.zeros(0, dtype=torch.int64)]),
                "ignore": torch.arange(len(kept) + len(dropped)) >= len(kept),
            }
            self.results.append((found, target))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """``mAP``, ``AP50`` and ``AP75`` of all samples of all processes."""
        self.metric.reset()
        self.metric.update([found for found, _ in results], [target for _, target in results])
        values = self.metric.compute()
        return {name: values[name] for name in ("mAP", "AP50", "AP75")}


def _cpu(x: Any) -> Tensor:
    return torch.as_tensor(getattr(x, "tensor", x)).detach().cpu()


def _boxes(instances: Mapping[str, Any]) -> Tensor:
    return _cpu(instances["bboxes"]).reshape(-1, 5) if "bboxes" in instances else torch.zeros(0, 5)


def add(registry: Registry, name: str, module: Any) -> None:
    """Put a class in a registry. Doing so again changes nothing.

    Raises:
        ValueError: If another has that name there.
    """
    have = registry.module_dict.get(name)
    if have is not None and have is not module:
        raise ValueError(f"name must be new in {registry.name}, but {name!r} is {have}")
    if have is None:
        registry.register_module(name=name, module=module)


def register(prefix: str = "") -> list[str]:
    """Put ``PSCCoder``, ``ACMCoder``, ``CSLCoder``, ``DirectCoder`` and ``OBBMetric`` in mmengine's root registries.

    A child registry asks its own entries first: where mmrotate is imported, its ``PSCCoder`` and ``CSLCoder`` win. A prefix tells them
    apart.

    Args:
        prefix: Put before each name, as in ``"Obb"`` for ``ObbPSCCoder``.

    Returns:
        The names.

    Raises:
        ValueError: If another class has such a name.

    Example:
        >>> from mmengine.registry import TASK_UTILS
        >>> _ = register()
        >>> TASK_UTILS.build(dict(type="ACMCoder")).encode_size
        2
    """
    names = []
    for registry, module in ((TASK_UTILS, PSCCoder), (TASK_UTILS, ACMCoder), (TASK_UTILS, CSLCoder), (TASK_UTILS, DirectCoder)):
        names.append(prefix + module.__name__)
        add(registry, names[-1], module)
    names.append(prefix + OBBMetric.__name__)
    add(METRICS, names[-1], OBBMetric)
    return names
