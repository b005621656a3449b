"""The engine: every answer is the one that its request has alone, whatever else is answered meanwhile."""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from prosg.core.encoded import EncodedPrompt
from prosg.generation.decode import advance
from prosg.model.anchor import StateAnchor
from prosg.model.prosg import ProSG
from prosg.model.text_model import SAMPLE_BITS
from prosg.ops.block import LIBRARY, run_blocks
from prosg.serving import Engine, EngineStopped, Finished, Piece, QueueFull, Request, decoding
from support.kernels import built
from support.models import WORDS, live_model, random_initial_state
from support.serving import Told, alone, finish, request, serving_model, submit


def random_requests(model: ProSG, count: int, seed: int = 0, **fixed: Any) -> list[Request]:
    """Requests of every kind: each memory, prompts of one to some chunks, turns after a prompt, stored prompts."""
    draw = random.Random(seed)
    memories = ["none", "anchor"] if model.synthesizer is None else ["none", "anchor", "update", "both"]
    requests = []
    for _ in range(count):
        ids = [draw.randrange(1, len(WORDS)) for _ in range(draw.choice([1, 2, 3, 7, 15, 16, 17, 40]))]
        memory: Any = draw.choice(memories)
        options: dict[str, Any] = {
            "max_tokens": draw.randrange(1, 30),
            "temperature": draw.choice([0.0, 0.7, 1.5]),
            "top_k": draw.choice([0, 0, 3, 7]),
            "top_p": draw.choice([1.0, 1.0, 0.9, 0.5]),
            "seed": draw.randrange(-5, 2**40),
            "stop": draw.choice([(), (), ("blue.",), ("a b", "big! c")]),
            "number": draw.choice([0, 0, 1, 3 << SAMPLE_BITS]),
            "owner": draw.choice(["ann", "bob", "cem"]),
        }
        tau = draw.choice([None, 3.0, 20.0]) if memory in ("anchor", "both") else None
        kind = draw.choice(["prompt", "prefix", "encoded"])
        if kind == "prefix":
            options["prefix"] = draw.randrange(len(ids) + 1)
        if kind == "encoded":
            options["encoded"] = model.encode(torch.tensor([ids]), memory=memory, tau=tau)
            ids, memory, tau = ids[: draw.randrange(3)], None, None
        requests.append(request(ids, memory=memory, tau=tau, **options | fixed))
    return requests


@pytest.mark.parametrize(
    ("backbone", "module", "count"),
    [("rwkv4", "plus", 64), ("rwkv4", "paper, rank 3", 20), ("rwkv7", "plus", 20), ("retnet", None, 20)],
)
def test_rows_that_join_and_leave_at_random_write_what_each_writes_alone(
    backbone: str, module: str | None, count: int
) -> None:
    model = serving_model(backbone, module)
    requests = random_requests(model, count)
    expected = [alone(model, one) for one in requests]
    engine = Engine(model, max_rows=9, prefill_chunk=16)
    draw, told = random.Random(1), list[Told]()
    for one in requests:
        told.append(submit(engine, one)[1])
        for _ in range(draw.choice([0, 0, 1, 2, 5])):
            engine.step()
    finish(engine)
    for one, ours, (text, ids) in zip(requests, told, expected, strict=True):
        assert ours.end is not None and ours.end.error is None
        assert (ours.text, ours.ids) == (text, ids), one
        assert ours.end.prompt_tokens == len(one.ids) and ours.end.completion_tokens == len(ids)
    done = engine.statistics()
    assert done.submitted == done.first_token.count == count == sum(done.finished.values())
    assert done.written_tokens == sum(len(ids) for _, ids in expected)
    assert done.rows == done.reading == done.waiting == 0
    assert done.row_steps > 3 * done.steps  # they did run together


def test_in_single_precision_texts_are_equal_too() -> None:
    model = serving_model(dtype=torch.float32)
    requests = random_requests(model, 24, seed=5)
    engine = Engine(model, max_rows=24, prefill_chunk=16)
    told = [submit(engine, one)[1] for one in requests]
    finish(engine)
    assert [ours.text for ours in told] == [alone(model, one)[0] for one in requests]


