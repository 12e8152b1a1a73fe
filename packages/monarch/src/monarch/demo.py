"""The demonstration behind ``geocore demo monarch``: transforms that learn, and transforms represented exactly."""

from statistics import fmean
from typing import Any

from geocore.demo import Claim, DemoResult, Figure, Progress, Row
from monarch.experiments import exactness, pde

__all__ = ["demo"]

PAPER = "Dao et al., Monarch: Expressive Structured Matrices for Efficient and Accurate Training, ICML 2022, arXiv 2204.00595"
OURS, RANDOM, LOW, FIXED = pde.MODELS


def demo(*, seed: int = 0, device: str = "cpu", quick: bool = True, progress: Progress | None = None) -> DemoResult:
    """Learn the solution operator of a non-periodic heat equation, and compare structured matrices of equal size on the DCT.

    Args:
        seed: First seed; three are trained in the miniature, five otherwise.
        device: Where to train.
        quick: The miniature (600 steps a model).
        progress: Called with the fraction done and a message.

    Returns:
        Test errors, the checked claims, and a figure.
    """
    seeds = tuple(range(seed, seed + (3 if quick else 5)))
    recipe = pde.MINIATURE if quick else pde.Recipe(steps=10 * pde.MINIATURE.steps)
    outcome = pde.run(seeds=seeds, recipe=recipe, device=device, progress=progress)
    exact = exactness.table()
    mean = {name: fmean(errors) for name, (errors, _) in outcome.items()}
    rows = [
        Row(name, [float(size), mean[name], max(errors)], kind="ours" if name == OURS else "baseline")
        for name, (errors, size) in outcome.items()
    ]
    rows += [
        Row(
            f"{matrix}: {kind}",
            [None, value, None],
            kind="ours" if kind == "Monarch" else "baseline",
            note="best approximation, equal size",
        )
        for matrix, values in exact.items()
        for kind, value in values.items()
    ]
    dct = exact["DCT-II, n = 144"]
    return DemoResult(
        method="monarch",
        title="Monarch matrices",
        claim="A transform that starts as the Fourier transform and learns beats a fixed one where the problem is not periodic.",
        paper=PAPER,
        columns=("parameters", "relative error", "worst seed"),
        rows=rows,
        units="relative L2 error on test states; for the transforms, relative Frobenius error",
        claims=[
            Claim("learned from the FFT: at most 0.1 of the fixed FFT", mean[OURS] <= 0.1 * mean[FIXED], f"{mean[OURS] / mean[FIXED]:.4f}"),
            Claim(
                "learned from the FFT: at most 0.3 of low rank of equal size",
                mean[OURS] <= 0.3 * mean[LOW],
                f"{mean[OURS] / mean[LOW]:.3f}",
            ),
            Claim("the DCT is exact as a Monarch product of rank 2", dct["Monarch"] <= 1e-12, f"{dct['Monarch']:.1e}"),
            Claim("low rank of equal size leaves 90 % of the DCT", dct["low rank"] > 0.9, f"{dct['low rank']:.3f}"),
            Claim("block-diagonal of equal size leaves 80 % of it", dct["block-diagonal"] > 0.8, f"{dct['block-diagonal']:.3f}"),
        ],
        figures=[Figure("Heat equation", lambda: draw(outcome), "Each point is a seed; the scale is logarithmic.")],
        notes=[
            f"Heat equation with a variable coefficient, 64 points, {recipe.train} training states, {recipe.steps} steps.",
            f"Seeds {seeds[0]} to {seeds[-1]}; the error is their mean. All models have the same optimizer and schedule.",
            "Not a claim about trained weights: those are often near low rank, where a plain SVD of equal size is nearer.",
        ],
        config={"seeds": list(seeds), "recipe": vars(recipe)},
    )


def draw(outcome: dict[str, tuple[list[float], int]]) -> Any:
    """Figure of an outcome, a ``matplotlib.figure.Figure`` that no global state holds."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(7.0, 2.6), layout="constrained")
    axes = figure.subplots()
    for i, (name, (errors, _)) in enumerate(outcome.items()):
        axes.plot(errors, [i] * len(errors), "o", color="tab:blue" if name == OURS else "tab:orange")
    axes.set(xscale="log", xlabel="relative L2 error on test states", yticks=range(len(outcome)))
    axes.set_yticklabels(list(outcome))
    axes.invert_yaxis()
    return figure
