"""The method's claim in miniature, for ``geocore demo method-name``. Replace by the specification's headline experiment."""

import torch

from geocore.demo import Claim, DemoResult, Figure, Progress, Row
from methodname._reference import rotate_pairs_reference
from methodname.functional import rotate_pairs

__all__ = ["demo"]


def demo(*, seed: int = 0, device: str = "cpu", quick: bool = True, progress: Progress | None = None) -> DemoResult:
    """Measure how well the rotation keeps norms, against the literal transcription.

    Args:
        seed: Seed of the data.
        device: Torch device.
        quick: A small batch, or with ``False`` a large one.
        progress: Called with the fraction done and a message.

    Returns:
        Measured errors and the checked claim.
    """
    generator = torch.Generator().manual_seed(seed)
    n = 1_000 if quick else 100_000
    x = torch.randn(n, 8, generator=generator).to(device)
    angle = (torch.rand(n, 4, generator=generator) * 6.28).to(device)
    errors = {}
    for i, (name, fn) in enumerate({"rotate_pairs": rotate_pairs, "literal transcription": rotate_pairs_reference}.items()):
        if progress is not None:
            progress(i / 2, name)
        errors[name] = float((fn(x, angle).norm(dim=-1) - x.norm(dim=-1)).abs().max())
    worst = errors["rotate_pairs"]

    def figure() -> object:
        from matplotlib import pyplot as plt

        drawn, axes = plt.subplots(figsize=(6, 3))
        axes.bar(list(errors), list(errors.values()))
        axes.set_ylabel("largest change of norm")
        return drawn

    return DemoResult(
        method="method-name",
        title="method-name",
        claim="Rotations keep the norm of every vector.",
        paper="<authors, title, venue, year>",
        columns=["largest change of norm"],
        rows=[
            Row("rotate_pairs (ours)", [worst], kind="ours"),
            Row("literal transcription", [errors["literal transcription"]], kind="baseline"),
        ],
        claims=[Claim("the norm changes by less than 1e-5", worst < 1e-5, f"{worst:.2g}")],
        figures=[Figure("Change of norm", figure, "Rounding only.")],
        notes=["A placeholder: replace it by the experiment of the specification."],
        config={"vectors": n, "features": 8},
    )
