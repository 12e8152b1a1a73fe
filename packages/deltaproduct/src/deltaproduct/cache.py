"""What decoding has to remember: one state per layer, whatever the number of tokens so far."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from geocore._checks import check_positive_int

__all__ = ["DeltaProductCache", "LayerState"]


@dataclass(frozen=True)
class LayerState:
    """State of one layer.

    Args:
        recurrent_state: Shape ``(N, H, K, V)``, float32 (float64 for a float64 model).
        q_conv_state, k_conv_state, v_conv_state: The last ``conv_size - 1`` inputs of the convolutions, shape ``(N, conv_size - 1, D)``.
        keys, values: Of a softmax attention layer in a hybrid stack, shape ``(N, H, T, D)``; the only part that grows.
        tokens: Tokens seen, padding included.
    """

    recurrent_state: Tensor | None = None
    q_conv_state: Tensor | None = None
    k_conv_state: Tensor | None = None
    v_conv_state: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    tokens: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}


class DeltaProductCache:
    """States of the layers of a model between calls.

    ``layer(x, cache=cache, use_cache=True)`` reads and replaces the state of its layer. The models for ``transformers`` take and
    return it as ``past_key_values``.

    Example:
        >>> cache = DeltaProductCache()
        >>> layer = DeltaProduct(32, num_heads=2, head_dim=16)
        >>> y, cache = layer(torch.randn(1, 10, 32), cache=cache, use_cache=True)
        >>> y, cache = layer(torch.randn(1, 1, 32), cache=cache, use_cache=True)
        >>> cache.get_seq_length()
        11
    """

    is_compileable = False

    def __init__(self) -> None:
        self._layers: dict[int, LayerState] = {}

    def __len__(self) -> int:
        return max(self._layers, default=-1) + 1

    def __iter__(self) -> Iterator[LayerState]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, layer_idx: int) -> LayerState:
        return self._layers.get(layer_idx, LayerState())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(layers={len(self)}, tokens={self.get_seq_length()})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "DeltaProductCache":
        other = self.copy()
        other._map(torch.Tensor.clone)
        memo[id(self)] = other
        return other

    def copy(self) -> "DeltaProductCache":
        """Another cache with the same states; costs nothing, since states are replaced and never changed."""
        other = type(self)()
        other._layers = dict(self._layers)
        return other

    def update(self, layer_idx: int, state: LayerState) -> None:
        """Replace the state of a layer."""
        self._layers[layer_idx] = state

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that a layer has seen."""
        return self[layer_idx].tokens

    def _map(self, change: Any) -> None:
        for i, state in self._layers.items():
            self._layers[i] = replace(state, **{name: change(x) for name, x in state.tensors().items()})

    def reorder(self, beam_idx: Tensor) -> "DeltaProductCache":
        """Keep the sequences ``beam_idx``, in that order, in place; an index may come more than once.

        Raises:
            TypeError: If ``beam_idx`` is not an integer tensor.
        """
        if not isinstance(beam_idx, Tensor) or beam_idx.dtype not in (torch.int32, torch.int64):
            kind = beam_idx.dtype if isinstance(beam_idx, Tensor) else type(beam_idx).__name__
            raise TypeError(f"beam_idx must be an int32 or int64 tensor, got {kind}")
        self._map(lambda x: x.index_select(0, beam_idx.to(x.device)))
        return self

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """``reorder`` under the name that ``generate`` calls."""
        self.reorder(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """``reorder`` under the name of ``transformers``."""
        self.reorder(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence ``repeats`` times."""
        self._map(lambda x: x.repeat_interleave(repeats, dim=0))

    def crop(self, max_length: int) -> "DeltaProductCache":
        """Forget all tokens after the first ``max_length``, in place. Possible only for 0 and for at least as many as were seen.

        Raises:
            ValueError: If some tokens would have to be taken back: a recurrent state does not hold the earlier ones. Keep a ``copy()`` from
                before tokens that may be rejected.
            TypeError: If ``max_length`` is not an int.
        """
        check_positive_int("max_length", max_length, minimum=0)
        if max_length == 0:
            self.reset()
        elif max_length < self.get_seq_length():
            raise ValueError(
                f"max_length must be 0 or at least the {self.get_seq_length()} tokens seen, got {max_length}: a recurrent state cannot "
                "take tokens back; keep a copy() of the cache from before tokens that may be rejected"
            )
        return self

    def reset(self) -> None:
        """Forget everything."""
        self._layers.clear()

    def detach(self) -> "DeltaProductCache":
        """Cut the states from the graph, in place (truncated backpropagation through time)."""
        self._map(torch.Tensor.detach)
        return self

    def to(self, device: torch.device | str) -> "DeltaProductCache":
        """Move the states to a device, in place; dtypes stay."""
        self._map(lambda x: x.to(device))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers of tokens under flat names, for ``torch.save``."""
        out: dict[str, Any] = {}
        for i, state in self._layers.items():
            out |= {f"{i}.{name}": x for name, x in state.tensors().items()} | {f"{i}.tokens": state.tokens}
        return out

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> "DeltaProductCache":
        """Replace everything by what ``state_dict`` returned.

        Raises:
            ValueError: If a name is none of ``state_dict``.
        """
        parts: dict[int, dict[str, Any]] = {}
        known = {field.name for field in fields(LayerState)}
        for key, value in state_dict.items():
            index, _, name = key.partition(".")
            if not index.isdigit() or name not in known:
                raise ValueError(f"state_dict must have names such as '0.recurrent_state', got {key!r}")
            parts.setdefault(int(index), {})[name] = value
        self._layers = {i: LayerState(**values) for i, values in sorted(parts.items())}
        return self
