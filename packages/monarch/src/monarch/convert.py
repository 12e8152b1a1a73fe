"""Replace the linear layers of a model by Monarch layers and back, and the training schedule that does the second."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocore._checks import check_option, check_positive_int
from monarch.linear import BlockDiagLinear, MonarchLinear

__all__ = ["ConversionReport", "LayerReport", "ReverseSparsification", "convert_model", "densify_model"]

Policy = Literal["reset", "keep-other", "project"]
POLICIES = ("reset", "keep-other", "project")


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Args:
        name: Its path in the model.
        in_features, out_features: Its size.
        before, after: Numbers in its weight.
        rel_error: Relative error of the projection; ``None`` where the layer starts afresh or stays.
        skipped: Why it stays; empty if it was replaced.
    """

    name: str
    in_features: int
    out_features: int
    before: int
    after: int
    rel_error: float | None = None
    skipped: str = ""


@dataclass
class ConversionReport:
    """What ``convert_model`` did, layer by layer; prints as a table."""

    layers: list[LayerReport] = field(default_factory=list)

    @property
    def replaced(self) -> list[LayerReport]:
        """Layers that were replaced."""
        return [layer for layer in self.layers if not layer.skipped]

    def __str__(self) -> str:
        lines = [f"{'layer':<40} {'in':>6} {'out':>6} {'before':>10} {'after':>10}  error"]
        for x in self.layers:
            note = x.skipped or ("" if x.rel_error is None else f"{x.rel_error:.3f}")
            lines.append(f"{x.name:<40} {x.in_features:>6} {x.out_features:>6} {x.before:>10} {x.after:>10}  {note}")
        before, after = sum(x.before for x in self.replaced), sum(x.after for x in self.replaced)
        share = f" ({after / before:.1%})" if before else ""
        lines.append(f"{len(self.replaced)} of {len(self.layers)} layers replaced, {before} -> {after} numbers{share}")
        return "\n".join(lines)


def _linear_weight(module: nn.Module) -> Tensor | None:
    """Weight ``(out, in)`` of a linear layer, also of transformers' ``Conv1D``, which stores the transpose; ``None`` for others."""
    if type(module) is nn.Linear:
        return module.weight
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return module.weight.T  # pyright: ignore[reportReturnType]
    return None


def _selected(name: str, module: nn.Module, include: Any) -> bool:
    if include is None:
        return True
    if isinstance(include, str):
        return re.search(include, name) is not None
    if isinstance(include, type):
        return isinstance(module, include)
    include = tuple(include)
    if all(isinstance(i, type) for i in include):
        return isinstance(module, include)
    return any(re.search(pattern, name) for pattern in include)


