"""Backbones of timm as the published trainings use them: first stage frozen, batch statistics fixed."""

from typing import Any

from torch import Tensor, nn

__all__ = ["FrozenStart", "timm_backbone"]


class FrozenStart(nn.Module):
    """A feature extractor whose first layers get no gradient and whose batch norms keep their statistics.

    Args:
        body: Module that returns maps, with ``feature_info`` of timm.
        frozen: Prefixes of the names of parameters that stay as they are.
    """

    def __init__(self, body: Any, frozen: tuple[str, ...]) -> None:
        super().__init__()
        self.body = body
        self.out_channels, self.strides = list(body.feature_info.channels()), list(body.feature_info.reduction())
        for name, parameter in body.named_parameters():
            if name.startswith(frozen):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenStart":
        """As always, but batch norms stay in evaluation."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of strides 8, 16 and 32; grey images are repeated."""
        return list(self.body(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x))


def timm_backbone(name: str = "resnet50", *, pretrained: bool = False, frozen: tuple[str, ...] = ("conv1", "bn1", "layer1")) -> FrozenStart:
    """Maps of strides 8, 16 and 32 of a model of timm.

    Args:
        name: Name of the model.
        pretrained: Whether timm fetches its weights.
        frozen: Prefixes of the parameters that stay as they are; the stem and first stage of a residual network.

    Raises:
        ValueError: If the model has no such maps.
        ImportError: If timm is missing.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError("backbones other than 'tiny' need timm: pip install 'ucr-rsar[timm]'") from error
    body: Any = timm.create_model(name, pretrained=pretrained, features_only=True)
    found = [k for k, stride in enumerate(body.feature_info.reduction()) if stride in (8, 16, 32)]
    if len(found) != 3:
        raise ValueError(f"name must be a model with maps of strides 8, 16 and 32, got {name!r} with {body.feature_info.reduction()}")
    return FrozenStart(timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=tuple(found)), frozen)
