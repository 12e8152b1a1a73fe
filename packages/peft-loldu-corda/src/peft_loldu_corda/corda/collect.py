"""Collect the second moments of layer inputs while a model runs on calibration data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocore._checks import check_option, check_positive_int
from peft_loldu_corda._base import named_targets, quantization_of
from peft_loldu_corda.corda._masks import MaskTracker
from peft_loldu_corda.corda.stats import NORMALIZE, InputStats, Moment
from peft_loldu_corda.errors import CalibrationError

__all__ = ["collect_input_stats"]

Progress = Callable[[float, str], None]


class _Targets:
    """Just enough of a configuration for peft to match layers with."""

    layers_to_transform = None
    layers_pattern = None
    target_parameters = None
    modules_to_save = None

    def __init__(self, target_modules: Any, exclude_modules: Any) -> None:
        self.target_modules = set(target_modules) if isinstance(target_modules, list | tuple) else target_modules
        self.exclude_modules = set(exclude_modules) if isinstance(exclude_modules, list | tuple) else exclude_modules


class Collector:
    """Forward hooks that add up ``x x^T``.

    Args:
        targets: Layer name to layer.
        masks: Applied to every input.
        stats: Where the sums go.
        max_tokens: Tokens per layer after which it stops adding.
        dtype: Dtype of the sums.
        device: Device of the sums; ``None`` for that of each input.
        storage: Folder for sums in mapped files; ``None`` for memory.
    """

    def __init__(
        self,
        targets: Mapping[str, nn.Module],
        masks: MaskTracker,
        stats: InputStats,
        *,
        max_tokens: int | None,
        dtype: torch.dtype,
        device: torch.device | None,
        storage: Path | None,
    ) -> None:
        self.targets, self.masks, self.stats = targets, masks, stats
        self.max_tokens, self.dtype, self.device, self.storage = max_tokens, dtype, device, storage
        self.used_again: set[str] = set()
        self._recent: tuple[Tensor, int, str, Tensor | None, Tensor, Tensor] | None = None

    def new_moment(self, name: str, n: int, device: torch.device) -> Moment:
        """Zero sums for a layer."""
        device = self.device or device
        if self.storage is None:
            total = torch.zeros(n, n, dtype=self.dtype, device=device)
        else:
            self.storage.mkdir(parents=True, exist_ok=True)
            file = self.storage / f"{name}.bin"
            file.unlink(missing_ok=True)
            total = torch.from_file(str(file), shared=True, size=n * n, dtype=self.dtype).view(n, n)  # a new file reads as zeros
        return Moment(total, torch.zeros(n, dtype=self.dtype, device=total.device))

    def hook(self, name: str) -> Callable[..., None]:
        """Forward pre-hook of one layer."""

        def add(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            x = args[0] if args else kwargs.get("input", kwargs.get("hidden_states", kwargs.get("x")))
            if not isinstance(x, Tensor):
                raise CalibrationError(f"layer {name!r} was called without a tensor")
            self.add(name, x)

        return add

    def add(self, name: str, x: Tensor) -> None:
        """Add one input, shape ``(..., n)``."""
        n = x.shape[-1]
        m = self.stats.moments.get(name)
        if m is None or m.total.numel() == 0:
            m = self.stats.moments[name] = self.new_moment(name, n, x.device)
        left = None if self.max_tokens is None else self.max_tokens - m.tokens
        if left is not None and left <= 0:
            return
        recent = self._recent
        if recent is not None and recent[0] is x and recent[1] == x._version and (left is None or len(recent[4]) <= left):
            # q, k and v, or gate and up, read one tensor: its matrix is known
            _, _, owner, product, rows, absolute = recent
            self.used_again.add(owner)
        else:
            rows = self._rows(name, x)
            rows = rows if left is None else rows[:left]
            absolute = rows.abs().sum(0).to(m.absolute.device)
            product = torch.mm(rows.T, rows).to(m.total.device) if name in self.used_again else None
            self._recent = (x, x._version, name, product, rows, absolute)
        if product is not None:
            m.total += product
        elif rows.device == m.total.device:
            m.total.addmm_(rows.T, rows)
        else:
            m.total += (rows.T @ rows).to(m.total.device)
        m.absolute += absolute.to(m.absolute.device)
        m.tokens += len(rows)
        m.calls += 1

    def _rows(self, name: str, x: Tensor) -> Tensor:
        rows = self.masks.tokens(name, x).to(self.dtype)
        if not bool(torch.isfinite(rows).all()):
            raise CalibrationError(f"the input of layer {name!r} holds NaN or infinity; run the model in a wider dtype, or check the data")
        if self.stats.normalize == "max" and rows.numel():
            largest = rows.max().abs()
            rows = rows / torch.where(largest == 0, torch.ones_like(largest), largest)
        return rows

    def forget(self) -> None:
        """Let go of the last input."""
        self._recent = None

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Hooks in place, evaluation mode, no gradients; everything as before afterwards, also after an error."""
        training = {m: m.training for m in model.modules()}
        handles = [model.register_forward_pre_hook(self.masks.before_forward, with_kwargs=True, prepend=True)]
        handles += [layer.register_forward_pre_hook(self.hook(name), with_kwargs=True) for name, layer in self.targets.items()]
        model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in training.items():
                module.training = mode
            self.forget()


