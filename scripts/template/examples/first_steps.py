"""The method in ten lines."""

import torch

from methodname import PairRotation

layer = PairRotation(8)
x = torch.randn(3, 8)
y = layer(x)
print(layer)
print("norms before", x.norm(dim=-1).tolist())
print("norms after ", y.norm(dim=-1).tolist())
