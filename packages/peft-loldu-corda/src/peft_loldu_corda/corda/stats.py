"""Second moments of layer inputs: a mapping from layer names to matrices that can be saved, merged and reduced over processes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from geocore._checks import check_option
from peft_loldu_corda.errors import CalibrationError

__all__ = ["InputStats", "Moment"]

_FORMAT = "1"
NORMALIZE = ("none", "max")


@dataclass
class Moment:
    """Running sums of one layer.

    Args:
        total: Sum of ``x x^T``, shape ``(n, n)``; scaled per call under ``normalize="max"``.
        absolute: Sum of ``|x|``, shape ``(n,)``.
        tokens: Number of tokens.
        calls: Number of calls.
    """

    total: Float[Tensor, "n n"]
    absolute: Float[Tensor, "n"]
    tokens: int = 0
    calls: int = 0


class InputStats(Mapping[str, Tensor]):
    """Uncentred second moments ``C = sum x x^T / tokens`` of layer inputs, by layer name.

    ``stats[name]`` is the ``(n, n)`` matrix, ``stats.tokens[name]`` the number of tokens behind it. ``a + b`` merges two collections,
    such as those of two halves of the data. With ``normalize="max"``, the rule of the official code and of peft, each call is divided
    by its largest value first and the sum by the number of calls.

    Args:
        moments: Layer name to ``Moment``.
        normalize: ``"none"`` or ``"max"``.
        batches: Number of batches seen, where the data came in batches.

    Raises:
        ValueError: If ``normalize`` is unknown.

    Example:
        >>> stats = InputStats({"a": Moment(2 * torch.eye(3), torch.ones(3), tokens=4)})
        >>> (stats + stats).tokens["a"], stats["a"][0, 0]
        (8, tensor(0.5000))
    """

    def __init__(self, moments: Mapping[str, Moment] | None = None, *, normalize: str = "none", batches: int = 0) -> None:
        check_option("normalize", normalize, NORMALIZE)
        self.moments = dict(moments or {})
        self.normalize = normalize
        self.batches = batches

    def __getitem__(self, name: str) -> Tensor:
        m = self.moments[name]
        count = m.calls if self.normalize == "max" else m.tokens
        if not count:
            raise CalibrationError(f"layer {name!r} was never given a token in calibration")
        return m.total / count

    def __iter__(self) -> Iterator[str]:
        return iter(self.moments)

    def __len__(self) -> int:
        return len(self.moments)

    def __repr__(self) -> str:
        tokens = max(self.tokens.values(), default=0)
        return f"InputStats({len(self)} layers, up to {tokens} tokens, normalize={self.normalize!r})"

    @property
    def tokens(self) -> dict[str, int]:
        """Number of tokens of each layer."""
        return {name: m.tokens for name, m in self.moments.items()}

    @property
    def calls(self) -> dict[str, int]:
        """Number of calls of each layer."""
        return {name: m.calls for name, m in self.moments.items()}

    @property
    def missing(self) -> list[str]:
        """Layers that no token reached."""
        return [name for name, m in self.moments.items() if not m.tokens]

    def mean_abs(self, name: str) -> Float[Tensor, "n"]:
        """Mean of ``|x|`` of a layer, shape ``(n,)``."""
        m = self.moments[name]
        return m.absolute / max(m.tokens, 1)

    def mean_square(self, name: str) -> Float[Tensor, "n"]:
        """Diagonal of the second moment of a layer, shape ``(n,)``."""
        return self[name].diagonal()

    def to(self, *args: Any, **kwargs: Any) -> "InputStats":
        """A copy on another device or in another dtype."""
        moments = {
            n: Moment(m.total.to(*args, **kwargs), m.absolute.to(*args, **kwargs), m.tokens, m.calls) for n, m in self.moments.items()
        }
        return InputStats(moments, normalize=self.normalize, batches=self.batches)

    def __add__(self, other: "InputStats") -> "InputStats":
        if not isinstance(other, InputStats):
            return NotImplemented
        if self.normalize != other.normalize:
            raise ValueError(f"normalize must be the same in both collections, got {self.normalize!r} and {other.normalize!r}")
        merged: dict[str, Moment] = {}
        for name in [*self, *(n for n in other if n not in self.moments)]:
            parts = [s.moments[name] for s in (self, other) if name in s.moments]
            sizes = {tuple(p.total.shape) for p in parts}
            if len(sizes) > 1:
                raise ValueError(f"layer {name!r} must have as many inputs in both collections, got {sorted(s[0] for s in sizes)}")
            first = parts[0]
            total, absolute = first.total.clone(), first.absolute.clone()
            for p in parts[1:]:
                total += p.total.to(total)
                absolute += p.absolute.to(absolute)
            merged[name] = Moment(total, absolute, sum(p.tokens for p in parts), sum(p.calls for p in parts))
        return InputStats(merged, normalize=self.normalize, batches=self.batches + other.batches)

    def all_reduce(self, group: Any = None) -> "InputStats":
        """Sum over the processes of ``torch.distributed``, in place; every process ends with the statistics of all.

        A layer that only some processes called counts there; so each may own other experts or other data.

        Raises:
            RuntimeError: If ``torch.distributed`` is not initialised.
            ValueError: If the processes disagree about a layer's size or about ``normalize``.
        """
        from torch import distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("all_reduce needs torch.distributed.init_process_group first")
        mine = {n: (m.total.shape[0], str(m.total.dtype), m.tokens, m.calls) for n, m in self.moments.items()}
        everyone: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyone, (self.normalize, self.batches, mine), group=group)
        if len({normalize for normalize, _, _ in everyone}) > 1:
            raise ValueError("normalize must be the same in all processes")
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else torch.device("cpu")
        names = list(dict.fromkeys(name for _, _, layers in everyone for name in layers))
        for name in names:
            found = [layers[name] for _, _, layers in everyone if name in layers]
            if len({size for size, *_ in found}) > 1:
                raise ValueError(f"layer {name!r} must have as many inputs in all processes, got {sorted({f[0] for f in found})}")
            size, dtype = found[0][0], getattr(torch, found[0][1].removeprefix("torch."))
            m = self.moments.setdefault(name, Moment(torch.zeros(size, size, dtype=dtype), torch.zeros(size, dtype=dtype)))
            for sums in (m.total, m.absolute):
                moved = sums.to(device, dtype)
                dist.all_reduce(moved, group=group)
                if moved.data_ptr() != sums.data_ptr():
                    sums.copy_(moved)
            m.tokens, m.calls = sum(f[2] for f in found), sum(f[3] for f in found)
        self.moments = {name: self.moments[name] for name in names}
        self.batches = sum(batches for _, batches, _ in everyone)
        return self

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; layers that read the same tensor, such as q, k and v, are stored once.

        The file appears whole or not at all.
        """
        tensors: dict[str, Tensor] = {}
        layers: dict[str, Any] = {}
        for name, m in self.moments.items():
            key = next((k for k, kept in tensors.items() if k.startswith("total.") and _same(kept, m.total)), None)
            if key is None or not torch.equal(tensors[key.replace("total", "absolute")], m.absolute.cpu()):
                key = f"total.{len(layers)}"
                tensors[key] = m.total.detach().cpu().contiguous()
                tensors[key.replace("total", "absolute")] = m.absolute.detach().cpu().contiguous()
            layers[name] = {"key": key, "tokens": m.tokens, "calls": m.calls}
        about = {"format": _FORMAT, "normalize": self.normalize, "batches": str(self.batches), "layers": json.dumps(layers)}
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        save_file(tensors, str(partial), metadata=about)
        partial.replace(target)

    @classmethod
    def load(cls, path: str | Path) -> "InputStats":
        """Read a file that ``save`` wrote; the matrices are mapped into memory and read when used.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it was written by something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no statistics at {path}; make them with InputStats.save or `peft-loldu-corda collect`")
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT or "layers" not in about:
                raise ValueError(f"{path} does not hold input statistics (format {about.get('format')!r}, expected {_FORMAT!r})")
            moments = {}
            for name, entry in json.loads(about["layers"]).items():
                total, absolute = file.get_tensor(entry["key"]), file.get_tensor(entry["key"].replace("total", "absolute"))
                moments[name] = Moment(total, absolute, entry["tokens"], entry["calls"])
        return cls(moments, normalize=about["normalize"], batches=int(about["batches"]))


def _same(a: Tensor, b: Tensor) -> bool:
    """Equality that looks at a few numbers before all of them."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a[:1], b[:1].cpu()) and torch.equal(a, b.cpu())
