"""Ranks and calibration sets per layer, in the spirit of CorDA++ (arXiv 2506.13187); its exact metrics are not reproduced."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from peft_loldu_corda._base import kind_of, matrix_of, quantization_of
from peft_loldu_corda.corda.decompose import decompose

__all__ = ["allocate_ranks", "choose_sets", "energy_ranks"]


def energy_ranks(energies: Mapping[str, Tensor], total: int, *, share: float = 0.9) -> dict[str, int]:
    """Spread a total rank over layers, in proportion to ``1 / (number of terms that hold a share of the energy)``.

    Args:
        energies: Layer name to ``S^2`` of all its terms, descending.
        total: Sum of the ranks.
        share: That share.

    Returns:
        Layer name to rank, at least 1 and at most the number of its terms; they sum to ``total`` where those bounds allow it.

    Raises:
        ValueError: If ``total`` is less than one per layer.

    Example:
        >>> energy_ranks({"a": torch.tensor([1.0, 0.0, 0.0, 0.0]), "b": torch.ones(4)}, 5)
        {'a': 4, 'b': 1}
    """
    if total < len(energies):
        raise ValueError(f"total must be at least 1 for each of the {len(energies)} layers, got {total}")
    weights, most = {}, {name: len(e) for name, e in energies.items()}
    for name, e in energies.items():
        cumulated = e.double().cumsum(0)
        needed = int((cumulated < share * cumulated[-1]).sum()) + 1
        weights[name] = 1 / needed
    ranks = dict.fromkeys(energies, 1)
    total = min(total, sum(most.values()))
    while sum(ranks.values()) < total:
        # one at a time to the layer furthest below its share
        open_ = [name for name in ranks if ranks[name] < most[name]]
        ranks[max(open_, key=lambda name: weights[name] / (ranks[name] + 1))] += 1
    return ranks


def _energy(name: str, layer: nn.Module, source: Any, options: Mapping[str, Any]) -> Tensor:
    backend = quantization_of(layer)
    W = matrix_of(layer, kind_of(layer, backend, name), backend)
    C, mean_abs = source.get(name) if options["whitening"] != "none" else (None, None)
    return decompose(W, C, 1, mean_abs=mean_abs, name=name, **options).energy.cpu()


def allocate_ranks(targets: Mapping[str, nn.Module], source_of: Mapping[str, Any], config: LoraConfig, options: Mapping[str, Any]) -> None:
    """Write ``rank_pattern`` and ``alpha_pattern`` of a configuration; the scale of every layer stays what it was."""
    from peft_loldu_corda.corda.preprocess import rank_of, scale_of

    known = {n: layer for n, layer in targets.items() if options["whitening"] == "none" or source_of[n].has(n)}
    energies = {name: _energy(name, layer, source_of[name], options) for name, layer in known.items()}
    ranks = energy_ranks(energies, sum(rank_of(config, name) for name in known))
    scales = {name: scale_of(config, name) for name in known}
    alphas = {name: scales[name] * (r**0.5 if config.use_rslora else r) for name, r in ranks.items()}
    # the first pattern that matches counts, so the entries of single layers come first
    config.rank_pattern = {**ranks, **{k: v for k, v in (config.rank_pattern or {}).items() if k not in ranks}}
    config.alpha_pattern = {**alphas, **{k: v for k, v in (config.alpha_pattern or {}).items() if k not in alphas}}


def choose_sets(
    targets: Mapping[str, nn.Module], sets: Mapping[str, Any], config: LoraConfig, whitening: str, damping: float, max_damping: float
) -> dict[str, Any]:
    """For each layer the set under which the first ``r`` terms hold the largest share of the energy."""
    from peft_loldu_corda.corda.preprocess import rank_of

    options = {"whitening": whitening, "damping": damping, "max_damping": max_damping}
    chosen = {}
    for name, layer in targets.items():
        best = -1.0
        for source in sets.values():
            if not source.has(name):
                continue
            energy = _energy(name, layer, source, options)
            share = float(energy[: rank_of(config, name)].sum() / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny))
            if share > best:
                best, chosen[name] = share, source
        chosen.setdefault(name, next(iter(sets.values())))
    return chosen
