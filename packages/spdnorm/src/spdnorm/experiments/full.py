"""The published recipes on the published data, whose folder the user gives.

    python -m spdnorm.experiments.full ssvep --data DIR [--subjects 1 2] [--norm gbw] [--repeats 5] [--device cuda]
    python -m spdnorm.experiments.full hdm05 --data DIR
    python -m spdnorm.experiments.full ntu --data DIR [--protocol view]
    python -m spdnorm.experiments.full motor-imagery --data DIR [--subjects 1 2]

``ssvep``, ``hdm05`` and ``ntu`` follow Wang et al. (CVPR 2025); ``motor-imagery`` trains the TSMNet-like network on the first session of
BNCI
2014-001 and tests on the second one, whose statistics are refitted without labels. A missing folder is an error that says where the data
comes from and how to lay it out.
"""

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor, nn

from spdnorm._metrics import METRICS
from spdnorm._weights import parameter_groups
from spdnorm.batchnorm import GBWBatchNorm, SPDBatchNorm
from spdnorm.domain import DomainSPDBatchNorm
from spdnorm.experiments._train import accuracy
from spdnorm.layers import BiMap, CovPool, LogEig, ReEig
from spdnorm.networks import RResNet, TSMNet

__all__ = ["RECIPES", "Recipe", "SSVEPNet", "main", "run"]

Parts = dict[str, tuple[Tensor, Tensor]]
NORM_NAMES = ("gbw", "none", "brooks", *METRICS)


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        optimizer: ``"sgd"`` (momentum 0.9) or ``"amsgrad"``; both are geoopt's.
        lr, weight_decay, batch, epochs, repeats: As in the paper.
        theta: Power of the batch normalisation.
    """

    optimizer: str
    lr: float
    theta: float
    weight_decay: float = 0.0
    batch: int = 30
    epochs: int = 200
    repeats: int = 5


RECIPES: dict[str, Recipe] = {
    "ssvep": Recipe("sgd", lr=2.5e-3, weight_decay=5e-2, theta=1.0),
    "hdm05": Recipe("amsgrad", lr=2.5e-3, theta=0.5),
    "ntu": Recipe("amsgrad", lr=1e-2, theta=0.5, epochs=100),
    "motor-imagery": Recipe("amsgrad", lr=1e-3, theta=0.5, weight_decay=1e-4, epochs=50, batch=50),
}


def make_norm(name: str, n: int, theta: float) -> nn.Module | None:
    """Batch normalisation by name."""
    if name == "none":
        return None
    if name == "gbw":
        return GBWBatchNorm(n, theta=theta, param="geoopt")
    if name == "brooks":
        return SPDBatchNorm(n, "airm", variance="none", scale=False, param="geoopt")
    return SPDBatchNorm(n, name, param="geoopt")


class SSVEPNet(nn.Module):
    """Convolutions over electrodes and time, covariance, ``BiMap`` 15 to 12, normalisation, ``ReEig``, ``LogEig``, linear.

    Args:
        channels: Electrodes.
        classes: Number of classes.
        norm: Batch normalisation of 12 x 12 matrices.
    """

    def __init__(self, channels: int, classes: int, norm: nn.Module | None) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 125, (channels, 1)), nn.BatchNorm2d(125), nn.Conv2d(125, 15, (1, 36), padding=(0, 18)), nn.BatchNorm2d(15)
        )
        self.spd = nn.Sequential(
            CovPool(ridge=1e-5, dtype=torch.float64),
            BiMap(15, 12, param="geoopt"),
            norm or nn.Identity(),
            ReEig(1e-5),
            LogEig(),
            nn.Flatten(),
            nn.Linear(144, classes, dtype=torch.float64),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of signals ``(N, 1, channels, samples)``."""
        return self.spd(self.features(x).squeeze(-2)).to(x.dtype)


