"""CorDA from calibration to a plain LoRA file, on a randomly initialised Llama: nothing is downloaded."""

import tempfile

import torch
from peft import PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import peft_loldu_corda as plc

torch.manual_seed(0)
llama = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=100, bos_token_id=0, eos_token_id=1
)
base = LlamaForCausalLM(llama).eval()
ids = torch.randint(2, 100, (16, 32))
mask = torch.ones_like(ids)
mask[::2, 20:] = 0  # padded sequences: what stands there is not counted

targets = ["q_proj", "v_proj", "down_proj"]
stats = plc.collect_input_stats(
    base, [{"input_ids": i, "attention_mask": m} for i, m in zip(ids.split(4), mask.split(4), strict=True)], target_modules=targets
)
print(stats)

config = plc.CordaLoraConfig(r=8, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
config = plc.preprocess_corda(base, config, stats=stats, mode="kpm")  # keep what these data need
with torch.no_grad():
    before = base(ids).logits
    model = get_peft_model(base, config)
    print("change of the output before training:", float((model(ids).logits - before).abs().max()))

optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for _ in range(10):
    loss = model(input_ids=ids, labels=ids).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {float(loss.detach()):.3f}")

with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    errors = plc.save_corda_adapter(model, folder, "lora-2r")  # loads with plain peft on the untouched base
    after = model(ids).logits
    with model.disable_adapter():
        print("the disabled model is the base:", bool(torch.equal(model(ids).logits, before)))
    again = PeftModel.from_pretrained(model.unload(), folder)
    print("plain LoRA differs by", float((again(ids).logits - after).abs().max()), "- relative error", max(errors.values()))
