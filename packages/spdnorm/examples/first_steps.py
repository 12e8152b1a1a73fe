"""A small network on ill-conditioned covariances, with a plain optimizer."""

import torch

from spdnorm import SPDNet, parameter_groups

g = torch.Generator().manual_seed(0)
mixing = torch.randn(2, 10, 3, generator=g)  # two classes of signals in ten channels


def covariances(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Low-rank structure by class, under noise whose level differs by decades between channels."""
    y = torch.arange(count) % 2
    level = 10 ** (3 * torch.rand(count, 10, 1, generator=g) - 4)
    own = mixing[y] + 0.8 * torch.randn(count, 10, 3, generator=g)
    x = own @ torch.randn(count, 3, 50, generator=g) + level * torch.randn(count, 10, 50, generator=g)
    C = x @ x.mT / 50
    return C / C.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + 1e-7 * torch.eye(10), y


torch.manual_seed(0)
(x, y), (x_test, y_test) = covariances(120), covariances(120)
net = SPDNet([10, 6], bn="gbw", n_classes=2, bn_options={"theta": 0.5}, threshold=1e-7)
optimizer = torch.optim.Adam(parameter_groups(net, weight_decay=1e-3), lr=1e-2)
for _ in range(10):
    for index in torch.randperm(120).split(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[index]), y[index]).backward()
        optimizer.step()
net.eval()
print("held-out accuracy", float((net(x_test).argmax(-1) == y_test).double().mean()))
print(net.blocks[0][1].diagnostics())
