"""The model in ten lines: predict particles on springs, turn the scene, and look at the inferred graph."""

import torch

from eqmotion import EqMotion, ade, equivariance_report, simulate_particles

torch.manual_seed(0)
x, edges, _ = simulate_particles("springs", n_sims=64, steps=8200)
past, future = x[:, :, :20].float(), x[:, :, 20:40].float()

model = EqMotion(20, 20, channels=16, hidden_dim=16, n_layers=2)
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
for step in range(40):
    loss = (model(past).pred - future).norm(dim=-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}: {loss.item():.3f}")

model.eval()
with torch.no_grad():
    out = model(past)
print(f"ADE {ade(out.pred, future).item():.3f}")
print(f"categories of the first scene {tuple(out.categories[0].shape)}, springs {edges[0].sum().item() // 2}")
print(equivariance_report(model, past[:4]))
