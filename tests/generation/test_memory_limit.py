"""Beside an update, a memory that grows is kept near the size that its prompt left: alone, and in a server."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prosg.core import state as states
from prosg.core.encoded import EncodedPrompt
from prosg.generation import decode as decoding
from prosg.generation.decode import advance, decode
from prosg.generation.sampling import Sampling
from prosg.serving import Engine
from support.models import live_model, tokens
from support.serving import alone, finish, request, serving_model, submit


def norms(encoded: EncodedPrompt) -> torch.Tensor:
    return states.memory_norms(encoded.state)


@torch.no_grad()
def test_what_an_update_is_made_of_says_how_far_its_memory_may_grow() -> None:
    model = live_model("rwkv7", "plus")
    encoded = model.encode(tokens(2, 5), memory="update")
    assert encoded.limit is not None
    torch.testing.assert_close(encoded.limit, states.GROWTH * norms(encoded))
    for memory in ("none", "anchor"):
        assert model.encode(tokens(2, 5), memory=memory).limit is None
        assert model.held_by(encoded, memory).limit is None  # type: ignore[arg-type]
    both = model.held_by(encoded, "both").limit
    assert both is not None and torch.equal(both, encoded.limit)
    later = advance(model.backbone, encoded, tokens(2, 3))
    assert later.limit is encoded.limit
    assert live_model("rwkv4", "plus").encode(tokens(2, 5), memory="update").limit is None
    plain = model.encode(tokens(1, 5), memory="none")
    joined = EncodedPrompt.join([encoded.replace(update=None), plain]).limit
    assert joined is not None and bool((joined[:2] > 0).all()) and not bool(joined[2].any())


@torch.no_grad()
def test_a_prompt_that_is_not_known_has_no_limit() -> None:
    model = live_model("rwkv7", "plus")
    encoded = model.encode(tokens(2, 5), memory="update")
    held = model.held_by(encoded.replace(known=torch.tensor([True, False])), "auto").limit
    assert held is not None and bool((held[0] > 0).all()) and not bool(held[1].any())


@torch.no_grad()
def test_memories_are_limited_where_an_answer_begins_and_while_it_is_written() -> None:
    model = live_model("rwkv7", "plus")
    encoded = model.encode(tokens(2, 5), memory="update")
    small = encoded.replace(limit=norms(encoded) / 10)
    assert small.limit is not None
    place = advance(model.backbone, small, tokens(2, 9))
    assert not bool((norms(place) <= small.limit * 1.001).all())  # whatever a text is cut into, the place is the same
    first = next(decode(model.backbone, place, Sampling(max_tokens=2)))
    assert bool((norms(first.before) <= small.limit * 1.001).all())
    before = states.map_state(torch.clone, small.state)
    list(decode(model.backbone, small, Sampling(max_tokens=40, temperature=0.0, end_token=10**6)))
    assert all(torch.equal(a, b) for x, y in zip(before, small.state, strict=True) for a, b in zip(x, y, strict=True))
    written = list(decode(model.backbone, small, Sampling(max_tokens=34, temperature=0.0, end_token=10**6)))
    assert bool((norms(written[32].before) <= small.limit * 1.001).all())
    assert not bool((norms(written[31].before) <= small.limit * 1.001).all())


def test_a_server_limits_each_row_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BOUND_EVERY", 4)
    monkeypatch.setattr(states, "GROWTH", 0.3)
    model = serving_model("rwkv7", "plus")
    memories: list[Any] = ["update", "none", "both", "update", "anchor"]
    requests = [
        request([1 + (3 * number + k) % 12 for k in range(2 + number)], memory=memories[number % 5], seed=number,
                max_tokens=9 + 5 * number % 23, temperature=1.0, prefix=2 if number % 3 else 0)
        for number in range(15)
    ]  # fmt: skip
    expected = [alone(model, one) for one in requests]
    engine = Engine(model, max_rows=6, prefill_chunk=16)
    told = []
    for one in requests:
        told.append(submit(engine, one)[1])
        engine.step()
    finish(engine)
    assert [(ours.text, ours.ids) for ours in told] == expected
    monkeypatch.setattr(states, "GROWTH", 8.0)
    assert [alone(model, one) for one in requests] != expected  # it did act
