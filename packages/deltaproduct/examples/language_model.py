"""A causal language model in transformers: train a moment on text, then generate with a batch and with beams."""

import inspect

import torch

from deltaproduct import DeltaProductConfig, DeltaProductForCausalLM, functional

text = torch.tensor(list(inspect.getsource(functional).encode()))
config = DeltaProductConfig(
    vocab_size=256,
    hidden_size=64,
    num_hidden_layers=2,
    num_heads=4,
    head_dim=16,
    num_householder=2,
    initializer_range=0.02,
    intermediate_size=128,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
)
torch.manual_seed(0)
model = DeltaProductForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
for step in range(40):
    at = torch.randint(len(text) - 96, (16,))
    batch = torch.stack([text[i : i + 96] for i in at.tolist()])
    loss = model(input_ids=batch, labels=batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        print(f"step {step + 1}, loss {loss.item():.2f} nats per byte")

model.eval()
prompts = [b"def ", b"raise Value"]
width = max(map(len, prompts))
ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
mask = (ids != 0).long()
for beams in (1, 3):
    out = model.generate(ids, attention_mask=mask, max_new_tokens=24, num_beams=beams, do_sample=False)
    for prompt, row in zip(prompts, out, strict=True):
        print(beams, "beam(s):", repr(bytes(row[width - len(prompt) :].tolist()).decode(errors="replace")))