def fit(net: nn.Module, parts: Parts, recipe: Recipe, *, seed: int, device: str, call: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    """Train; with a validation part, return the network of the epoch that is best on it."""
    import geoopt

    net.to(device)
    groups = parameter_groups(net, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        make: Any = geoopt.optim.RiemannianSGD
        optimizer: Any = make(groups, lr=recipe.lr, momentum=0.9)
    else:
        optimizer = geoopt.optim.RiemannianAdam(groups, lr=recipe.lr, amsgrad=True)
    g = torch.Generator().manual_seed(seed)
    x, y = (t.to(device) for t in parts["train"])
    loss = nn.CrossEntropyLoss()
    best, chosen = -1.0, net
    for _ in range(recipe.epochs):
        net.train()
        for index in torch.randperm(len(x), generator=g).split(recipe.batch):
            if len(index) < 2:
                continue
            optimizer.zero_grad()
            loss(call(net, x[index]), y[index]).backward()
            optimizer.step()
        if "valid" in parts:
            score = accuracy(net.eval(), *parts["valid"])
            if score > best:
                best, chosen = score, copy.deepcopy(net)
    return chosen.eval()


def _half_of_each(X: Tensor, y: Tensor, seed: int) -> Parts:
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    half = len(X) // 2
    return {"train": (X[order[:half]], y[order[:half]]), "test": (X[order[half:]], y[order[half:]])}


def _always(parts: Parts) -> Callable[[int], Parts]:
    return lambda seed: parts


def _tasks(name: str, options: argparse.Namespace) -> list[tuple[str, Callable[[int], Parts]]]:
    """Pairs of a label and what gives its data for a seed."""
    if name == "ssvep":
        from spdnorm.integrations.mamem import load_mamem

        return [(f"subject {s}", _always(load_mamem(options.data, s))) for s in options.subjects or range(1, 12)]
    if name == "hdm05":
        from spdnorm.integrations.hdm05 import load_hdm05

        X, y = load_hdm05(options.data, ridge=options.ridge)
        return [("random halves", lambda seed: _half_of_each(X, y, seed))]
    if name == "ntu":
        from spdnorm.integrations.ntu import load_ntu

        X, y, train = load_ntu(options.data, protocol=options.protocol)
        return [(f"cross-{options.protocol}", lambda seed: {"train": (X[train], y[train]), "test": (X[~train], y[~train])})]
    from spdnorm.integrations.moabb import load_bnci2014_001

    def sessions(subject: int) -> Parts:
        return {part: load_bnci2014_001(options.data, subject, session) for part, session in (("train", "T"), ("test", "E"))}

    return [(f"subject {s}", _always(sessions(s))) for s in options.subjects or range(1, 10)]


def run(name: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Test accuracies by task, one per repeat.

    Raises:
        FileNotFoundError: If the data is missing.
        ImportError: If geoopt or SciPy is missing.
    """
    recipe = RECIPES[name]
    changed = {key: getattr(options, key) for key in ("epochs", "repeats", "batch", "lr") if getattr(options, key) is not None}
    recipe = replace(recipe, **changed)
    out: dict[str, list[float]] = {}
    for label, data in _tasks(name, options):
        out[label] = []
        for seed in range(recipe.repeats):
            torch.manual_seed(seed)
            parts = data(seed)
            x, _ = parts["train"]
            classes = int(max(int(labels.max()) for _, labels in parts.values())) + 1
            plain = lambda net, batch: net(batch)  # noqa: E731
            if name == "motor-imagery":
                out[label].append(_adapt(parts, classes, recipe, seed, options))
                continue
            if name == "ssvep":
                net: nn.Module = SSVEPNet(x.shape[-2], classes, make_norm(options.norm, 12, recipe.theta))
            else:
                net = RResNet(
                    [x.shape[-1], 30],
                    lambda n: make_norm(options.norm, n, recipe.theta) or nn.Identity(),
                    classes,
                    threshold=1e-6,
                    param="geoopt",
                )
            trained = fit(net, parts, recipe, seed=seed, device=options.device, call=plain)
            out[label].append(accuracy(trained, *parts["test"]))
    return out


def _adapt(parts: Parts, classes: int, recipe: Recipe, seed: int, options: argparse.Namespace) -> float:
    """Train on one session, refit the statistics to the other one without its labels, and test there."""
    x, _ = parts["train"]
    kind = "airm" if options.norm in ("none", "brooks") else options.norm
    bn_options = {"theta": recipe.theta} if kind == "gbw" else {}
    net = TSMNet(x.shape[-2], classes, bn=kind, domains=["T"], bn_options=bn_options, param="geoopt")
    trained = fit(net, parts, recipe, seed=seed, device=options.device, call=lambda net, batch: net(batch, "T"))
    norm = trained.get_submodule("norm")
    assert isinstance(norm, DomainSPDBatchNorm)
    norm.add_domain("E")
    norm.test_stats_mode = "refit"
    x, y = (t.to(options.device) for t in parts["test"])
    with torch.no_grad():
        return float((trained(x, "E").argmax(-1) == y).double().mean())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; prints the table and returns 0."""
    parser = argparse.ArgumentParser(description="Published recipes on published data.")
    parser.add_argument("recipe", choices=list(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder of the data; an error says how to lay it out")
    parser.add_argument("--norm", default="gbw", choices=NORM_NAMES)
    parser.add_argument("--subjects", type=int, nargs="+", help="ssvep, motor-imagery: all by default")
    parser.add_argument("--protocol", default="subject", choices=("subject", "view"), help="ntu")
    parser.add_argument("--ridge", type=float, default=0.0, help="hdm05: multiple of the identity to add")
    parser.add_argument("--epochs", type=int, help="overrides the recipe; so do the next three")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(argv)
    outcome = run(options.recipe, options)
    for label, values in outcome.items():
        print(f"{label:16}{100 * fmean(values):8.2f} +- {100 * pstdev(values):.2f} % of {len(values)} repeats")  # noqa: T201
    if options.json:
        options.json.write_text(
            json.dumps({"recipe": options.recipe, "norm": options.norm, "accuracy": outcome}, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