def collect_input_stats(
    model: nn.Module,
    data: Iterable[Any] | Callable[[], Any],
    *,
    target_modules: Sequence[str] | str | None = None,
    exclude_modules: Sequence[str] | str | None = None,
    attention_mask_key: str | Sequence[str] = "attention_mask",
    max_tokens: int | None = None,
    normalize: Literal["none", "max"] = "none",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "auto",
    storage: str | Path = "memory",
    on_missing: Literal["error", "skip"] = "error",
    initial: InputStats | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 16,
    progress: Progress | None = None,
) -> InputStats:
    r"""Run a model on data and collect ``C = sum x x^T / tokens`` of the inputs of its layers (CorDA, arXiv 2406.05223, section 3.1).

    Streaming: no activation outlives its layer. Batches of any shape; padding is left out by the attention mask of each call. Layers
    that read one tensor share its product. Layers of an adapted model are collected under their names in the base.

    Args:
        model: The model; its modes and hooks are as before afterwards.
        data: Batches (mappings, tuples or tensors, passed on to the model), or a function without arguments that runs the model itself.
        target_modules: As in peft: names, a regular expression, ``"all-linear"``; its default for the model otherwise.
        exclude_modules: Layers to leave out.
        attention_mask_key: Name or names of mask arguments, shape ``(batch, length)``, nonzero at tokens. ``decoder_attention_mask`` is
            always looked for; without it, decoder padding is read from ``labels``.
        max_tokens: Tokens per layer to stop after, exactly.
        normalize: ``"none"``, or ``"max"`` for the scaling of the official code and of peft: each call divided by its largest value,
            the sum by the number of calls.
        dtype: Dtype of the sums, float32 or float64.
        device: Device of the sums; that of each layer's input by default.
        storage: ``"memory"``, or a folder for sums in mapped files, so that one layer's matrix at a time is in memory.
        on_missing: ``"error"``, or ``"skip"`` to leave layers without tokens out (experts that no token chose).
        initial: Statistics to add to.
        checkpoint: File to continue from if it exists, written every ``checkpoint_every`` batches and at the end. Batches it has seen are
            skipped, so give the same data.
        checkpoint_every: Batches between two writes.
        progress: Called with the fraction done (0 where the number of batches is unknown) and a message.

    Returns:
        ``InputStats``.

    Raises:
        CalibrationError: If a layer got no token (they are listed), or an input is not finite.
        ValueError: If an option is unknown, no layer matches, or a checkpoint is asked for with a function.
        TypeError: If a layer is not linear.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4))
        >>> stats = collect_input_stats(model, [torch.randn(8, 4)], target_modules=["0"])
        >>> stats["0"].shape, stats.tokens["0"]
        (torch.Size([4, 4]), 8)
    """
    check_option("normalize", normalize, NORMALIZE)
    check_option("on_missing", on_missing, ("error", "skip"))
    check_positive_int("checkpoint_every", checkpoint_every)
    if max_tokens is not None:
        check_positive_int("max_tokens", max_tokens)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}: sums of many tokens need the digits")
    runs_itself = callable(data) and not isinstance(data, Iterable)
    if runs_itself and checkpoint is not None:
        raise ValueError("checkpoint needs data in batches, got a function: what it has done already cannot be skipped")
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportCallIssue]
    targets = dict(named_targets(inner, _Targets(target_modules, exclude_modules)))
    for name, layer in targets.items():
        check_linear(name, layer)
    stats = _start(initial, checkpoint, normalize)
    keys = [attention_mask_key] if isinstance(attention_mask_key, str) else list(attention_mask_key)
    collector = Collector(
        targets,
        MaskTracker(inner, list(dict.fromkeys([*keys, "decoder_attention_mask"]))),
        stats,
        max_tokens=max_tokens,
        dtype=dtype,
        device=None if str(device) == "auto" else torch.device(device),
        storage=None if str(storage) == "memory" else Path(storage),
    )
    with collector.attached(inner):
        if runs_itself:
            data()  # pyright: ignore[reportCallIssue]
        else:
            _feed(model, data, collector, checkpoint, checkpoint_every, progress)  # pyright: ignore[reportArgumentType]
    if checkpoint is not None:
        stats.save(checkpoint)
    missing = [name for name in targets if name not in stats.moments or not stats.moments[name].tokens]
    if missing and on_missing == "error":
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise CalibrationError(f"no token reached {len(missing)} of {len(targets)} layers: {shown}; use more data, or on_missing='skip'")
    return stats


