"""Every public module class of every package against one contract; a class that is not listed here fails."""

import importlib
from types import ModuleType

import pytest
import torch
from conftest import HOMES
from torch import nn

from geocore.testing import check_module


def comrope_cases():
    import comrope

    q, k = torch.randn(2, 3, 2, 10, 16, generator=torch.Generator().manual_seed(0))
    positions = torch.rand(10, 2, generator=torch.Generator().manual_seed(1))
    folded = comrope.ComRoPE(16, 2, 2, block_size=4)
    yield "ComRoPE", lambda: comrope.ComRoPE(16, 2, 2, block_size=4), (q, k, positions), {}
    yield "ComRoPE-ap", lambda: comrope.ComRoPE(16, 2, 2, block_size=4, variant="ap"), (q, k, positions), {}
    yield "ComRoPE-full", lambda: comrope.ComRoPE(16, 2, 2, block_size=4, variant="full"), (q, k, positions), {}
    yield "AxialRoPE", lambda: comrope.AxialRoPE(16, 2, 2), (q, k, positions), {"train": False}
    yield "MixedRoPE", lambda: comrope.MixedRoPE(16, 2, 2), (q, k, positions), {}
    yield "LieRE", lambda: comrope.LieRE(16, 2, 2, block_size=4), (q, k, positions), {}
    yield "LearnedAPE", lambda: comrope.LearnedAPE(16, (4, 4)), (q, k, positions), {"train": False}  # acts through embed
    yield "RotaryTable", lambda: _table(folded), (positions,), {"train": False}


def _table(rope):
    width = rope.num_heads * rope.head_dim
    return rope.fold_into_(nn.Linear(width, width), nn.Linear(width, width))


def geocore_cases():
    from geocore.orthogonal import Orthogonal

    raw = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    for kind in ("exp", "cayley", "householder", "polar"):
        yield f"Orthogonal-{kind}", lambda kind=kind: Orthogonal(4, 4, map=kind, init="identity"), (raw,), {"train": False}


def rotrep_cases():
    import rotrep

    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    yield "RotationHead", lambda: rotrep.RotationHead(5, "6d", hidden=(4,), init="default"), (x,), {}
    yield "RotationHead-9d", lambda: rotrep.RotationHead(5, "9d", init="default"), (x,), {}
    yield "SimilarityHead", lambda: rotrep.SimilarityHead(5, init="default"), (x,), {}


CASES = {"comrope": comrope_cases, "geocore": geocore_cases, "rotrep": rotrep_cases}


def public_modules():
    for dist in HOMES:
        name = dist.replace("-", "_")
        package = importlib.import_module(name)
        for public in package.__all__:
            value = getattr(package, public)
            members = {n: getattr(value, n) for n in value.__all__} if isinstance(value, ModuleType) else {public: value}
            for label, member in members.items():
                if isinstance(member, type) and issubclass(member, nn.Module):
                    yield name, label


def test_every_public_module_class_is_covered():
    covered = {(package, label.split("-")[0]) for package, cases in CASES.items() for label, *_ in cases()}
    assert sorted(set(public_modules()) - covered) == []
    assert covered, "nothing to check"


@pytest.mark.parametrize(
    ("make", "inputs", "options"), [pytest.param(*case[1:], id=f"{p}-{case[0]}") for p, cases in CASES.items() for case in cases()]
)
def test_module_contract(make, inputs, options):
    check_module(make, *inputs, **options)
