"""Decompose the layers of a model before an adapter is made: peft's ``preprocess_corda`` and what it lacks."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from peft import LoraConfig
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.layer import LoraLayer
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from geocore._checks import check_option
from peft_loldu_corda._base import kind_of, matrix_of, named_targets, quantization_of, unwrap
from peft_loldu_corda.corda.adapter import CordaStart
from peft_loldu_corda.corda.allocate import allocate_ranks, choose_sets
from peft_loldu_corda.corda.collect import Progress, check_linear, collect_input_stats
from peft_loldu_corda.corda.config import CordaLoraConfig
from peft_loldu_corda.corda.decompose import MODES, CordaDecomposition, decompose
from peft_loldu_corda.corda.stats import InputStats
from peft_loldu_corda.errors import CalibrationError

__all__ = ["apply_corda_init", "preprocess_corda"]

log = logging.getLogger("peft_loldu_corda")
PEFT_READS_EIGENS = "eigens" in getattr(getattr(LoraLayer, "corda_init", None), "__code__", SimpleNamespace(co_names=())).co_names


class _Sources:
    """Where the second moment of a layer comes from.

    Args:
        moments: ``InputStats``, or a plain mapping to matrices.
    """

    def __init__(self, moments: Mapping[str, Tensor]) -> None:
        self.moments = moments

    def has(self, name: str) -> bool:
        return name in self.moments and not (isinstance(self.moments, InputStats) and name in self.moments.missing)

    def get(self, name: str) -> tuple[Tensor, Tensor | None]:
        return self.moments[name], self.moments.mean_abs(name) if isinstance(self.moments, InputStats) else None


@torch.no_grad()
def preprocess_corda(
    model: nn.Module,
    lora_config: LoraConfig,
    run_model: Callable[[], Any] | None = None,
    hooked_model: nn.Module | None = None,
    *,
    data: Iterable[Any] | None = None,
    stats: InputStats | None = None,
    mode: Literal["ipm", "kpm"] | None = None,
    whitening: Literal["cov", "sqrt", "diag", "none"] = "cov",
    sigma_split: Literal["UV", "U", "V"] = "UV",
    mutate_base: bool | None = None,
    damping: float = 0.01,
    max_damping: float = 1e3,
    method: Literal["exact", "randomized"] = "exact",
    generator: torch.Generator | None = None,
    on_missing: Literal["error", "lora"] = "error",
    rank_allocation: Literal["uniform", "energy"] = "uniform",
    calibration_sets: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **collect: Any,
) -> LoraConfig:
    r"""Decompose every target layer so that ``get_peft_model(model, config)`` starts from CorDA (arXiv 2406.05223).

    Takes what ``peft.tuners.lora.corda.preprocess_corda`` takes and does what it does, files of ``CordaConfig`` included. With a
    ``CordaLoraConfig``, or ``mutate_base=False``, the adapter keeps its start beside it and the base weight stays as it is.

    Args:
        model: The model to adapt; also one that has adapters already.
        lora_config: ``LoraConfig`` or ``CordaLoraConfig``; ranks and scales are read from it.
        run_model: Runs the model on calibration data.
        hooked_model: Another model of the same layer names to collect from, such as one in lower precision.
        data: Calibration batches, instead of ``run_model``.
        stats: Statistics collected before, instead of either.
        mode: ``"ipm"`` or ``"kpm"``; what ``corda_config.corda_method`` says, or ``"ipm"``.
        whitening, damping, max_damping, method, generator: See ``decompose``.
        sigma_split: See ``CordaDecomposition.factors``.
        mutate_base: Whether the start is subtracted from the base weight. By default it is with a ``LoraConfig``, as in peft, except
            where the weight is quantised, and is not with a ``CordaLoraConfig``.
        on_missing: What to do about layers without tokens: an error, or a plain LoRA start.
        rank_allocation: ``"energy"`` spreads the same total rank so that layers whose energy sits in few terms get more; written to
            ``rank_pattern``, with ``alpha_pattern`` keeping every scale. Experimental, in the spirit of CorDA++ (arXiv 2506.13187).
        calibration_sets: Name to data or statistics; each layer takes the set under which its spectrum is most compact. Experimental.
        progress: Called with the fraction done and a message.
        **collect: Options of ``collect_input_stats``.

    Returns:
        The configuration to give to ``get_peft_model``: ``lora_config`` itself, or a ``CordaLoraConfig`` with its options if the base is
        to stay as it is.

    Raises:
        CalibrationError: If a layer got no token, or a second moment cannot be used.
        ValueError: If there is no data, an option is unknown, or the base weight of a target is shared and would be changed.
        TypeError: If a target is not linear.

    Example:
        >>> from peft import get_peft_model
        >>> base = torch.nn.Sequential(torch.nn.Linear(8, 8))
        >>> config = CordaLoraConfig(r=2, lora_alpha=2, target_modules=["0"])
        >>> config = preprocess_corda(base, config, data=[torch.randn(64, 8)], mode="kpm")
        >>> model = get_peft_model(base, config)
    """
    check_option("on_missing", on_missing, ("error", "lora"))
    check_option("rank_allocation", rank_allocation, ("uniform", "energy"))
    check_option("sigma_split", sigma_split, ("UV", "U", "V"))
    given = lora_config.corda_config if isinstance(lora_config.corda_config, CordaConfig) else None
    mode = mode or (given.corda_method if given is not None else "ipm")
    check_option("mode", mode, MODES)
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportCallIssue]
    targets = dict(named_targets(inner, lora_config))
    for name, layer in targets.items():
        check_linear(name, layer)
    config = _config(inner, lora_config, targets, mutate_base, mode, given)
    kept = _from_cache(config, targets, given)
    if not kept:
        chosen = _moments(
            model, targets, run_model, hooked_model, data, stats, calibration_sets, whitening, on_missing, given, progress, collect
        )
        if isinstance(chosen, dict):
            source_of = choose_sets(targets, chosen, config, whitening, damping, max_damping)
        else:
            source_of = dict.fromkeys(targets, chosen)
        options = {"whitening": whitening, "damping": damping, "max_damping": max_damping}
        if rank_allocation == "energy":
            allocate_ranks(targets, source_of, config, options)
        for i, (name, layer) in enumerate(targets.items()):
            if progress is not None:
                progress(i / len(targets), f"decomposing {name}")
            source, r = source_of[name], rank_of(config, name)
            if whitening != "none" and not source.has(name):
                if on_missing == "error":
                    raise CalibrationError(f"layer {name!r} has no statistics; collect more, or pass on_missing='lora'")
                kept[name] = None
                continue
            C, mean_abs = (None, None) if whitening == "none" else source.get(name)
            backend = quantization_of(layer)
            W = matrix_of(layer, kind_of(layer, backend, name), backend)
            kept[name] = decompose(W, C, r, mode=mode, mean_abs=mean_abs, method=method, generator=generator, name=name, **options)
        _to_cache(kept, given)
    for name, layer in targets.items():
        _attach(name, layer, kept[name], config, sigma_split)
    if isinstance(config, CordaLoraConfig):
        config.corda_mode, config.corda_whitening = mode, whitening
    return config


def rank_of(config: LoraConfig, name: str) -> int:
    """Rank of a layer under a configuration."""
    patterns = config.rank_pattern or {}
    return patterns.get(get_pattern_key(list(patterns), name), config.r)


def scale_of(config: LoraConfig, name: str) -> float:
    """Scale ``s`` of a layer under a configuration."""
    patterns = config.alpha_pattern or {}
    alpha = patterns.get(get_pattern_key(list(patterns), name), config.lora_alpha)
    r = rank_of(config, name)
    return alpha / r**0.5 if config.use_rslora else alpha / r


def _config(
    model: nn.Module, config: LoraConfig, targets: Mapping[str, nn.Module], mutate: bool | None, mode: Any, given: CordaConfig | None
) -> LoraConfig:
    if isinstance(config, CordaLoraConfig):
        if mutate:
            raise ValueError("mutate_base must not be true with a CordaLoraConfig; pass a LoraConfig")
        config.restored = False
        return config
    quantized = [name for name, layer in targets.items() if quantization_of(layer) is not None]
    if quantized and mutate:
        raise ValueError(f"mutate_base must not be true for quantised weights: subtracting the start loses it in rounding; {quantized[0]}")
    if quantized or mutate is False:
        if mutate is None:
            log.warning("the base is quantised: get_peft_model needs the CordaLoraConfig that preprocess_corda returns")
        return CordaLoraConfig.from_lora(config)
    shared = _shared(model, targets)
    if shared:
        raise ValueError(
            f"the weight of {shared[0][0]} is also that of {shared[0][1]}, so subtracting the start would change both: exclude it, untie "
            "it, or pass mutate_base=False"
        )
    config.init_lora_weights = "corda" if PEFT_READS_EIGENS else True
    if PEFT_READS_EIGENS:
        config.corda_config = given or CordaConfig(corda_method=mode)
        config.corda_config.corda_method = mode
    else:
        log.warning("this peft does not read CorDA decompositions: call apply_corda_init(model) after get_peft_model")
    return config


def _shared(model: nn.Module, targets: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        weight = module._parameters.get("weight")
        if weight is not None:
            owners.setdefault(id(weight), []).append(name)
    pairs = []
    for name, layer in targets.items():
        others = [n for n in owners.get(id(layer._parameters.get("weight")), []) if n != name and not n.endswith(".base_layer")]
        pairs += [(name, other) for other in others[:1]]
    return pairs


def _moments(
    model: nn.Module,
    targets: Mapping[str, nn.Module],
    run_model: Callable[[], Any] | None,
    hooked_model: nn.Module | None,
    data: Iterable[Any] | None,
    stats: InputStats | None,
    calibration_sets: Mapping[str, Any] | None,
    whitening: str,
    on_missing: str,
    given: CordaConfig | None,
    progress: Progress | None,
    collect: dict[str, Any],
) -> _Sources | dict[str, _Sources]:
    file = given.covariance_file if given is not None else None
    sources = [
        n for n, v in (("run_model", run_model), ("data", data), ("stats", stats), ("calibration_sets", calibration_sets)) if v is not None
    ]
    if file is not None and Path(file).exists() and Path(file).stat().st_size:
        return _Sources(torch.load(file, weights_only=True, map_location="cpu"))
    if whitening == "none" and not sources:
        return _Sources({})
    if len(sources) != 1:
        raise ValueError(f"exactly one of run_model, data, stats and calibration_sets must be given, got {', '.join(sources) or 'none'}")

    def gather(source: Any) -> InputStats:
        if isinstance(source, InputStats):
            return source
        missing: Any = "error" if on_missing == "error" else "skip"
        return collect_input_stats(
            hooked_model or model, source, target_modules=list(targets), on_missing=missing, progress=progress, **collect
        )

    if calibration_sets is not None:
        if not calibration_sets:
            raise ValueError("calibration_sets must hold at least one set, got none")
        return {name: _Sources(gather(source)) for name, source in calibration_sets.items()}
    found = gather(stats if stats is not None else data if data is not None else run_model)
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: found[name] for name in found if name not in found.missing}, file)
    return _Sources(found)


def _from_cache(config: LoraConfig, targets: Mapping[str, nn.Module], given: CordaConfig | None) -> dict[str, CordaDecomposition | None]:
    """Decompositions of peft's cache file, where there is one."""
    file = given.cache_file if given is not None else None
    if file is None or not Path(file).exists() or not Path(file).stat().st_size:
        return {}
    cache = torch.load(file, weights_only=True, map_location="cpu")
    found: dict[str, CordaDecomposition | None] = {}
    for name in targets:
        if f"{name}.eigens.S_WC" not in cache:
            raise ValueError(f"cache_file {file} holds nothing for {name}: it was made for other target_modules")
        S, U, V = (cache[f"{name}.eigens.{part}_WC"] for part in "SUV")
        if len(S) != rank_of(config, name):
            raise ValueError(f"cache_file {file} holds rank {len(S)} for {name}, but r is {rank_of(config, name)}")
        found[name] = CordaDecomposition(U, S, V.T, float("nan"), S.square())
    return found


