"""Evaluated systems of a tiny model and five prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prosg.core.encoded import EncodedPrompt
from prosg.core.tensors import pad
from prosg.data.row import Row
from prosg.evaluation.config import GenerationConfig, SystemConfig
from prosg.evaluation.systems.local import LocalSystem
from prosg.model.prosg import ProSG
from support.models import WORDS, live_model, word_tokenizer

GREEDY = GenerationConfig(max_tokens=24, temperature=0.0)
SAMPLED = GenerationConfig(max_tokens=24, temperature=1.0, seed=5)
PROMPTS = ["Tom saw a", "b", "c d red. Tom saw", "big! a b", "why? then ab c d a"]


def row(number: int, prompt: str, **changes: Any) -> Row:
    return Row(**{"id": f"row-{number}", "prompt": prompt, "answer": "a b c", "kind": "k", **changes})


ROWS = [row(i, prompt) for i, prompt in enumerate(PROMPTS)]


def tiny(module: str | None = "plus", dtype: torch.dtype = torch.float32) -> ProSG:
    model = live_model("rwkv4", module, dtype, vocab=len(WORDS))
    with torch.no_grad():
        model.backbone.head.weight *= 0.3  # so that it writes of everything
    model.tokenizer = word_tokenizer()
    return model


def system(model: ProSG, rows: Sequence[Row] = ROWS, training: Any = None, **options: Any) -> LocalSystem:
    return LocalSystem(SystemConfig(model="tiny", **options), model, rows, training or {}, 3)


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def encode(model: ProSG, texts: Sequence[str]) -> EncodedPrompt:
    prompts = [ids(text) for text in texts]
    return model.encode(pad(prompts), torch.tensor([len(prompt) for prompt in prompts]))


def alone(model: ProSG, prompt: str) -> EncodedPrompt:
    return model.encode(torch.tensor([ids(prompt)]))
