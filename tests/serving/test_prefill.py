"""Reading prompts between the steps of answers: nobody waits long, and chunks are filled."""

from __future__ import annotations

import pytest

from prosg.serving import Engine
from support.serving import alone, finish, request, serving_model, submit

CHUNK = 8


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("length", [1, CHUNK])
def test_a_long_prompt_does_not_keep_a_short_request_waiting(before: int, length: int) -> None:
    model = serving_model()
    engine = Engine(model, prefill_chunk=CHUNK)
    _, running = submit(engine, request([1, 2], end_token=15, temperature=0.0, max_tokens=20))
    engine.step()
    _, long = submit(engine, request([3] * 20 * CHUNK, temperature=0.0))
    for _ in range(before):
        engine.step()
    written, chunks = len(running.ids), engine.statistics().chunks
    short_request = request([1 + place for place in range(length)], temperature=0.0, end_token=15)
    _, short = submit(engine, short_request)
    steps = 0
    while not short.ids:
        engine.step()
        steps += 1
    assert steps <= 3 and engine.statistics().chunks - chunks <= 2  # its own chunk, and at most one of another's
    assert len(running.ids) - written == steps  # the answer that was being written went on at every step
    assert not long.ids


def test_many_short_prompts_do_not_keep_a_long_one_waiting_for_ever() -> None:
    model = serving_model()
    engine = Engine(model, max_rows=4, prefill_chunk=CHUNK)
    _, long = submit(engine, request([3] * 10 * CHUNK, temperature=0.0, max_tokens=1, end_token=15))
    steps = 0
    while long.end is None:
        submit(engine, request([1 + steps % 14] * 7, max_tokens=1))
        engine.step()
        steps += 1
    assert steps <= 2 * 10 + 2


def test_prompts_that_fit_into_one_chunk_are_read_together() -> None:
    model = serving_model()
    engine = Engine(model, max_rows=16, prefill_chunk=32)
    wanted = [request([1 + place] * 4, memory="update", prefix=2) for place in range(8)]
    told = [submit(engine, one)[1] for one in wanted]
    engine.step()
    assert engine.statistics().chunks == 1  # all prompts, of 2 tokens each
    engine.step()
    assert engine.statistics().chunks == 2 and all(ours.ids or ours.end for ours in told)  # and what follows them
    finish(engine)
    assert [ours.text for ours in told] == [alone(model, one)[0] for one in wanted]