def _to_cache(kept: Mapping[str, CordaDecomposition | None], given: CordaConfig | None) -> None:
    if given is None or given.cache_file is None:
        return
    cache = {}
    for name, d in kept.items():
        if d is not None:
            cache |= {f"{name}.eigens.S_WC": d.S, f"{name}.eigens.U_WC": d.U, f"{name}.eigens.V_WC": d.Vh.T.contiguous()}
    Path(given.cache_file).parent.mkdir(parents=True, exist_ok=True)
    torch.save(cache, given.cache_file)


def _attach(name: str, layer: nn.Module, parts: CordaDecomposition | None, config: LoraConfig, sigma_split: Any) -> None:
    """Leave the decomposition where the adapter will look for it."""
    weight: Any = layer.weight
    if parts is not None:
        parts = parts._replace(U=parts.U.to(weight.device), S=parts.S.to(weight.device), Vh=parts.Vh.to(weight.device))
    layer.__dict__["corda_start"] = CordaStart(parts, sigma_split)
    if isinstance(config, CordaLoraConfig) or not PEFT_READS_EIGENS:
        return
    layer.__dict__["eigens"] = _eigens(layer, name, parts, config, sigma_split)


def _eigens(layer: nn.Module, name: str, parts: CordaDecomposition | None, config: LoraConfig, sigma_split: Any) -> SimpleNamespace:
    """What peft's ``corda_init`` turns into ``A = V^T sqrt(S / s)``, ``B = U sqrt(S / s)``."""
    s = scale_of(config, name)
    if parts is None:  # a plain LoRA start: A random, B = 0
        kind = kind_of(layer, None, name)
        m, n = matrix_of(layer, kind, None).shape
        weight: Any = layer.weight
        A = torch.empty(rank_of(config, name), n, device=weight.device)
        nn.init.kaiming_uniform_(A, a=5**0.5)
        return SimpleNamespace(S_WC=torch.full((len(A),), s, device=A.device), U_WC=A.new_zeros(m, len(A)), V_WC=A.T)
    if sigma_split == "UV":
        return SimpleNamespace(S_WC=parts.S.float().clone(), U_WC=parts.U.float(), V_WC=parts.Vh.T.float())  # peft divides S in place
    A0, B0 = parts.factors(s, sigma_split=sigma_split)
    return SimpleNamespace(S_WC=torch.full_like(parts.S, s).float(), U_WC=B0.float(), V_WC=A0.T.float())


