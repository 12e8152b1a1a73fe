"""Give a vision transformer of timm or transformers (whichever is installed) ComRoPE and run it at sizes it was not built for."""

import torch

from comrope import patch_vit, rope_equation_error


def small_vit() -> torch.nn.Module | None:
    try:
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(img_size=64, patch_size=8, embed_dim=64, depth=3, num_heads=2, num_classes=10)
    except (ImportError, RuntimeError):  # a torchvision that does not fit torch fails with RuntimeError
        pass
    try:
        from transformers import ViTConfig, ViTForImageClassification

        sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128, "num_labels": 10}
        return ViTForImageClassification(ViTConfig(**sizes | {"image_size": 64, "patch_size": 8}))
    except (ImportError, RuntimeError):
        return None


def main() -> None:
    torch.manual_seed(0)
    model = small_vit()
    if model is None:
        print("this example needs timm or transformers: pip install 'comrope[timm]' or 'comrope[transformers]'")
        return
    model.eval()
    ropes = patch_vit(model, variant="ld", ape="remove")
    print(f"{type(model).__name__}: {len(ropes)} attention layers, {sum(p.numel() for r in ropes for p in r.parameters())} new parameters")
    with torch.no_grad():
        for size in ((64, 64), (96, 64), (32, 128)):
            out = model(torch.randn(1, 3, *size))
            logits = out if isinstance(out, torch.Tensor) else out.logits
            print(f"{size[0]} x {size[1]} px -> logits {tuple(logits.shape)}")
    print(f"violation of the RoPE equation: {rope_equation_error(ropes[0], torch.rand(16, 2), 1.0):.1e}")


if __name__ == "__main__":
    main()
