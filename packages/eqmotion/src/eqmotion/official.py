"""Weights of official checkpoints.

What is known of the format: layers are ``gcl_<i>.``, the copies of the last layer for several modes ``head_<i>.``, and every layer carries
two networks that are never used, ``coord_mlp`` and ``node_att_mlp``. The other names are *not* known to us, so modules are recognised by
their shapes; where several have the same shape, by a word in their name, then by their order, and then a warning says what was taken for
what. ``key_map`` settles any case by hand. This has been tested on state dicts of the assumed layout (``official_state_dict`` writes it),
not on the authors' files.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from warnings import warn

import torch
from torch import Tensor

from geocore._checks import check_option

__all__ = ["VARIANTS", "load_official", "official_state_dict"]

VARIANTS = ("particle", "skeleton", "pedestrian")
DEAD = ("coord_mlp", "node_att_mlp")
_GROUP = re.compile(r"^(gcl|head)_(\d+)\.(.+)$")
# words that decide between modules of one shape: our role to a pattern for the official name
_HINTS = {
    "edge_mlp": r"edge",
    "experts": r"categor|expert|interact|fact.*\d",
    "factor_mlp": r"fact|mix",
    "node_mlp": r"node|update",
    "W_u": r"vel|_u$",
    "W_q": r"(^|[._])q|_q$|query",
    "W_k": r"(^|[._])k|_k$|key",
    "attention": r"att|inner",
    "speed": r"speed|norm|embedding$|embedding1|_1$",
    "angle": r"angle|embedding2|_2$",
    "W_x": r"coord|_x$|pos",
    "W_v": r"vel|_v$",
    "W_o": r"pred|head|out",
    "distance_mlp": r"coord|dist",
    "category_mlp": r"categor",
    "token_mlp": r"token|joint|add",
    "tokens": r"token|joint|agent|embed",
}

M = TypeVar("M", bound=torch.nn.Module)
Chain = tuple[tuple[tuple[int, ...], bool], ...]  # shapes of the weights in order, and whether they have a bias


class _Group:
    """The modules under one prefix: name to its linear maps, in order of appearance."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.modules: dict[str, dict[int, dict[str, Tensor]]] = {}

    def add(self, key: str, value: Tensor) -> None:
        parts = key.rsplit(".", 1)
        path, leaf = (parts[0], parts[1]) if len(parts) == 2 else ("", parts[0])
        found = re.match(r"^(.*)\.(\d+)$", path)
        name, index = (found[1], int(found[2])) if found else (path, 0)
        self.modules.setdefault(name, {}).setdefault(index, {})[leaf] = value

    def explode(self) -> None:
        """A list of maps, numbered without gaps for activations between, is that many modules."""
        for name, maps in list(self.modules.items()):
            if len(maps) > 1 and sorted(maps) == list(range(len(maps))):
                del self.modules[name]
                self.modules.update({f"{name}.{i}": {0: maps[i]} for i in range(len(maps))})

    def maps(self, name: str) -> list[dict[str, Tensor]]:
        return [self.modules[name][index] for index in sorted(self.modules[name])]

    def signature(self, name: str) -> Chain:
        return tuple((tuple(m["weight"].shape), "bias" in m) for m in self.maps(name) if "weight" in m)


def _mlp(*sizes: int) -> Chain:
    return tuple(((sizes[i + 1], sizes[i]), True) for i in range(len(sizes) - 1))


def _map(out: int, into: int) -> Chain:
    return (((out, into), False),)


