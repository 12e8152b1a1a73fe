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


def deltaproduct_cases():
    import deltaproduct

    x = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0))
    small = {"num_heads": 2, "head_dim": 4}
    yield "DeltaProduct", lambda: deltaproduct.DeltaProduct(12, **small), (x,), {}
    gated = {"use_forget_gate": True, "use_output_gate": True, "num_v_heads": 4, "num_householder": 3}
    yield "DeltaProduct-gated", lambda: deltaproduct.DeltaProduct(12, **small, **gated), (x,), {}


def eqmotion_cases():
    import eqmotion

    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 2, generator=g)
    G, h = torch.randn(2, 4, 5, 2, generator=g), torch.randn(2, 4, 7, generator=g)
    small = {"channels": 5, "hidden_dim": 6, "n_layers": 2}
    yield "EqMotion", lambda: eqmotion.EqMotion(6, 3, **small), (x,), {}
    modes = {"n_modes": 2, "mode_scores": True, "agent_tokens": 4, "category_mode": "per_layer", "n_categories": 3, "n_null_categories": 1}
    yield "EqMotion-modes", lambda: eqmotion.EqMotion(6, 3, **small, **modes), (x,), {}
    yield "EqMotion-chiral", lambda: eqmotion.EqMotion(6, 3, **small, group="SO"), (x,), {}
    yield "EquivariantLinear", lambda: eqmotion.EquivariantLinear(5, 3), (G,), {}
    yield "VectorReLU", lambda: eqmotion.VectorReLU(5), (G,), {}
    yield "InnerAgentAttention", lambda: eqmotion.InnerAgentAttention(7, 5), (G, h), {}
    categories = torch.full((2, 4, 4, 2), 0.5)
    yield "InterAgentAggregation", lambda: eqmotion.InterAgentAggregation(5, 7), (G, h, categories), {}
    yield "InteractionReasoner", lambda: eqmotion.InteractionReasoner(5, 7), (G, h), {}
    yield "TimeDCT", lambda: eqmotion.TimeDCT(6), (x,), {"train": False}


def frameavg_cases():
    import frameavg

    g = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 4, 6, 3, generator=g)
    A = torch.bernoulli(torch.full((4, 6, 6), 0.5), generator=g).triu(1)
    backbone = lambda: nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.Tanh(), nn.Linear(8, 2))  # noqa: E731
    frame = frameavg.PCAFrame(3, "SE", degenerate="ignore")
    yield "FrameAveraging", lambda: frameavg.FrameAveraging(backbone(), frame), (x,), {}
    weighted = frameavg.WeightedFrame(3, "SE")
    yield "FrameAveraging-weighted", lambda: frameavg.FrameAveraging(backbone(), weighted, chunk=7), (x,), {}
    yield "FAGNN", lambda: frameavg.FAGNN(6, 2, degenerate="ignore"), (x, v, torch.ones(4, 6, 6, 1)), {}
    small = {"widths": (4, 8), "head": (6,)}
    yield "FAPointNet", lambda: frameavg.FAPointNet(**small), (x,), {}
    yield "FAPointNet-local", lambda: frameavg.FAPointNet(True, neighbours=4, channels=2, **small), (x,), {}
    listed = {"compile": False}  # frames of graphs are listed on the CPU
    yield "FAGraphMLP", lambda: frameavg.FAGraphMLP(6, hidden=8), (A + A.mT,), listed
    yield "FAGIN", lambda: frameavg.FAGIN(6, hidden=8), (A + A.mT,), listed


def monarch_cases():
    import monarch

    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    yield "MonarchLinear", lambda: monarch.MonarchLinear(12, 20, nblocks=3), (x,), {}
    yield "MonarchLinear-padded", lambda: monarch.MonarchLinear(12, 7, nblocks=5), (x,), {}
    yield "BlockDiagLinear", lambda: monarch.BlockDiagLinear(12, 8, nblocks=3), (x,), {}
    yield "MonarchTransform", lambda: monarch.MonarchTransform("dct2", 12, True), (x,), {}
    yield "MonarchConv1d", lambda: monarch.MonarchConv1d(12), (x,), {}
    yield "MonarchOrderP", lambda: monarch.MonarchOrderP((3, 2, 2), True), (x,), {}
    pair = lambda: monarch.MonarchChain([monarch.MonarchLinear(12, 12, False) for _ in range(2)])  # noqa: E731
    yield "MonarchChain", pair, (x,), {}
    yield "MonarchAdapter", lambda: monarch.MonarchAdapter(nn.Linear(12, 8), dropout=0.0), (x,), {}


def geocore_cases():
    from geocore import spd
    from geocore.orthogonal import Orthogonal

    raw = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    for kind in ("exp", "cayley", "householder", "polar"):
        yield f"Orthogonal-{kind}", lambda kind=kind: Orthogonal(4, 4, map=kind, init="identity"), (raw,), {"train": False}
    yield "SPDParameter", lambda: spd.SPDParameter(3), (), {}


def obbkit_cases():
    from obbkit import coders, models

    g = torch.Generator().manual_seed(0)
    image, maps = torch.randn(2, 3, 16, 16, generator=g), [torch.randn(2, c, k, k, generator=g) for c, k in ((8, 8), (12, 4))]
    yield "TinyBackbone", lambda: models.TinyBackbone(3, (8, 8), levels=2), (image,), {}
    yield "FPN", lambda: models.FPN((8, 12), 8, extra=1), (maps,), {}
    head = lambda: models.RotatedFCOSHead(8, 2, (4,), coders.PSCCoder(), feat_channels=8, stacked_convs=1)  # noqa: E731
    yield "RotatedFCOSHead", head, (maps[:1],), {}


