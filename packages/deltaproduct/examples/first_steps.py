"""The layer, its state, and decoding token by token."""

import torch

from deltaproduct import DeltaProduct

layer = DeltaProduct(64, num_heads=4, head_dim=16, num_householder=2)
x = torch.randn(2, 100, 64)
y, _ = layer(x)
print(layer)
print("mixed", tuple(y.shape))

cache = None
with torch.no_grad():
    for t in range(100):
        step, cache = layer(x[:, t : t + 1], cache=cache, use_cache=True)
print("after 100 steps", cache, "state", tuple(cache[0].recurrent_state.shape))
print("last token, parallel against step by step:", float((step[:, 0] - y[:, -1]).detach().abs().max()))