def _assign(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def convert_model(
    model: nn.Module,
    include: str | type | Iterable[str] | Iterable[type] | None = None,
    nblocks: int | Literal["sqrt"] = 4,
    rank: int | None = None,
    project: bool = True,
    skip_if_larger: bool = True,
) -> ConversionReport:
    r"""Replace linear layers, in place, by ``MonarchLinear`` (timm, transformers and any other model; GPT-2's ``Conv1D`` too).

    Args:
        model: Model; may not itself be the layer.
        include: Which layers: a regular expression searched in their path (such as ``r"mlp\.fc[12]$"``), a type, or several of either; all
            by default.
        nblocks: Blocks of each layer.
        rank: Rank of the blocks.
        project: Whether to start at the projection of the trained weights; at random otherwise. Trained weights are often close to low
            rank, and then a plain SVD of equal size is nearer to them.
        skip_if_larger: Leave a layer whose factors would hold as many numbers as its weight.

    Returns:
        A report of every layer that was selected. A layer whose weight is shared with another module stays, since the two would part.

    Raises:
        ValueError: If nothing is selected, or the model is itself a linear layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
        >>> print(convert_model(model).replaced[0].after)
        5120
    """
    if _linear_weight(model) is not None:
        raise ValueError("model must contain the layers to replace, got a linear layer; use MonarchLinear.from_dense")
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    report, made = ConversionReport(), {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        weight = _linear_weight(module)
        if weight is None or not _selected(name, module, include):
            continue
        if id(module) in made:  # one layer used in several places stays one layer
            if made[id(module)] is not None:
                _assign(model, name, made[id(module)])
            continue
        entry, made[id(module)] = _convert(name, module, weight, owners, nblocks, rank, project, skip_if_larger)
        report.layers.append(entry)
        if made[id(module)] is not None:
            _assign(model, name, made[id(module)])
    if not report.layers:
        raise ValueError(f"include must select at least one linear layer of {type(model).__name__}, but {include!r} selects none")
    return report


def _convert(
    name: str,
    module: nn.Module,
    weight: Tensor,
    owners: dict[int, set[int]],
    nblocks: Any,
    rank: int | None,
    project: bool,
    skip_if_larger: bool,
) -> tuple[LayerReport, MonarchLinear | None]:
    out, into = weight.shape
    bias: Any = module.bias

    def stays(why: str) -> tuple[LayerReport, None]:
        return LayerReport(name, into, out, weight.numel(), weight.numel(), skipped=why), None

    if len(owners[id(module.weight)]) > 1:
        return stays("its weight is shared with another module")
    if isinstance(nblocks, int) and nblocks > min(out, into):
        return stays(f"smaller than {nblocks} blocks")
    with torch.device("meta"):
        planned = MonarchLinear(into, out, bias is not None, nblocks=nblocks, rank=rank, dtype=weight.dtype)
    after = planned.weight1.numel() + planned.weight2.numel()
    if skip_if_larger and after >= weight.numel():
        return stays(f"the factors would hold {after} numbers")
    if project:
        layer = MonarchLinear.from_dense(weight, bias, nblocks=nblocks, rank=rank)
    else:
        layer = MonarchLinear(into, out, bias is not None, nblocks=nblocks, rank=rank, device=weight.device, dtype=weight.dtype)
    layer.train(module.training).requires_grad_(module.weight.requires_grad)  # pyright: ignore[reportArgumentType]
    return LayerReport(name, into, out, weight.numel(), after, layer.projection_error), layer


def densify_model(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, policy: Policy = "reset") -> list[str]:
    """Replace every Monarch and block-diagonal layer, in place, by the ``nn.Linear`` that computes the same.

    Args:
        model: Model.
        optimizer: Optimizer whose parameter groups follow; each new weight joins the group of the first factor it replaces.
        policy: State of the optimizer: ``"reset"``, all of it starts afresh (as in the paper's recipe); ``"keep-other"``, only that of the
            replaced parameters does; ``"project"`` (experimental, Adam): the dense first moment is the image of those of the factors under
            the product rule, and the second moment its square plus the mean second moment of the factors.

    Returns:
        Paths of the replaced layers.

    Raises:
        ValueError: If the policy is unknown.
    """
    check_option("policy", policy, POLICIES)
    replaced: dict[int, nn.Linear] = {}
    names = []
    swap: dict[Tensor, Tensor | None] = {}
    moments: dict[Tensor, dict[str, Any]] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(module, MonarchLinear | BlockDiagLinear):
            continue
        names.append(name)
        if id(module) not in replaced:
            linear = replaced[id(module)] = module.to_linear()
            factors = [p for key, p in module.named_parameters() if key.startswith("weight")]
            linear.weight.requires_grad_(factors[0].requires_grad)
            swap |= {factors[0]: linear.weight, **dict.fromkeys(factors[1:])}
            if module.bias is not None:
                linear.bias.requires_grad_(module.bias.requires_grad)
                swap[module.bias] = linear.bias
            if optimizer is not None and policy == "project":
                moments[linear.weight] = _projected_moments(module, factors, optimizer)
                if module.bias is not None:
                    moments[linear.bias] = dict(optimizer.state.get(module.bias, {}))
        _assign(model, name, replaced[id(module)])
    if optimizer is not None:
        _follow(optimizer, swap, policy, moments)
    return names


def _projected_moments(
    module: MonarchLinear | BlockDiagLinear, factors: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    states = [optimizer.state.get(p, {}) for p in factors]
    if not all("exp_avg" in s and "exp_avg_sq" in s for s in states):
        return {}
    names = [key for key, p in module.named_parameters() if key.startswith("weight")]
    values = {key: p.detach() for key, p in module.named_parameters()}

    def dense(*weights: Tensor) -> Tensor:
        given = {**values, **dict(zip(names, weights, strict=True))}
        return torch.func.functional_call(_Dense(module), {f"layer.{key}": v for key, v in given.items()}, ())

    first = torch.func.jvp(dense, tuple(values[key] for key in names), tuple(s["exp_avg"] for s in states))[1]
    spread = torch.stack([s["exp_avg_sq"].mean() for s in states]).mean()
    return {"step": states[0]["step"], "exp_avg": first.contiguous(), "exp_avg_sq": first.square() + spread}


class _Dense(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        return self.layer.to_dense()  # pyright: ignore[reportCallIssue]


def _follow(
    optimizer: torch.optim.Optimizer, swap: dict[Tensor, Tensor | None], policy: Policy, moments: dict[Tensor, dict[str, Any]]
) -> None:
    for group in optimizer.param_groups:
        group["params"] = [new for p in group["params"] if (new := swap.get(p, p)) is not None]
    if policy == "reset":
        optimizer.state.clear()
        return
    for old in swap:
        optimizer.state.pop(old, None)
    for parameter, state in moments.items():
        if state:
            optimizer.state[parameter].update(state)


class ReverseSparsification:
    """Train with Monarch layers first and dense ones for the rest: call ``step(i)`` once per training step.

    The model computes the same before and after the switch. Dao et al., sec. 4.3: the last 10 to 20 % of the steps are dense.

    Args:
        model: Model with Monarch layers.
        optimizer: Its optimizer, which follows the switch; or ``None``.
        switch_step: First step that is dense.
        policy: As ``densify_model``.

    Raises:
        ValueError: If ``switch_step`` is negative or the policy unknown.
        TypeError: If ``switch_step`` is not an int.

    Example:
        >>> model = nn.Sequential(MonarchLinear(16, 16))
        >>> schedule = ReverseSparsification(model, torch.optim.AdamW(model.parameters()), switch_step=900)
        >>> [schedule.step(i) for i in (0, 899, 900, 901)]
        [False, False, True, False]
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, switch_step: int, *, policy: Policy = "reset") -> None:
        check_positive_int("switch_step", switch_step, minimum=0)
        check_option("policy", policy, POLICIES)
        self.model, self.optimizer, self.switch_step = model, optimizer, switch_step
        self.policy: Policy = policy
        self.dense = False

    def step(self, i: int) -> bool:
        """Densify if step ``i`` is the switch or comes after it; returns whether it did so now."""
        if self.dense or i < self.switch_step:
            return False
        densify_model(self.model, self.optimizer, self.policy)
        self.dense = True
        return True

    def state_dict(self) -> dict[str, Any]:
        """Whether the switch has been made."""
        return {"dense": self.dense}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume; densifies the model if the checkpoint's was, so call it before loading the weights and the optimizer."""
        if state["dense"] and not self.dense:
            densify_model(self.model, self.optimizer, "reset")
        self.dense = bool(state["dense"])
