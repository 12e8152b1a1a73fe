"""Two LoLDU adapters of a kilobyte each on one classifier, switched at run time."""

import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import RobertaConfig, RobertaForSequenceClassification

from peft_loldu_corda import LolduConfig, convert_to_lora

torch.manual_seed(0)
roberta = RobertaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=100, num_labels=2)
base = RobertaForSequenceClassification(roberta).eval()
ids = torch.randint(5, 100, (32, 12))
before = base(ids).logits.detach()

with tempfile.TemporaryDirectory() as folder:
    for person, labels in (("ada", ids[:, 0] % 2), ("ben", ids[:, 1] % 2)):
        fresh = RobertaForSequenceClassification(roberta).eval()
        fresh.load_state_dict(base.state_dict())
        config = LolduConfig(r=16, lora_alpha=16, target_modules=["query", "value"], column_order="qr")
        model = get_peft_model(fresh, config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-2, weight_decay=0.0)
        for _ in range(40):
            loss = model(input_ids=ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(f"{folder}/{person}")
        size = Path(folder, person, "adapter_model.safetensors").stat().st_size
        print(f"{person}: {model.get_nb_trainable_parameters()[0]} numbers, {size} bytes on disk, loss {float(loss.detach()):.3f}")

    model = PeftModel.from_pretrained(base, f"{folder}/ada", adapter_name="ada")
    model.load_adapter(f"{folder}/ben", "ben")
    for person in ("ada", "ben"):
        model.set_adapter(person)
        print(person, model(ids[:1]).logits.tolist())
    lora, state = convert_to_lora(model, "ben")  # for programs that serve LoRA
    print("as LoRA:", sum(v.numel() for v in state.values()), "numbers, rank", lora.r)

with model.disable_adapter():
    print("the disabled model is the base:", bool(torch.equal(model(ids).logits, before)))
