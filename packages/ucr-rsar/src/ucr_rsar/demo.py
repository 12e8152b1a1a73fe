"""The paper's claims in miniature: oriented boxes from horizontal ones, and codes that stay on the circle."""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from geocore.demo import Claim, DemoResult, Figure, Progress, Row
from ucr_rsar.experiments import scenes, single

__all__ = ["demo"]

PAPER = "RSAR: Restricted State Angle Resolver and Rotated SAR Benchmark, CVPR 2025, arXiv 2501.04440"
COLUMNS = ("mean IoU", "IoU > .5", "IoU > .75", "angle error", "angle error, int8", "median A^2", "|sum x|")
PLAIN, PSC, OURS = "horizontal box as it is", "PSC m=3", "UCR m=3, w .05"
Found = Mapping[str, Sequence[Mapping[str, float | None]]]


def _mean(found: Found, name: str, column: str) -> float:
    return fmean(float("nan") if (value := run[column]) is None else value for run in found[name])


def demo(*, seed: int = 0, device: str = "cpu", quick: bool = True, progress: Progress | None = None) -> DemoResult:
    """Learn oriented boxes of single ships from horizontal ones with each coder, then detect ships over photographs.

    Args:
        seed: First seed.
        device: Where to train.
        quick: Three seeds for the two coders that are compared and one for the others; a short training of the detector.
        progress: Called with the fraction done and a message.

    Returns:
        Overlaps and errors, the checked claims, and figures.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small lose time on threads
    try:
        return _measure(seed, device, quick, progress or (lambda done, text: None))
    finally:
        torch.set_num_threads(threads)


def _measure(seed: int, device: str, quick: bool, tell: Progress) -> DemoResult:
    recipe = single.Recipe() if quick else single.Recipe(steps=1200, train=3000)
    seeds = tuple(range(seed, seed + (3 if quick else 5)))
    compared = single.run(
        seeds=seeds, methods=(PSC, OURS), recipe=recipe, device=device, progress=lambda done, text: tell(0.45 * done, text)
    )
    others = [name for name in single.METHODS if name not in compared]
    rest = single.run(
        seeds=seeds[:1] if quick else seeds,
        methods=others,
        recipe=recipe,
        device=device,
        progress=lambda done, text: tell(0.45 + 0.3 * done, text),
    )
    found: dict[str, Any] = {name: (compared | rest)[name] for name in single.METHODS}
    settings = scenes.MINIATURE if quick else dataclasses.replace(scenes.MINIATURE, epochs=30, milestones=(20, 27))
    outcome = scenes.run("ucr3", recipe=settings, seed=seed, device=device, progress=lambda done, text: tell(0.75 + 0.25 * done, text))
    hulls = scenes.horizontal_as_oriented(outcome.targets)

    def row(name: str) -> Row:
        values = [None if found[name][0][c] is None else _mean(found, name, c) for c in COLUMNS]
        count = len(found[name])
        kind = "ours" if name.startswith("UCR") else "baseline"
        note = "" if name == PLAIN else f"{count} seed" + ("s" if count > 1 else "")
        return Row(name, values, kind=kind, note=note)

    gain = _mean(found, OURS, "mean IoU") - _mean(found, PLAIN, "mean IoU")
    fine = _mean(found, OURS, "IoU > .75") - _mean(found, PLAIN, "IoU > .75")
    worse = _mean(found, OURS, "angle error") - _mean(found, PSC, "angle error")
    lost = _mean(found, PSC, "mean IoU") - _mean(found, OURS, "mean IoU")
    amplitude, sums = _mean(found, OURS, "median A^2"), _mean(found, OURS, "|sum x|")
    free, free_sums = _mean(found, PSC, "median A^2"), _mean(found, PSC, "|sum x|")
    n = outcome.numbers
    seen = (
        f"The detector, after {settings.epochs} epochs over 400 scenes: AP50 {n['AP50']:.3f}, AP75 {n['AP75']:.3f}, angle error "
        f"{n['angle error']:.1f} degrees over the {100 * n['found']:.0f} % of ships that it finds, median A^2 {n['median A^2']:.2f}. "
        f"Upright boxes on the same scenes: mean IoU {hulls['mean IoU']:.3f}, {100 * hulls['recall at .75']:.0f} % above .75."
    )
    return DemoResult(
        method="ucr-rsar",
        title="Unit Cycle Resolver",
        claim="Oriented boxes are learned from horizontal ones, and a small penalty keeps the angle codes on their circle.",
        paper=PAPER,
        columns=COLUMNS,
        rows=[row(name) for name in single.METHODS],
        units="one ship an image, test set; angle errors in degrees; A^2 is 1 and the sum 0 on the circle",
        claims=[
            Claim("(a) from horizontal boxes: mean IoU at least .12 above the boxes themselves", gain >= 0.12, f"{gain:+.3f}"),
            Claim("(a) and at least .25 more with IoU > .75", fine >= 0.25, f"{fine:+.3f}"),
            Claim("(b) angle not worse than PSC by more than 1 degree", worse <= 1, f"{worse:+.2f} degrees, {len(seeds)} seeds"),
            Claim("(b) mean IoU not worse than PSC by more than .02", lost <= 0.02, f"{-lost:+.3f}, {len(seeds)} seeds"),
            Claim("(c) median A^2 in [0.7, 1.3]", 0.7 <= amplitude <= 1.3, f"{amplitude:.2f}; PSC, without the penalty: {free:.2f}"),
            Claim("(c) mean |sum x| below .05", sums < 0.05, f"{sums:.3f}; PSC: {free_sums:.3f}"),
        ],
        figures=[
            Figure("Angle error of each coder", lambda: draw_errors(found), "Each point is a seed; the same budget for all."),
            Figure(
                "Ships over photographs",
                lambda: draw_scenes(outcome),
                "Predictions (orange) of a detector that saw horizontal boxes only; the truth in white.",
            ),
        ],
        notes=[
            "Not a claim that UCR is more accurate than PSC: the paper's gain is smaller than the noise between seeds here.",
            seen,
            "int8: sides and code rounded together with one scale, where codes of a small radius would have no bits left.",
            "Images: ships with speckle as the literature models them; the photographs ship with scikit-learn.",
        ],
        config={"seeds": list(seeds), "recipe": vars(recipe), "detector": n, "horizontal": hulls},
    )


def draw_errors(found: Found) -> Any:
    """Angle errors as points, a ``matplotlib.figure.Figure`` that no global state holds."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(7.0, 2.8), layout="constrained")
    axes = figure.subplots()
    names = [name for name in found if name != PLAIN]
    for i, name in enumerate(names):
        values = [run["angle error"] for run in found[name]]
        axes.plot(values, [i] * len(values), "o", color="tab:blue" if name.startswith("UCR") else "tab:orange")  # pyright: ignore[reportArgumentType]
    axes.set(xlabel="mean angle error on test images, degrees", yticks=range(len(names)), xlim=(0, None))
    axes.set_yticklabels(names)
    axes.invert_yaxis()
    return figure


def draw_scenes(outcome: scenes.Outcome, count: int = 8) -> Any:
    """Predictions on the first test scenes."""
    import numpy as np
    from matplotlib.figure import Figure as Canvas

    from ucr_rsar.draw import draw_boxes

    figure = Canvas(figsize=(8.0, 4.2), layout="constrained")
    for axes, image, target, found in zip(
        figure.subplots(2, count // 2).flat, outcome.images, outcome.targets, outcome.found, strict=False
    ):
        axes.imshow(np.asarray(draw_boxes(image, found, truth=target, scale=4.0)))
        axes.set_axis_off()
    return figure
