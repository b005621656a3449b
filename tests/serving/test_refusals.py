"""Requests that the engine refuses before it begins, and stored prompts that are held otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prosg.serving import Engine
from support.serving import alone, finish, request, serving_model, submit

BAD: list[tuple[str, dict[str, Any]]] = [
    ("a prompt is empty", {"ids": ()}),
    ("id of the prompt is 16", {"ids": (1, 16)}),
    ("id of the prompt is -1", {"ids": (1, -1)}),
    ("prefix is 3", {"ids": (1, 2), "prefix": 3}),
    ("end token is 99", {"ids": (1,), "end_token": 99}),
    ("hold_until is 2", {"ids": (1,), "hold_until": 2, "force_marker": "Code:"}),
    ("refresh_every is 5", {"ids": (1,), "refresh_every": 5}),
    ("logprobs is 21", {"ids": (1,), "logprobs": 21}),
    ("tau is 0.5", {"ids": (1,), "memory": "anchor", "tau": 0.5}),
    ("number is -1", {"ids": (1,), "number": -1}),
]


@pytest.mark.parametrize(("words", "options"), BAD)
def test_what_cannot_be_answered_is_refused_at_once(words: str, options: dict[str, Any]) -> None:
    engine = Engine(serving_model())
    with pytest.raises(ValueError, match=words):
        submit(engine, request(**options))
    assert not engine.step()


def test_encoded_prompts_that_do_not_fit_are_refused() -> None:
    model, other = serving_model(), serving_model("rwkv4, own widths")
    engine = Engine(model)
    with pytest.raises(ValueError, match="state has 3 layers"):
        submit(engine, request((), encoded=other.encode(torch.tensor([[1]]))))
    with pytest.raises(ValueError, match="2 prompts"):
        submit(engine, request((), encoded=model.encode(torch.tensor([[1], [2]]))))
    with pytest.raises(ValueError, match="without an update"):
        submit(engine, request((), encoded=model.encode(torch.tensor([[1]]), memory="none"), memory="update"))
    with pytest.raises(ValueError, match="max_rows is 0"):
        Engine(model, max_rows=0)
    model.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer"):
        submit(engine, request([1]))


def test_a_stored_prompt_may_be_held_otherwise() -> None:
    model = serving_model()
    stored = model.encode(torch.tensor([[1, 2, 3]]), memory="update")
    engine = Engine(model)
    told = submit(engine, request([4], encoded=stored, memory="anchor", tau=5.0, seed=1))[1]
    finish(engine)
    expected = request([4], encoded=model.held_by(stored, "anchor", 5.0), seed=1)
    assert told.text == alone(model, expected)[0]
