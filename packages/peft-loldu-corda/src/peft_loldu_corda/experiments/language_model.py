"""Discard the smallest components of a small trained language model: which decomposition loses least (CorDA, figure 2).

``python -m peft_loldu_corda.experiments.language_model`` pretrains a Llama of three layers on the help texts that come with Python.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peft_loldu_corda.corda.collect import collect_input_stats
from peft_loldu_corda.corda.decompose import decompose
from peft_loldu_corda.corda.stats import InputStats

__all__ = ["WAYS", "held_out_loss", "help_text", "pretrain_llama", "truncate", "truncation"]

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WAYS = {"plain SVD": "none", "ASVD (diag)": "diag", "CO-SVD (cov)": "cov", "sqrt-whitened": "sqrt"}
LENGTH = 96


def help_text() -> Tensor:
    """The help texts of Python as bytes, shape ``(n,)``."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[key] for key in sorted(topics))
    return torch.tensor(list(text.encode("ascii", "replace")))


def batch_of(data: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Random windows, shape ``(size, LENGTH)``."""
    starts = torch.randint(0, len(data) - LENGTH, (size,), generator=generator)
    return torch.stack([data[i : i + LENGTH] for i in starts.tolist()])


def pretrain_llama(
    data: Tensor, *, seed: int = 0, steps: int = 500, device: str = "cpu", progress: Callable[[float, str], None] | None = None
) -> Any:
    """A Llama of three layers, width 96, trained on bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=128,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: Any = LlamaForCausalLM(config)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        ids = batch_of(data, 12, generator).to(device)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None and step % 20 == 0:
            progress(step / steps, f"pretraining, loss {float(loss.detach()):.2f}")
    return model.eval()


@torch.no_grad()
def held_out_loss(model: Any, data: Tensor, *, batches: int = 3, seed: int = 7) -> float:
    """Loss per byte on random windows, the same ones each time."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    losses = []
    for _ in range(batches):
        ids = batch_of(data, 32, generator).to(device)
        losses.append(float(model(input_ids=ids, labels=ids).loss))
    return sum(losses) / len(losses)


def truncate(model: Any, stats: InputStats, whitening: str, share: float) -> Any:
    """A copy of the model whose projections have lost their smallest components, a share of them."""
    small = copy.deepcopy(model)
    for name in stats:
        layer: nn.Linear = small.get_submodule(name)
        W = layer.weight.detach()
        keep = max(1, round((1 - share) * min(W.shape)))
        d = decompose(W, stats[name], keep, mode="ipm", whitening=whitening, mean_abs=stats.mean_abs(name), name=name)  # pyright: ignore
        layer.weight.data = (d.U * d.S @ d.Vh).to(W)
    return small


def truncation(
    *,
    seed: int = 0,
    device: str = "cpu",
    steps: int = 500,
    shares: tuple[float, ...] = (0.5, 0.75),
    progress: Callable[[float, str], None] | None = None,
) -> tuple[float, dict[tuple[str, float], float]]:
    """Loss of the trained model, and the increase of it for every decomposition and discarded share."""
    data = help_text()
    train, held_out = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]
    model = pretrain_llama(train, seed=seed, steps=steps, device=device, progress=progress)
    generator = torch.Generator().manual_seed(seed + 1)
    calibration = [{"input_ids": batch_of(train, 16, generator)} for _ in range(16)]
    stats = collect_input_stats(model, calibration, target_modules=PROJECTIONS)
    loss = held_out_loss(model, held_out)
    increase = {}
    for name, whitening in WAYS.items():
        for share in shares:
            increase[name, share] = held_out_loss(truncate(model, stats, whitening, share), held_out) - loss
    return loss, increase


def main() -> None:
    """Print the whole table."""
    from rich.console import Console
    from rich.table import Table

    torch.set_num_threads(1)
    loss, increase = truncation()
    table = Table(
        "decomposition", "50 % discarded", "75 % discarded", title=f"increase of the loss over {loss:.3f} nats per byte", box=None
    )
    for name in WAYS:
        table.add_row(name, *(f"{increase[name, share]:+.4f}" for share in (0.5, 0.75)))
    Console().print(table)


if __name__ == "__main__":
    main()