def test_a_request_is_prosg_generate_with_its_samples() -> None:
    model = serving_model()
    prompt = "Tom saw a b c then Code: blue."
    expected = model.generate(prompt, 3, temperature=1.0, seed=4, max_tokens=9, memory="both")
    ids = tuple(model.prepare([prompt])[0].ids)
    engine = Engine(model)
    sampling = model.sampling(temperature=1.0, seed=4, max_tokens=9)
    told = [
        submit(engine, Request(ids, sampling, memory="both", number=sample << SAMPLE_BITS))[1] for sample in range(3)
    ]
    finish(engine)
    assert [ours.text for ours in told] == expected


def test_a_learned_initial_state_and_anchor_are_the_models_own() -> None:
    model = serving_model()
    model.initial = random_initial_state(model.backbone).double()
    model.anchor = StateAnchor(model.backbone, 7.0).double()
    wanted = [request(range(1, 9), temperature=0.0), request([5, 6, 7] * 9, seed=2, memory="anchor")]
    engine = Engine(model, prefill_chunk=8)
    told = [submit(engine, one)[1] for one in wanted]
    finish(engine)
    assert [ours.text for ours in told] == [alone(model, one)[0] for one in wanted]


def test_updates_of_unequal_rank_are_answered_together() -> None:
    """Encoded by two modules of one backbone; what is missing of the smaller update is zero."""
    model = serving_model()
    other = live_model("rwkv4", "plus", vocab=len(WORDS), rank=3)
    other.backbone = model.backbone
    places = [one.encode(torch.tensor([[1, 2, 3, 4]]), memory="update") for one in (other, model, other)]
    ranks = [next(iter((place.update or {}).values())).a.shape[1] for place in places]
    assert ranks == [3, 8, 3]
    requests = [request((), encoded=place, seed=seed) for seed, place in enumerate(places)]
    requests.append(request([3, 4], memory="none"))
    engine = Engine(model)
    told = [submit(engine, one)[1] for one in requests]
    finish(engine)
    assert [ours.text for ours in told] == [alone(model, one)[0] for one in requests]


def test_a_slot_that_was_freed_leaves_nothing() -> None:
    """Whoever follows a row with an update and an anchor into its slot writes what it writes alone."""
    model = serving_model()
    engine = Engine(model, max_rows=2, cache_bytes=0)
    stays = request([1, 2, 3], memory="both", max_tokens=80, end_token=15, temperature=0.0)
    _, long = submit(engine, stays)
    followers = [
        request([5, 6, 7], memory=memory, seed=seed, max_tokens=5)
        for seed, memory in enumerate(["both", "none", "update", "none", "anchor", "none"])
    ]
    told = [submit(engine, one)[1] for one in followers]
    finish(engine)
    for ours, one in zip([long, *told], [stays, *followers], strict=True):
        assert ours.text == alone(model, one)[0]


def test_cancelling_takes_effect_at_the_next_step() -> None:
    model = serving_model()
    engine = Engine(model, max_rows=2, prefill_chunk=4)
    endless = {"max_tokens": 10_000, "end_token": 15, "temperature": 0.0}
    running, told = submit(engine, request([1, 2], **endless))
    reading, told_reading = submit(engine, request([1] * 400, **endless))
    waiting, told_waiting = submit(engine, request([1, 2], **endless))
    for _ in range(4):
        engine.step()
    assert told.ids and not told_reading.ids and not told_waiting.ids
    assert engine.statistics().reading == 1 == engine.statistics().waiting
    for handle in (running, reading, waiting):
        assert not handle.is_done
        handle.cancel()
    assert not engine.step()
    for ours, handle in ((told, running), (told_reading, reading), (told_waiting, waiting)):
        assert ours.end is not None and ours.end.reason == "cancelled" and handle.is_done
    assert engine.statistics().finished == {"cancelled": 3}
    assert engine.statistics().rows == 0