def ucr_rsar_cases():
    import ucr_rsar

    g = torch.Generator().manual_seed(0)
    code, maps = torch.randn(5, 3, generator=g), [torch.randn(2, 8, 6, 6, generator=g)]
    yield "UnitCircleLoss", lambda: ucr_rsar.UnitCircleLoss(ucr_rsar.UCRCoder(3)), (code,), {"train": False}
    head = lambda: ucr_rsar.H2RBoxHead(8, 2, (4,), ucr_rsar.UCRCoder(3), feat_channels=8, stacked_convs=1)  # noqa: E731
    yield "H2RBoxHead", head, (maps,), {}
    found = {"train": False, "compile": False}  # detections are lists of what there is
    yield "WeakOrientedDetector", lambda: ucr_rsar.build_tiny_detector(2), (torch.randn(1, 1, 32, 32, generator=g),), found


def rotrep_cases():
    import rotrep

    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    yield "RotationHead", lambda: rotrep.RotationHead(5, "6d", hidden=(4,), init="default"), (x,), {}
    yield "RotationHead-9d", lambda: rotrep.RotationHead(5, "9d", init="default"), (x,), {}
    yield "SimilarityHead", lambda: rotrep.SimilarityHead(5, init="default"), (x,), {}


def spdnorm_cases():
    import spdnorm

    A = torch.randn(6, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    X = A @ A.mT / 12
    signals = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(1))
    domains = torch.tensor([0, 1, 0, 1, 0, 1])
    yield "GBWBatchNorm", lambda: spdnorm.GBWBatchNorm(4, theta=0.5), (X,), {}
    for metric in ("airm", "lem", "lcm", "pem", "bw"):
        yield f"SPDBatchNorm-{metric}", lambda metric=metric: spdnorm.SPDBatchNorm(4, metric), (X,), {}
    yield "DomainSPDBatchNorm", lambda: spdnorm.DomainSPDBatchNorm(4, domains=[0, 1]), (X, domains), {"compile": False}  # reads the domains
    yield "BiMap", lambda: spdnorm.BiMap(4, 3), (X,), {}
    yield "ReEig", lambda: spdnorm.ReEig(), (X,), {"train": False}
    yield "LogEig", lambda: spdnorm.LogEig(), (X,), {"train": False}
    yield "ExpEig", lambda: spdnorm.ExpEig(), (X,), {"train": False}
    yield "Vech", lambda: spdnorm.Vech(), (X,), {"train": False}
    yield "CovPool", lambda: spdnorm.CovPool(), (signals,), {"train": False}
    for metric in ("lem", "airm", "pem", "lcm", "bw"):
        yield f"SPDMLR-{metric}", lambda metric=metric: spdnorm.SPDMLR(4, 3, metric=metric), (X,), {}
    yield "SPDNet", lambda: spdnorm.SPDNet([4, 3], bn="gbw", n_classes=2), (X,), {}
    yield "RResNet", lambda: spdnorm.RResNet([4, 3], bn="gbw", n_classes=2), (X,), {}
    yield "TSMNet", lambda: spdnorm.TSMNet(4, 2, temporal=2, kernel=5, spatial=5, subspace=3, bn="lem"), (signals,), {}
    yield "SpectralResidual", lambda: spdnorm.SpectralResidual(4), (X,), {}


CASES = {
    "comrope": comrope_cases,
    "deltaproduct": deltaproduct_cases,
    "eqmotion": eqmotion_cases,
    "frameavg": frameavg_cases,
    "geocore": geocore_cases,
    "monarch": monarch_cases,
    "obbkit": obbkit_cases,
    "rotrep": rotrep_cases,
    "spdnorm": spdnorm_cases,
    "ucr_rsar": ucr_rsar_cases,
}
ELSEWHERE = {
    ("deltaproduct", "DeltaProductModel"): "a model of transformers: packages/deltaproduct/tests",
    ("deltaproduct", "DeltaProductForCausalLM"): "a model of transformers: packages/deltaproduct/tests",
    **{
        ("obbkit", name): "encodes and decodes, no forward: shared/obbkit/tests"
        for name in ("ACMCoder", "CSLCoder", "DirectCoder", "PSCCoder")
    },
    ("ucr_rsar", "UCRCoder"): "encodes and decodes, no forward: packages/ucr-rsar/tests",
    ("peft_loldu_corda", "LolduLayer"): "a layer that peft makes: packages/peft-loldu-corda/tests",
    ("peft_loldu_corda", "LolduModel"): "a tuner that peft makes: packages/peft-loldu-corda/tests",
    ("peft_loldu_corda", "CordaModel"): "a tuner that peft makes: packages/peft-loldu-corda/tests",
}


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
    assert sorted(set(public_modules()) - covered - set(ELSEWHERE)) == []
    assert all(ELSEWHERE.values())
    assert covered, "nothing to check"


@pytest.mark.parametrize(
    ("make", "inputs", "options"), [pytest.param(*case[1:], id=f"{p}-{case[0]}") for p, cases in CASES.items() for case in cases()]
)
def test_module_contract(make, inputs, options):
    check_module(make, *inputs, **options)
