"""Checks of the model's sizes and options."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from eqmotion.graph import check_edges
from geocore._checks import check_option, check_positive_int

__all__ = ["check_config"]


def check_config(config: Mapping[str, Any]) -> None:
    """What the constructor's arguments must be."""
    check_positive_int("in_steps", config["in_steps"], minimum=2)
    check_positive_int("hidden_dim", config["hidden_dim"], minimum=2)
    for name in ("out_steps", "channels", "n_layers", "n_categories", "n_modes", "k"):
        check_positive_int(name, config[name])
    for name in ("n_null_categories", "node_attr_dim", "edge_attr_dim"):
        check_positive_int(name, config[name], minimum=0)
    if config["n_null_categories"] >= config["n_categories"]:
        raise ValueError(f"n_null_categories must be less than n_categories = {config['n_categories']}, got {config['n_null_categories']}")
    if config["agent_tokens"] is not None:
        check_positive_int("agent_tokens", config["agent_tokens"])
    check_option("inner_attention", config["inner_attention"], ("residual", "paper"))
    check_option("category_mode", config["category_mode"], ("shared", "per_layer"))
    check_option("aggregation", config["aggregation"], ("sum", "mean"))
    if config["group"] is not None:
        check_option("group", config["group"], ("O", "SO"))
    for name in ("tau", "eps", "radius"):
        if not config[name] > 0:
            raise ValueError(f"{name} must be positive, got {config[name]}")
    graph = config["graph"]
    if isinstance(graph, Tensor):
        check_edges("graph", graph, None)
    else:
        check_option("graph", graph, ("dense", "knn", "radius"))
    if config["mode_scores"] and config["n_modes"] < 2:
        raise ValueError(f"n_modes must be at least 2 with mode_scores=True, got {config['n_modes']}")
    axis = config["up_axis"]
    if axis is not None and not isinstance(axis, int) and not any(float(a) != 0 for a in axis):
        raise ValueError(f"up_axis must be an index or a vector that is not zero, got {axis!r}")