class _Reader:
    """Assigns the modules of one group to our roles."""

    def __init__(self, group: _Group, key_map: Mapping[str, str]) -> None:
        self.group = group
        self.left = list(group.modules)
        self.key_map = key_map

    def take(self, role: str, want: Chain, *, count: int | None = 1, rivals: int = 0) -> list[list[dict[str, Tensor]]]:
        """The modules of a role, all that fit if ``count`` is ``None``; ``rivals`` modules of the same shape belong to later roles."""
        mapped = [name for name in self.left if self.key_map.get(name) == role]
        fitting = mapped or [n for n in self.left if self.group.signature(n) == want and n not in self.key_map]
        expected = len(fitting) - rivals if count is None else count
        if len(fitting) > expected:
            hinted = [name for name in fitting if re.search(_HINTS[role], name)]
            if len(hinted) == expected:
                fitting = hinted
            else:
                fitting = (hinted if len(hinted) > expected else fitting)[:expected]
                warn(f"{self.group.label}: took {fitting} for {role} by order; settle it with key_map", stacklevel=6)
        if len(fitting) < max(expected, 1) and not (count is None and expected <= 0):
            have = {name: self.group.signature(name) for name in self.left}
            raise ValueError(f"state_dict must hold {role} with shapes {want} in {self.group.label}, got {have}; name it in key_map")
        for name in fitting:
            if self.group.signature(name) != want:
                raise ValueError(f"state_dict must hold {role} with shapes {want}, got {self.group.signature(name)} for {name}")
            self.left.remove(name)
        return [self.group.maps(name) for name in fitting]

    def finish(self) -> None:
        if self.left:
            raise ValueError(
                f"state_dict must hold nothing else in {self.group.label}, got {self.left}; name unused modules in key_map as 'drop'"
            )


def _put(out: dict[str, Tensor], path: str, maps: list[dict[str, Tensor]], *, sequence: bool) -> None:
    for i, values in enumerate(maps):
        for leaf, value in values.items():
            out[f"{path}.{2 * i}.{leaf}" if sequence else f"{path}.{leaf}"] = value


def _read_layer(group: _Group, key_map: Mapping[str, str], C: int, D: int, out: dict[str, Tensor], path: str) -> int:
    """Translate a layer; returns the number of experts."""
    reader = _Reader(group, key_map)
    _put(out, f"{path}.node_mlp", reader.take("node_mlp", _mlp(2 * D, D, D))[0], sequence=True)
    _put(out, f"{path}.attention.linear", reader.take("attention", _mlp(D, C))[0], sequence=False)
    same = C == D
    experts = sum(reader.group.signature(n) == _mlp(2 * D + C, D, C) for n in reader.left) - int(same)
    _put(out, f"{path}.edge_mlp", reader.take("edge_mlp", _mlp(2 * D + C, D, D), count=1)[0], sequence=True)
    for k, maps in enumerate(reader.take("experts", _mlp(2 * D + C, D, C), count=experts)):
        _put(out, f"{path}.aggregation.experts.{k}", maps, sequence=True)
    _put(out, f"{path}.aggregation.factor_mlp", reader.take("factor_mlp", _mlp(C, C, C))[0], sequence=True)
    for role, target in (("W_u", "W_u"), ("W_q", "relu.W_q"), ("W_k", "relu.W_k")):
        _put(out, f"{path}.{target}", reader.take(role, _map(C, C))[0], sequence=False)
    reader.finish()
    return experts


def _split(weights: Mapping[str, Tensor], key_map: Mapping[str, str]) -> tuple[_Group, dict[int, _Group], dict[int, _Group]]:
    """Modules of the top, of the layers and of the heads, without those that are never used."""
    top, layers, heads = _Group("the top level"), {}, {}
    for key, value in weights.items():
        key = key.removeprefix("module.")
        found = _GROUP.match(key)
        inner = found[3] if found else key
        if found and inner.split(".")[0] in DEAD:
            continue
        if any(key_map.get(inner[: m.start()]) == "drop" for m in re.finditer(r"\.", inner)):
            continue
        if found:
            groups = layers if found[1] == "gcl" else heads
            groups.setdefault(int(found[2]), _Group(f"{found[1]}_{found[2]}")).add(inner, value)
        else:
            top.add(key, value)
    for group in (top, *layers.values(), *heads.values()):
        group.explode()
    return top, layers, heads


def _sizes(layer: _Group) -> tuple[int, int]:
    """``C`` and ``D``: the update of the patterns is the only network from ``2 D`` to ``D`` to ``D``."""
    chains = [layer.signature(name) for name in layer.modules]
    widths = {c[0][0][0] for c in chains if len(c) == 2 and c == _mlp(2 * c[0][0][0], c[0][0][0], c[0][0][0])}
    for D in widths:
        inputs = {c[0][0][1] for c in chains if len(c) == 2 and c[0][0][0] == D and c[0][0][1] > 2 * D}
        if len(inputs) == 1:
            return inputs.pop() - 2 * D, D
    raise ValueError(f"state_dict must hold in {layer.label} a network 2D -> D -> D and networks 2D + C -> D, got shapes {chains}")