def check_linear(name: str, layer: nn.Module) -> None:
    """Raise unless CorDA can decompose a layer.

    Raises:
        TypeError: If it is not linear.
    """
    from peft_loldu_corda._base import kind_of

    kind = kind_of(layer, quantization_of(layer), name)
    if kind not in ("linear", "transposed"):
        raise TypeError(f"CorDA needs linear layers or Conv1D of transformers, but {name} is a {type(layer).__name__}")


def _start(initial: InputStats | None, checkpoint: str | Path | None, normalize: str) -> InputStats:
    if checkpoint is not None and Path(checkpoint).exists():
        if initial is not None:
            raise ValueError("initial must be None when the checkpoint exists: it would be counted twice")
        initial = InputStats.load(checkpoint)
    if initial is None:
        return InputStats(normalize=normalize)
    if initial.normalize != normalize:
        raise ValueError(f"normalize must be that of the statistics to add to, {initial.normalize!r}, got {normalize!r}")
    moments = {n: Moment(m.total.clone(), m.absolute.clone(), m.tokens, m.calls) for n, m in initial.moments.items()}
    return InputStats(moments, normalize=normalize, batches=initial.batches if checkpoint is not None else 0)


def _feed(
    model: nn.Module, batches: Iterable[Any], collector: Collector, checkpoint: str | Path | None, every: int, progress: Progress | None
) -> None:
    device = next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
    stats, skip = collector.stats, collector.stats.batches
    length = len(batches) if hasattr(batches, "__len__") else None  # pyright: ignore[reportArgumentType]
    for i, batch in enumerate(batches):
        if i < skip:
            continue
        batch = _move(batch, device)
        if isinstance(batch, Mapping):
            model(**batch)
        elif isinstance(batch, tuple | list):
            model(*batch)
        else:
            model(batch)
        collector.forget()
        stats.batches += 1
        if checkpoint is not None and stats.batches % every == 0:
            stats.save(checkpoint)
        tokens = max(stats.tokens.values(), default=0)
        if progress is not None:
            progress((i + 1) / length if length else 0.0, f"batch {i + 1}, {tokens} tokens")
        if collector.max_tokens is not None and stats.moments and min(stats.tokens.values()) >= collector.max_tokens:
            break


def _move(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_move(value, device) for value in batch)
    return batch
