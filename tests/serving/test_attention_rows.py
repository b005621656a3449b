"""Rows of attention alone in the engine: each has as many keys as it has read, an anchor those of its prompt."""

from __future__ import annotations

import random

import pytest

from prosg.backbones.hf.model import HFBackbone
from prosg.model.prosg import ProSG
from prosg.serving import Engine
from support.hf_models import hf_backbone, hf_model
from support.models import WORDS, word_tokenizer
from support.serving import Told, alone, finish, request, submit


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_rows_of_attention_alone_and_in_a_window(name: str) -> None:
    """Prompts of any length, so rows have keys of any number; in a window (mistral) anchors keep as many."""
    model = ProSG(hf_backbone(name, vocab=len(WORDS)))
    model.tokenizer = word_tokenizer()
    draw, memories = random.Random(2), ["none", "anchor"] if name == "mistral" else ["none"]
    requests = [
        request([draw.randrange(1, len(WORDS)) for _ in range(size)], memory=draw.choice(memories), max_tokens=9)
        for size in (3, 12, 1, 7, 2, 16, 5, 4)
    ]
    expected = [alone(model, one) for one in requests]
    engine, told = Engine(model, max_rows=3, prefill_chunk=8), list[Told]()
    for one in requests:
        told.append(submit(engine, one)[1])
        engine.step()
    finish(engine)
    assert [(ours.text, ours.ids) for ours in told] == expected


def test_rows_without_further_positions_end_and_the_others_go_on() -> None:
    model = ProSG(HFBackbone(hf_model("gpt2", vocab=len(WORDS), n_positions=8)))
    model.tokenizer = word_tokenizer()
    requests = [request(range(1, size + 1), temperature=0.0, max_tokens=20, end_token=14) for size in (6, 3)]
    engine = Engine(model)
    told = [submit(engine, one)[1] for one in requests]
    finish(engine)
    assert [(ours.text, ours.ids) for ours in told] == [alone(model, one) for one in requests]
    assert [(ours.end.reason, len(ours.ids)) for ours in told if ours.end] == [("length", 3), ("length", 6)]
    assert engine.statistics().finished == {"length": 2}
