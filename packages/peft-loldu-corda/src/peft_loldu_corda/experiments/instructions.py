"""The CorDA recipe on instruction data with a causal model from a local folder.

``python -m peft_loldu_corda.experiments.instructions --model Llama-2-7b/ --data MetaMathQA-395K.json --mode ipm --out adapter/``. The
paper's setting is the default: r = alpha = 128 on all seven projections, 256 sequences of 2048 tokens for calibration, AdamW 2e-5, cosine
with 3 % warm-up, batch 128, one epoch of the first 100,000 pairs, 512 tokens. ``--mode kpm --calibration nq.txt`` calibrates on text to be
kept.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from peft_loldu_corda.experiments._data import load_instructions

__all__ = ["calibration_batches", "encode_pairs", "train"]

TARGETS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
PROMPT = "Below is an instruction that describes a task. Write a response that completes it.\n\n### Instruction:\n{}\n\n### Response: "


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]], length: int) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompt and answer, and labels that count the answer only."""
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    encoded = []
    for question, answer in pairs:
        prompt = tokenizer(PROMPT.format(question))["input_ids"]
        reply = tokenizer(answer, add_special_tokens=False)["input_ids"] + end
        encoded.append(((prompt + reply)[:length], ([-100] * len(prompt) + reply)[:length]))
    return encoded


def pad(rows: Sequence[tuple[list[int], list[int]]], padding: int) -> dict[str, Tensor]:
    """One batch, padded on the right."""
    longest = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [padding] * (longest - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows]),
    }


def calibration_batches(tokenizer: Any, text: str, samples: int, length: int) -> list[dict[str, Tensor]]:
    """Windows of one long text.

    Raises:
        ValueError: If the text is shorter than one window.
    """
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    rows = ids[: len(ids) // length * length].reshape(-1, length)[:samples]
    if not len(rows):
        raise ValueError(f"the calibration text must have at least {length} tokens, got {len(ids)}")
    return [{"input_ids": row[None]} for row in rows]


def train(
    model: Any,
    rows: Sequence[tuple[list[int], list[int]]],
    *,
    lr: float,
    epochs: int,
    batch: int,
    micro: int,
    padding: int,
    seed: int,
    device: str,
) -> list[float]:
    """AdamW without weight decay, cosine after 3 % warm-up, gradients accumulated over micro-batches; returns the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    steps = max(1, epochs * -(-len(rows) // batch))
    warm = max(1, int(0.03 * steps))
    parts: Any = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warm)),
    ]
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [warm])
    generator = torch.Generator().manual_seed(seed)
    model.train()
    losses = []
    for _ in range(epochs):
        for chosen in torch.randperm(len(rows), generator=generator).split(batch):
            pieces = chosen.split(micro)
            total = 0.0
            for piece in pieces:
                inputs = pad([rows[i] for i in piece.tolist()], padding)
                loss = model(**{k: v.to(device) for k, v in inputs.items()}).loss * (len(piece) / len(chosen))
                loss.backward()
                total += float(loss.detach())
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(total)
    model.eval()
    return losses


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Command line; returns the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a causal model with its tokenizer")
    parser.add_argument("--data", required=True, help="MetaMathQA, Alpaca or GSM8K file")
    parser.add_argument("--out", required=True, help="folder for the adapter, written as LoRA of twice the rank")
    parser.add_argument("--mode", choices=("ipm", "kpm"), default="ipm")
    parser.add_argument("--calibration", help="text to calibrate on; the training data otherwise")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--targets", default=TARGETS)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from peft_loldu_corda import CordaLoraConfig, preprocess_corda, save_corda_adapter

    pairs = load_instructions(options.data)[: options.pairs]
    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(options.model, local_files_only=True, dtype=getattr(torch, options.dtype)).to(
        options.device
    )
    text = Path(options.calibration).read_text(encoding="utf-8") if options.calibration else "\n".join(f"{q}\n{a}" for q, a in pairs)
    config: Any = CordaLoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=options.targets.split(","), task_type="CAUSAL_LM")
    batches = calibration_batches(tokenizer, text, options.samples, options.window)
    model = get_peft_model(model, preprocess_corda(model, config, data=batches, mode=options.mode))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    losses = train(
        model,
        encode_pairs(tokenizer, pairs, options.length),
        lr=options.lr,
        epochs=options.epochs,
        batch=options.batch_size,
        micro=options.micro_batch_size,
        padding=padding,
        seed=options.seed,
        device=options.device,
    )
    save_corda_adapter(model, options.out, "lora-2r")
    Console().print(f"{len(losses)} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}; adapter in {options.out}")
    return losses


if __name__ == "__main__":
    main()
