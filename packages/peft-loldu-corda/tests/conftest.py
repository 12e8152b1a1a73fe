"""Shared fixtures: tiny randomly initialised models of transformers, no downloads."""

import copy
import os
import sys
from importlib.util import find_spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

_LIBRARIES: list[torch.library.Library] = []


@pytest.fixture(scope="session", autouse=True)
def vision_libraries() -> None:
    """Make transformers' vision models importable next to a CPU build of torch, whose torchvision has no compiled operators."""
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)  # forgotten with the object


def _build(kind: str, seed: int):
    import transformers as tf

    torch.manual_seed(seed)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.2}
    ids = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    if kind == "llama":
        model = tf.LlamaForCausalLM(tf.LlamaConfig(**small, vocab_size=64, bos_token_id=0, eos_token_id=1, pad_token_id=2))
        return model, {"input_ids": ids}, ["q_proj", "down_proj"]
    if kind == "bert":
        model = tf.BertForSequenceClassification(tf.BertConfig(**small, vocab_size=64, pad_token_id=2))
        return model, {"input_ids": ids}, ["query", "value"]
    if kind == "roberta":
        model = tf.RobertaForSequenceClassification(tf.RobertaConfig(**small, vocab_size=64, pad_token_id=2, max_position_embeddings=40))
        return model, {"input_ids": ids}, ["query", "value"]
    if kind == "vit":
        model = tf.ViTForImageClassification(tf.ViTConfig(**small, image_size=16, patch_size=8))
        names = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        targets = ["query", "value"] if "query" in names else ["q_proj", "v_proj"]
        return model, {"pixel_values": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))}, targets
    if kind == "gpt2":
        model = tf.GPT2LMHeadModel(
            tf.GPT2Config(n_embd=32, n_layer=2, initializer_range=0.2, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=1)
        )
        return model, {"input_ids": ids}, ["c_attn", "c_proj"]
    config = tf.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=64, decoder_start_token_id=0)
    return tf.T5ForConditionalGeneration(config), {"input_ids": ids, "labels": ids}, ["q", "v"]


class Tiny:
    """A tiny model with inputs and target layers."""

    def __init__(self, kind: str, seed: int = 0) -> None:
        self.kind = kind
        self.model, self.inputs, self.targets = _build(kind, seed)
        self.model.eval()
        self.untouched = copy.deepcopy(self.model)

    def logits(self, model) -> torch.Tensor:
        with torch.no_grad():
            return model(**self.inputs).logits

    def train(self, model, steps: int = 3, lr: float = 3e-2):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
        model.train()
        torch.manual_seed(1)
        for _ in range(steps):
            optimizer.zero_grad()
            model(**self.inputs).logits.float().square().mean().mul(-1).backward()
            optimizer.step()
        return model.eval()

    def fresh(self, seed: int | None = None):
        """The untouched model again, or another seed's."""
        return copy.deepcopy(self.untouched) if seed is None else _build(self.kind, seed)[0].eval()


@pytest.fixture
def tiny():
    return Tiny


@pytest.fixture
def llama() -> Tiny:
    return Tiny("llama")