@torch.no_grad()
def apply_corda_init(model: nn.Module, adapter_name: str = "default") -> None:
    """Start a plain LoRA adapter from the decompositions, subtracting the start from the base weight.

    Only for versions of peft that do not read decompositions any more; ``preprocess_corda`` says so.

    Args:
        model: Model with the adapter.
        adapter_name: Its name.

    Raises:
        ValueError: If no layer has a decomposition.
    """
    done = 0
    for layer in model.modules():
        base: Any = unwrap(layer)
        if not isinstance(layer, LoraLayer) or "corda_start" not in base.__dict__ or adapter_name not in layer.lora_A:
            continue
        done += 1
        waiting: CordaStart = base.corda_start
        if waiting.parts is None:
            continue
        A0, B0 = waiting.parts.factors(layer.scaling[adapter_name], sigma_split=waiting.sigma_split)
        down: Any = layer.lora_A[adapter_name].weight
        up: Any = layer.lora_B[adapter_name].weight
        down.copy_(A0)
        up.copy_(B0)
        base.weight.data = (base.weight.to(A0.dtype) - layer.get_delta_weight(adapter_name).to(A0.dtype)).to(base.weight.dtype)  # pyright: ignore[reportCallIssue]
    if not done:
        raise ValueError("model must hold layers that preprocess_corda decomposed, found none")
