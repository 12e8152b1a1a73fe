"""Train a small model with Monarch layers, then go on dense: the function does not change at the switch."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from monarch import ReverseSparsification, convert_model

torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
train, test = slice(0, 1400), slice(1400, None)
model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10))
print(convert_model(model, include=r"^[02]$", project=False))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
schedule = ReverseSparsification(model, optimizer, switch_step=240)
for i in range(300):
    if schedule.step(i):
        print(f"step {i}: dense from here on")
    loss = nn.functional.cross_entropy(model(x[train]), y[train])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"test accuracy {(model(x[test]).argmax(-1) == y[test]).float().mean():.3f}")
