"""The demonstration behind ``geocore demo comrope``: resolution and shift on scikit-learn's digits."""

from typing import Any

from comrope.experiments import digits
from comrope.experiments.imagenet import PAPER as PAPER_TOP1
from geocore.demo import Claim, DemoResult, Figure, Progress, Row

__all__ = ["demo"]

PAPER = (
    "ComRoPE: Scalable and Robust Rotary Position Embedding Parameterized by Trainable Commuting Angle Matrices, "
    "CVPR 2025, arXiv 2506.03737"
)


def demo(*, seed: int = 0, device: str = "cpu", quick: bool = True, progress: Progress | None = None) -> DemoResult:
    """Train small vision transformers that differ in their position encoding only, and test them where position matters.

    Args:
        seed: First seed.
        device: Where to train.
        quick: One seed and the rows of the claims (about a minute on two cores); otherwise three seeds and all rows.
        progress: Called with the fraction done and a message.

    Returns:
        Accuracies at three resolutions and four shifts, the checked claims, and what an honest reader should make of them.

    Raises:
        ImportError: If scikit-learn is missing.
    """
    seeds = (seed,) if quick else (seed, seed + 1, seed + 2)
    methods = digits.QUICK if quick else tuple(digits.METHODS)
    outcome = digits.run(seeds=seeds, methods=methods, device=device, progress=progress)
    rows = [
        Row(
            digits.METHODS[name].label + (" (ours)" if digits.METHODS[name].kind == "ours" else ""),
            [outcome.accuracy[name][column] for column in digits.COLUMNS],
            kind=digits.METHODS[name].kind,
        )
        for name in sorted(methods, key=lambda name: digits.METHODS[name].kind != "ours")
    ]
    rows += [
        Row(
            f"{label}, ImageNet-1K",
            [None] * len(digits.COLUMNS),
            kind="paper",
            note=f"224 / 384 / 512 px: {' / '.join(map(str, PAPER_TOP1[key]))}",
        )
        for key, label in (("ld", "ComRoPE-LD"), ("ap", "ComRoPE-AP"), ("liere", "LieRE"), ("axial", "RoPE"), ("ape", "learned APE"))
    ]
    return DemoResult(
        method="comrope",
        title="ComRoPE",
        claim="Rotary embedding with learned commuting rotations carries over to other resolutions and ignores a common shift exactly.",
        paper=PAPER,
        columns=list(digits.COLUMNS),
        rows=rows,
        units="% accuracy",
        claims=[Claim(claim.text, met=claim.met, measured=claim.measured) for claim in digits.check_claims(outcome)],
        figures=[Figure("Other resolutions and shifts", lambda: draw(outcome), "Trained at 8 px; a shift moves all positions alike.")],
        notes=digits.reading(outcome),
        config=outcome.config | {"cpu_seconds": {name: round(s, 1) for name, s in outcome.seconds.items()}},
    )


def draw(outcome: digits.Outcome) -> Any:
    """Figure of an outcome, a ``matplotlib.figure.Figure`` that no global state holds."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, row in outcome.accuracy.items():
        method = digits.METHODS[name]
        style: dict[str, Any] = (
            {"linewidth": 2.4, "marker": "o"} if method.kind == "ours" else {"linewidth": 1.0, "marker": ".", "linestyle": "--"}
        )
        left.plot([8, 12, 16], [row[c] for c in digits.COLUMNS[:3]], label=method.label, **style)
        right.plot([0.0, *digits.SHIFTS], [row["8px"], *(row[f"shift {s:g}"] for s in digits.SHIFTS)], **style)
    left.set(xlabel="test resolution, px", ylabel="accuracy, %", xticks=[8, 12, 16], title="resolution")
    right.set(xlabel="shift of all positions, image widths", title="shift")
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
