"""Statistics per domain: a classifier of signals meets a subject it has not seen, without labels."""

import torch

from spdnorm import TSMNet

g = torch.Generator().manual_seed(0)


def subject(gain: float, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that differ in the power of a rhythm; every subject has an amplifier and a mixing of its own."""
    y = torch.arange(count) % 2
    t = torch.arange(120) / 60.0
    phase = 6.28 * torch.rand(count, 1, generator=g)
    rhythm = (0.5 + y[:, None]) * torch.sin(2 * torch.pi * 10 * t + phase)
    mixing = torch.randn(6, 6, generator=g) * 0.3 + torch.eye(6)
    sources = torch.randn(count, 6, 120, generator=g)
    sources[:, 0] += 2 * rhythm
    return gain * mixing @ sources, y


torch.manual_seed(0)
known = {name: subject(gain) for name, gain in (("A", 1.0), ("B", 3.0), ("C", 0.3))}
x_new, y_new = subject(10.0)
net = TSMNet(6, 2, kernel=15, spatial=8, subspace=4, domains=known)
optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
for _ in range(25):
    optimizer.zero_grad()
    loss = sum(torch.nn.functional.cross_entropy(net(x, name), y) for name, (x, y) in known.items())
    loss.backward()
    optimizer.step()
net.eval()
borrowed = (net(x_new, "A").argmax(-1) == y_new).double().mean()
net.norm.add_domain("new")
net.norm.test_stats_mode = "refit"
adapted = (net(x_new, "new").argmax(-1) == y_new).double().mean()
print(f"statistics of another subject {float(borrowed):.2f}, of the new subject itself (no labels) {float(adapted):.2f}")
