"""A small model with a chat template of its own, as transformers writes its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.backbone import save_backbone

CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | "
    "trim + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<s>", "<|im_start|>", "<|im_end|>"]
TEXTS = ["system user assistant\nTom saw a cat. Why? be kind, say the code 12345 67890"] * 4


def chat_tokenizer() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXTS, trainer)
    assert all(isinstance(token, AddedToken) for token in inner.get_added_tokens_decoder().values())
    return inner


def chat_model(folder: Path, template: Any = CHATML, *, file: bool = False) -> Path:
    """Writes a model's folder; `file`: the template in a file of its own instead of tokenizer_config.json."""
    tokenizer = chat_tokenizer()
    backbone = RWKV4(RWKV4Config(vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_layers=2))
    backbone.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        backbone.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    folder.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder.parent / "tokenizer.json"))
    save_backbone(backbone, folder, tokenizer=folder.parent / "tokenizer.json", overwrite=True)
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "add_bos_token": False}
    if file:
        (folder / "chat_template.jinja").write_text(template)
    else:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
