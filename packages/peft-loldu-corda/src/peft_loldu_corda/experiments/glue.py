"""LoLDU, CorDA or LoRA on a GLUE task with a RoBERTa from a local folder.

``python -m peft_loldu_corda.experiments.glue --model roberta-base/ --data glue/ --task RTE --method loldu``. The paper's setting: query and
value, ``r`` = 768 on a width of 768, 18.4 thousand trained numbers. Nothing is downloaded.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from peft_loldu_corda.experiments._data import GLUE, Example, load_glue

__all__ = ["accuracy", "adapted", "encode", "train"]

METHODS = ("loldu", "corda-ipm", "corda-kpm", "lora")


def encode(
    tokenizer: Any, examples: Sequence[Example], size: int, *, length: int = 128, shuffle: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """Batches of token ids, masks and labels."""
    order = torch.arange(len(examples))
    if shuffle is not None:
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(shuffle))
    for part in order.split(size):
        chosen = [examples[i] for i in part.tolist()]
        second = [e.second for e in chosen] if chosen[0].second else None
        batch = dict(tokenizer([e.first for e in chosen], second, padding=True, truncation=True, max_length=length, return_tensors="pt"))
        whole = all(isinstance(e.label, int) for e in chosen)
        batch["labels"] = torch.tensor([e.label for e in chosen], dtype=torch.long if whole else torch.float32)
        yield batch


def adapted(
    model: Any,
    method: str,
    *,
    r: int | str,
    calibration: Sequence[dict[str, Tensor]],
    targets: Sequence[str],
    task_type: str | None = "SEQ_CLS",
) -> Any:
    """The model with an adapter.

    Raises:
        ValueError: If the method is unknown.
    """
    from peft import LoraConfig, get_peft_model

    from peft_loldu_corda import CordaLoraConfig, LolduConfig, preprocess_corda

    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    common: dict[str, Any] = {"target_modules": list(targets), "task_type": task_type}
    if method == "loldu":
        return get_peft_model(model, LolduConfig(r=r, lora_alpha="r", **common))
    rank: Any = {"r": r, "lora_alpha": r}
    if method == "lora":
        return get_peft_model(model, LoraConfig(**rank, **common))
    mode: Any = method.removeprefix("corda-")
    return get_peft_model(model, preprocess_corda(model, CordaLoraConfig(**rank, **common), data=calibration, mode=mode))


def train(model: Any, batches: Sequence[dict[str, Tensor]], *, lr: float, epochs: int, device: str = "cpu") -> float:
    """AdamW without weight decay on linear warm-up (6 %) and decay; returns the last loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    total = max(1, epochs * len(batches))
    warm = max(1, int(0.06 * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warm, (total - step) / max(1, total - warm)))
    model.train()
    loss = torch.zeros(())
    for _ in range(epochs):
        for batch in batches:
            loss = model(**{k: v.to(device) for k, v in batch.items()}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    return float(loss.detach())


@torch.no_grad()
def accuracy(model: Any, batches: Sequence[dict[str, Tensor]], device: str = "cpu") -> float:
    """Share of right classes in percent, or minus the mean squared error of a regression."""
    scores = []
    for batch in batches:
        logits = model(**{k: v.to(device) for k, v in batch.items()}).logits.cpu()
        labels = batch["labels"]
        scores.append((logits.argmax(-1) == labels).float() * 100 if labels.dtype == torch.long else -(logits[:, 0] - labels).square())
    return float(torch.cat(scores).mean())


def main(argv: Sequence[str] | None = None) -> float:
    """Command line; returns the score on the development set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a RoBERTa with its tokenizer")
    parser.add_argument("--data", required=True, help="folder of GLUE")
    parser.add_argument("--task", choices=tuple(GLUE), default="RTE")
    parser.add_argument("--method", choices=METHODS, default="loldu")
    parser.add_argument("--rank", default="full", help="a number, or 'full' with loldu")
    parser.add_argument("--lr", type=float, default=3e-2, help="3e-2 suits loldu, 1e-3 the others; tune it for each")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--targets", default="query,value")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(options.seed)
    examples, held_out = (load_glue(options.data, options.task, split) for split in ("train", "dev"))
    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    classes = max(1, len(GLUE[options.task].classes))
    model = AutoModelForSequenceClassification.from_pretrained(options.model, local_files_only=True, num_labels=classes).to(options.device)
    batches = list(encode(tokenizer, examples, options.batch_size, shuffle=options.seed))
    r: int | str = "full" if options.rank == "full" else int(options.rank)
    model = adapted(model, options.method, r=r, calibration=batches[:64], targets=options.targets.split(","))
    loss = train(model, batches, lr=options.lr, epochs=options.epochs, device=options.device)
    score = accuracy(model, list(encode(tokenizer, held_out, options.batch_size)), options.device)
    trained, _ = model.get_nb_trainable_parameters()
    Console().print(
        f"{options.task}, {options.method}, lr {options.lr:g}: {score:.2f} on dev, {trained:,} trained numbers, last loss {loss:.3f}"
    )
    return score


if __name__ == "__main__":
    main()
