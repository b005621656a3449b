"""A system that reads its prompt twice, or again while it writes: against the same done by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.data.row import Row, Stage
from prosg.data.synthetic import make_rows
from prosg.data.templates import Turn
from prosg.evaluation.answer_cache import AnswerCache
from prosg.evaluation.config import EvalConfig, SystemConfig
from prosg.evaluation.forgetting import LateStages, length_controlled
from prosg.evaluation.measures import Measurement, accuracy, curve, perplexity
from prosg.evaluation.systems.prompts import read_twice
from prosg.generation.decode import Replay, decode
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts
from prosg.model.prosg import ProSG
from prosg.utils.store import hash_json
from support.local_systems import GREEDY, PROMPTS, ROWS, alone, encode, ids, row, system, tiny
from support.models import word_tokenizer


def test_prompts_are_read_twice() -> None:
    assert read_twice(ROWS[0]).prompt == "Tom saw a\nTom saw a"
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"))
    assert read_twice(row(0, "", turns=turns)).turns == (*turns[:2], Turn("user", "c\nc"))
    asked = system(tiny(), prompt="twice")
    assert asked.encoded_rows[0].prompt == ids("Tom saw a Tom saw a")


def read_on(model: ProSG, encoded: EncodedPrompt, prompt: list[int], every: int, steps: int) -> list[int]:
    """Greedy decoding by hand: after every `every` tokens the prompt is read before the last one of them."""
    logits, state, written = encoded.logits, encoded.state, list[int]()
    for _ in range(steps):
        token = int(logits.argmax())
        if token == 0:
            break
        written.append(token)
        for read in [*prompt, token] if len(written) % every == 0 else [token]:
            output = model.backbone(torch.tensor([[read]]), state, update=encoded.update, logits="last")
            assert output.logits is not None
            logits, state = output.logits, output.state
    return written


@pytest.mark.parametrize(("every", "module"), [(1, None), (3, "plus")])
def test_prompts_are_read_again_while_an_answer_is_written(every: int, module: str | None) -> None:
    model = tiny(module, torch.float64)
    few = dataclasses.replace(GREEDY, max_tokens=12)
    answers = system(model, replay_every=every).write(range(5), few)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        by_hand = read_on(model, alone(model, prompt), ids(prompt), every, few.max_tokens)
        assert answer.text == word_tokenizer().decode(by_hand)
    assert answers != system(model).write(range(5), few)


def test_what_is_read_again_is_read_by_the_model() -> None:
    """Tokens are counted where the backbone is called."""
    model, every, steps = tiny(None), 4, 12
    read: list[Tensor] = []
    call = type(model.backbone).forward

    def counted(self: Any, tokens: Tensor, *arguments: Any, **options: Any) -> Any:
        lengths = options.get("lengths")
        read.append(torch.full((len(tokens),), tokens.shape[1]) if lengths is None else lengths)
        return call(self, tokens, *arguments, **options)

    encoded = encode(model, PROMPTS)
    model.backbone.forward = counted.__get__(model.backbone)  # type: ignore[method-assign]
    again = Replay([ids(text) for text in PROMPTS], every)
    list(decode(model.backbone, encoded, Sampling(max_tokens=steps, end_token=15), replay=again))
    counts = torch.stack(read).sum(0).tolist()
    # Eleven tokens are read (nothing after the twelfth), the prompts after the fourth and the eighth.
    assert counts == [11 + 2 * len(ids(text)) for text in PROMPTS]


STAGED = [
    row(i, prompt, answer="a\nCode: b", stages=(Stage("tell", {"type": "words", "min": 1}, 0, ""),
                                                Stage("say", {"type": "exact", "text": "Code: b"}, 1, "\nCode:")))
    for i, prompt in enumerate(PROMPTS)
]  # fmt: skip


def test_prompts_are_read_again_in_curves() -> None:
    """Every two tokens of the story: the same story as by hand, and the same late stage."""
    model = tiny(None, torch.float64)
    encoded = encode(model, PROMPTS)
    asked = system(model, STAGED)
    late = LateStages(model.backbone, word_tokenizer(), asked.encoded_rows, ["Code:"] * 5)
    again = Replay([ids(text) for text in PROMPTS], 2)
    (told,) = length_controlled(late, encoded, (2,), 7, replay=again)
    sampling = Sampling(
        max_tokens=200, temperature=0.8, seed=7, hold_until=2, force_marker="Code:", late_temperature=0.0
    )
    numbers = [one.row_id for one in asked.encoded_rows]
    written = generate_texts(
        model.backbone, encoded, word_tokenizer(), sampling, numbers=np.array(numbers, dtype=np.uint64),
        replay=again,
    )  # fmt: skip
    for ours, theirs in zip(told, written, strict=True):
        story = " ".join(ours.text.split()[: ours.distance_tokens])
        assert theirs.text.startswith(f"{story} Code:")
    (plain,) = length_controlled(late, encoded, (2,), 7)
    assert [one.text for one in plain] != [one.text for one in told]


def measurement(model: ProSG, rows: Sequence[Row], **options: Any) -> Measurement:
    config = EvalConfig(generation=GREEDY)
    system = SystemConfig(model="tiny", **options)
    return Measurement(config, system, model, rows, AnswerCache(), lambda share, note="": None, [])


def test_prompt_tokens_that_are_read_again_are_counted() -> None:
    asked = measurement(tiny(), ROWS, replay_every=5)
    found = accuracy(asked)
    texts = [asked.cache.get(key, "") for key in map(hash_json, asked.prepare(ROWS).settings(GREEDY))]
    assert [one and one.text for one in texts] == [answer.text for answer in asked.answers]
    times = [min(one.tokens, 23) // 5 for one in texts if one is not None]
    wanted = sum(n * len(ids(prompt)) for n, prompt in zip(times, PROMPTS, strict=True)) / 5
    assert found == {"answers": 5, "read_again": pytest.approx(wanted)}
    assert "left_out" in perplexity(asked)
    assert accuracy(measurement(tiny(), ROWS))["read_again"] is None


def test_kinds_that_give_the_answer_away_have_no_curve() -> None:
    asked = measurement(tiny(), ROWS)
    config = dataclasses.replace(asked.config, data=dataclasses.replace(asked.config.data, kinds=["rule", "code"]))
    assert "rule" in curve(dataclasses.replace(asked, config=config))["left_out"]


def test_curves_read_the_prompt_again_before_the_late_stage() -> None:
    model = tiny(None)
    asked = measurement(model, ROWS, late_replay=True)
    small = dataclasses.replace(asked.config.curve, rows=2, sentences=[1])
    config = dataclasses.replace(asked.config, curve=small, data=dataclasses.replace(asked.config.data, kinds=["code"]))
    found = curve(dataclasses.replace(asked, config=config))["answers"]
    rows = make_rows(["code"], 2, 0, "test", sentences=(1, 1))
    late = system(model, rows)
    encoded = late.encode([0, 1])
    again, once = (
        length_controlled(
            LateStages(model.backbone, model.tokenizer, late.encoded_rows, ["\nCode:"] * 2, replay=replay),
            encoded,
            (1,),
            0,
        )[0]
        for replay in (True, False)
    )
    assert [one["text"] for one in found] == [one.text for one in again] != [one.text for one in once]
    assert [one["distance_tokens"] for one in found] == [one.distance_tokens for one in again]
    assert [one["read_again"] for one in found] == [len(one.prompt) for one in late.encoded_rows]
