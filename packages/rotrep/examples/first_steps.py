"""A network head that outputs rotations, in ten lines."""

import torch

from rotrep import RotationHead, losses, metrics, sampling

head = RotationHead(9, "6d", hidden=(64,))
optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
generator = torch.Generator().manual_seed(0)
for _ in range(300):
    R = sampling.haar(3, 64, generator)
    loss = losses.matrix_mse(head(R.flatten(-2)).matrix, R)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
R = sampling.haar(3, 1000, generator)
print(head)
print(metrics.rotation_error_deg(head(R.flatten(-2)).matrix, R))