def test_a_listener_that_fails_costs_its_own_request_only() -> None:
    model = serving_model()
    engine = Engine(model)

    def broken(_: Piece | Finished) -> None:
        raise RuntimeError("the client is gone")

    one = request([1, 2, 3], temperature=0.0, end_token=15)
    engine.submit(one, broken)
    _, told = submit(engine, one)
    finish(engine)
    assert told.text == alone(model, one)[0] and engine.statistics().finished["cancelled"] == 1


def test_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    model = serving_model()
    engine = Engine(model, max_rows=1)
    options = {"max_tokens": 10_000, "end_token": 15, "temperature": 0.0}
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    _, running = submit(engine, request([1, 2], deadline=now + 1, **options))
    _, waiting = submit(engine, request([1, 2], deadline=now - 1, **options))
    for _ in range(20):
        engine.step()
    assert waiting.end is not None and waiting.end.reason == "deadline" and not waiting.ids
    assert running.end is None
    now += 1
    finish(engine)
    assert running.end is not None and running.end.reason == "deadline" and len(running.ids) == 20
    assert running.text == alone(model, request([1, 2], **options | {"max_tokens": 20}))[0]


def test_owners_take_turns() -> None:
    model = serving_model()
    engine = Engine(model, max_rows=1, queue=5)
    order = list[str]()
    for name in ("ann 1", "ann 2", "ann 3", "bob 1", "cem 1"):
        one = request([1, 2], max_tokens=2, temperature=0.0, end_token=15, owner=name.split()[0])
        engine.submit(one, lambda event, name=name: order.append(name) if isinstance(event, Finished) else None)
    finish(engine)
    assert order == ["ann 1", "bob 1", "cem 1", "ann 2", "ann 3"]


def test_one_owner_leaves_room_in_the_queue_for_others() -> None:
    engine = Engine(serving_model(), max_rows=1, queue=5)

    def ask(owner: str) -> None:
        submit(engine, request([1, 2], max_tokens=2, end_token=15, owner=owner))

    for _ in range(6):  # five wait, and one for the free row
        ask("ann")
    with pytest.raises(QueueFull, match="6 requests wait") as refused:
        ask("ann")
    assert refused.value.seconds >= 1
    for owner in ("bob", "bob", "bob", "cem", "cem"):  # a half and a third of the room
        ask(owner)
    for owner in ("ann", "bob", "cem"):
        with pytest.raises(QueueFull):
            ask(owner)
    assert engine.statistics().refused == 4 and engine.statistics().waiting == 11
    finish(engine)
    ask("ann")


def test_log_probabilities_are_the_models_own() -> None:
    model = serving_model()
    engine = Engine(model)
    one = request([1, 2, 3], memory="none", temperature=0.7, top_k=2, logprobs=3, max_tokens=6, end_token=15, seed=1)
    told = submit(engine, one)[1]
    plain = submit(engine, request([1, 2, 3], max_tokens=3, end_token=15))[1]
    finish(engine)
    whole = torch.tensor([[*one.ids, *told.ids]])
    with torch.no_grad():
        values = torch.log_softmax(model.backbone(whole).logits[0, len(one.ids) - 1 :].float(), 1)
    for place, token in enumerate(token for piece in told.pieces for token in piece.tokens):
        assert token.text == WORDS[token.id]
        assert token.logprob == pytest.approx(float(values[place, token.id]), abs=1e-5)
        best = values[place].topk(3)
        assert [number for number, _ in token.top] == best.indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert all(token.logprob is None and not token.top for piece in plain.pieces for token in piece.tokens)


def test_stop_strings_are_held_back_and_named() -> None:
    model = serving_model()
    free = alone(model, request([1, 2], end_token=15, max_tokens=20, seed=3))[0].split()
    stop = f"{free[6]} {free[7]}"
    engine = Engine(model)
    _, told = submit(engine, request([1, 2], end_token=15, max_tokens=20, seed=3, stop=("never", stop)))
    finish(engine)
    assert told.end is not None and told.end.reason == "stop" and told.end.stop == stop
    assert stop not in told.text and " ".join(free).startswith(told.text)
    assert told.end.completion_tokens == len(told.ids)