def load_official(
    cls: type[M], state_dict: Mapping[str, Any] | str | Path, variant: str, *, key_map: Mapping[str, str] | None = None, **options: Any
) -> M:
    """Build ``cls`` with the sizes and weights of an official state dict; see ``EqMotion.from_official``."""
    check_option("variant", variant, VARIANTS)
    key_map = key_map or {}
    loaded: Any = torch.load(state_dict, map_location="cpu", weights_only=True) if isinstance(state_dict, str | Path) else state_dict
    weights: Mapping[str, Tensor] = loaded.get("state_dict", loaded)
    top, layers, heads = _split(weights, key_map)
    if not layers and not heads:
        raise ValueError(f"state_dict must hold layers named gcl_0., gcl_1., ..., got keys such as {list(weights)[:3]}")
    for name, groups in (("gcl", layers), ("head", heads)):
        if sorted(groups) != list(range(len(groups))):
            raise ValueError(f"state_dict must number {name}_0 to {name}_{len(groups) - 1}, got {sorted(groups)}")
    if (variant == "pedestrian") != bool(heads):
        raise ValueError(f"variant must be 'pedestrian' if and only if there are head_<i> layers, got {variant!r} with {len(heads)}")
    C, D = _sizes(next(iter({**layers, **heads}.values())))
    out: dict[str, Tensor] = {}
    experts = [_read_layer(group, key_map, C, D, out, f"layers.{i}") for i, group in layers.items()]
    W_o: list[list[dict[str, Tensor]]] = []
    for i, group in heads.items():
        own = _Group(group.label)
        for name in list(group.modules):
            chain = group.signature(name)
            if len(chain) == 1 and not chain[0][1] and chain[0][0][1] == C and chain[0][0][0] != C:  # a head with its own output map
                own.modules[name] = group.modules.pop(name)
                W_o.append(own.maps(name))
        experts.append(_read_layer(group, key_map, C, D, out, f"mode_layers.{i}"))

    reader = _Reader(top, key_map)
    bias_maps = [top.signature(n)[0][0] for n in reader.left if len(top.signature(n)) == 1 and top.signature(n)[0][1]]
    steps = {shape[1] for shape in bias_maps if shape[0] == D // 2}
    if len(steps) != 1:
        raise ValueError(f"state_dict must hold two maps from T steps to {D // 2} features, got {bias_maps}")
    T = steps.pop()
    _put(out, "speed_embedding", reader.take("speed", _mlp(T, D // 2))[0], sequence=False)
    _put(out, "angle_embedding", reader.take("angle", _mlp(T, D // 2))[0], sequence=False)
    tokens = None
    if variant == "skeleton":
        named = [
            n for n in reader.left if key_map.get(n) == "tokens" or (re.search(_HINTS["tokens"], n) and _is_table(top.signature(n), D))
        ]
        if len(named) != 1:
            raise ValueError(f"state_dict must hold one table of tokens with {D} columns, got {named}; name it in key_map as 'tokens'")
        tokens = top.maps(named[0])[0]["weight"]
        reader.left.remove(named[0])
    _put(out, "W_x", reader.take("W_x", _map(C, T))[0], sequence=False)
    _put(out, "W_v", reader.take("W_v", _map(C, T))[0], sequence=False)
    _put(out, "reasoners.0.distance_mlp", reader.take("distance_mlp", _mlp(2 * C, D, 2 * C))[0], sequence=True)
    _put(out, "reasoners.0.edge_mlp", reader.take("edge_mlp", _mlp(2 * D + 2 * C, D, D))[0], sequence=True)
    if tokens is not None:
        out["tokens"] = tokens
        _put(out, "token_mlp", reader.take("token_mlp", _mlp(2 * D, D, D))[0], sequence=True)
    _put(out, "reasoners.0.node_mlp", reader.take("node_mlp", _mlp(2 * D, D, D))[0], sequence=True)
    last = [top.signature(n) for n in reader.left if len(top.signature(n)) == 2 and top.signature(n)[0] == ((D, 2 * D + 2 * C), True)]
    K = last[0][1][0][0] if last else 0
    _put(out, "reasoners.0.category_mlp", reader.take("category_mlp", _mlp(2 * D + 2 * C, D, K))[0], sequence=True)
    if not W_o:
        outs = [top.signature(n) for n in reader.left if len(top.signature(n)) == 1 and top.signature(n)[0][0][1] == C]
        F = outs[0][0][0][0] if outs else 0
        W_o = reader.take("W_o", _map(F, C), count=max(len(heads), 1))
    for i, maps in enumerate(W_o):
        _put(out, f"W_o.{i}", maps, sequence=False)
    reader.finish()
    if len(set(experts)) != 1:
        raise ValueError(f"state_dict must hold the same number of experts in every layer, got {experts}")
    config: dict[str, Any] = {
        "channels": C,
        "hidden_dim": D,
        "n_layers": len(layers) + (1 if heads else 0),
        "n_categories": K,
        "n_null_categories": K - experts[0],
        "n_modes": max(len(heads), 1),
        "agent_tokens": None if tokens is None else len(tokens),
        "legacy_angle": True,
    }
    model = cls(T, W_o[0][0]["weight"].shape[0], **{**config, **options})
    model.load_state_dict(out)
    return model.eval()


def _is_table(signature: Chain, D: int) -> bool:
    return len(signature) == 1 and not signature[0][1] and signature[0][0][1] == D


_LAYER_NAMES = {
    "edge_mlp": "edge_mlp",
    "attention.linear": "att_mlp.0",
    "aggregation.experts": "category_mlp",
    "aggregation.factor_mlp": "factor_mlp",
    "W_u": "coord_vel",
    "relu.W_q": "layer_q",
    "relu.W_k": "layer_k",
    "node_mlp": "node_mlp",
}
_TOP_NAMES = {
    "speed_embedding": "embedding",
    "angle_embedding": "embedding2",
    "W_x": "coord_trans",
    "W_v": "vel_trans",
    "reasoners.0.distance_mlp": "distance_mlp",
    "reasoners.0.edge_mlp": "edge_mlp",
    "reasoners.0.node_mlp": "node_mlp",
    "reasoners.0.category_mlp": "category_mlp",
    "tokens": "token_embedding.weight",
    "token_mlp": "token_mlp",
    "W_o": "predict_head",
}


def official_state_dict(model: torch.nn.Module, *, dead: bool = True) -> dict[str, Tensor]:
    """Weights of a model in the layout that ``from_official`` assumes.

    Args:
        model: ``EqMotion`` with the official options.
        dead: Whether to add the unused networks, filled with zeros.

    Returns:
        Official name to weight.

    Raises:
        ValueError: If the model has modules that the official one has not.
    """
    out: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        layer = re.match(r"^(layers|mode_layers)\.(\d+)\.(.+)$", key)
        prefix, inner, names = (
            (f"{'gcl' if layer[1] == 'layers' else 'head'}_{layer[2]}.", layer[3], _LAYER_NAMES) if layer else ("", key, _TOP_NAMES)
        )
        role = next((r for r in names if inner == r or inner.startswith(f"{r}.")), None)
        if role is None:
            raise ValueError(f"model must have the modules of the official one only, got {key}")
        out[f"{prefix}{names[role]}{inner.removeprefix(role)}"] = value
        if layer and dead and role == "node_mlp":
            D, C = model.config["hidden_dim"], model.config["channels"]  # pyright: ignore[reportIndexIssue, reportArgumentType]
            for name, shape in {"coord_mlp.0": (D, D), "coord_mlp.2": (C, D), "node_att_mlp.0": (D, D), "node_att_mlp.2": (1, D)}.items():
                out[f"{prefix}{name}.weight"] = value.new_zeros(shape)
                if name != "coord_mlp.2":
                    out[f"{prefix}{name}.bias"] = value.new_zeros(shape[0])
    return out
