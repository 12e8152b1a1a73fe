"""Train for a moment and write an animation of a test scene, ``eqmotion.gif`` or the file given as argument.

``--full`` trains as long as the demonstration.
"""

import sys

import torch

from eqmotion import EqMotion
from eqmotion.experiments.miniature import scenes, train
from eqmotion.integrations.plotting import animate

arguments = [a for a in sys.argv[1:] if a != "--full"]
steps = 1500 if "--full" in sys.argv else 30

torch.manual_seed(0)
data, test = scenes("springs", 200, 0), scenes("springs", 4, 1)
model = EqMotion(20, 20, channels=16, hidden_dim=16, n_layers=2)
train(model, data, steps=steps, batch=50, learning_rate=3e-3, seed=0, progress=None)
with torch.no_grad():
    pred = model(test.x).pred
file = animate(test.x[0], test.y[0], pred[0], arguments[0] if arguments else "eqmotion.gif", title="springs")
print(f"{file}: {file.stat().st_size / 1e3:.0f} kB, error {(pred[0] - test.y[0]).norm(dim=-1).mean().item():.3f}")