def test_logits_that_are_no_numbers_end_one_answer_alone() -> None:
    model = serving_model()
    broken = model.encode(torch.tensor([[1, 2]]), memory="none")
    broken = broken.replace(logits=torch.full_like(broken.logits, torch.nan))
    engine = Engine(model)
    one = request([1, 2], temperature=0.0)
    told = [submit(engine, wanted)[1] for wanted in (request((), encoded=broken), one)]
    finish(engine)
    assert told[0].end is not None and told[0].end.reason == "not_finite" and not told[0].text
    assert told[1].text == alone(model, one)[0]


def test_an_error_ends_what_it_concerns_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = serving_model()
    engine = Engine(model, cache_bytes=0)
    one = request([1, 2, 3], temperature=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(ProSG, "reader", lambda *_, **__: (_ for _ in ()).throw(MemoryError("no room")))
        _, failed = submit(engine, one)
        finish(engine)
    assert failed.end is not None and failed.end.reason == "error" and failed.end.error == "MemoryError: no room"
    with monkeypatch.context() as patch:
        patch.setattr("prosg.serving.decoding.advance", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        _, failed = submit(engine, one)
        finish(engine)
    assert failed.end is not None and failed.end.reason == "error"
    _, told = submit(engine, one)
    finish(engine)
    assert told.text == alone(model, one)[0]


def test_a_thread_of_its_own() -> None:
    model = serving_model()
    engine = Engine(model, max_rows=4, prefill_chunk=8)
    engine.start()
    requests = random_requests(model, 12, seed=9)
    told = [Told() for _ in requests]
    threads = [
        threading.Thread(target=engine.submit, args=(one, ours)) for one, ours in zip(requests, told, strict=True)
    ]
    for thread in threads:
        thread.start()
    encoded = engine.encode([1, 2, 3], "both")
    assert isinstance(encoded, EncodedPrompt) and encoded.anchor is not None and encoded.update is not None
    with pytest.raises(RuntimeError, match="thread of its own"):
        engine.step()
    for thread in threads:
        thread.join()
    engine.stop(drain=60.0)
    assert [ours.text for ours in told] == [alone(model, one)[0] for one in requests]
    assert engine.statistics().encoded == 1
    with pytest.raises(EngineStopped):
        submit(engine, request([1]))


def test_stopping_cancels_what_does_not_end_in_time() -> None:
    model = serving_model()
    engine = Engine(model, max_rows=1)
    engine.start()
    endless = request([1, 2], max_tokens=10**6, end_token=15, temperature=0.0)
    told = [submit(engine, endless)[1] for _ in range(2)]
    engine.stop(drain=0.1)
    assert [ours.end and ours.end.reason for ours in told] == ["cancelled", "cancelled"]
    assert told[0].ids and not told[1].ids


@built(LIBRARY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backbone", ["rwkv4", "rwkv7"])
def test_the_blocks_of_a_step_are_one_call_whatever_holds_the_rows(
    backbone: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = serving_model(backbone, "plus", dtype)
    kind = sys.modules[type(model.backbone).__module__]
    blocks, steps = Mock(wraps=run_blocks), Mock(wraps=advance)
    monkeypatch.setattr(kind, "run_blocks", blocks)
    monkeypatch.setattr(decoding, "advance", steps)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine = Engine(model, max_rows=3)
        memories: list[Any] = ["update", "none", "both", "anchor", "both", "update", "none"]
        for seed, memory in enumerate(memories):
            submit(engine, request([1 + seed, 2, 3], memory=memory, max_tokens=4 + seed, end_token=len(WORDS) - 1))
        finish(engine)
    finally:
        torch.set_num_threads(threads)
    assert steps.call_count > 10
    assert blocks.call_count == steps.call_count
