"""What a client must not be able to do to the others: engine, prompts, keys."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.core.tensors import pad
from prosg.serving import Engine
from prosg.serving.api.keys import add_key, read_keys
from support.serving import alone, finish, request, serving_model, submit


def test_a_share_that_rounds_to_nothing_is_the_likeliest_token() -> None:
    model = serving_model()
    engine = Engine(model)
    told = submit(engine, request([1, 2], top_p=1e-50, max_tokens=4, end_token=15, seed=1))[1]
    other = request([3], max_tokens=4, end_token=15, seed=2)
    beside = submit(engine, other)[1]
    finish(engine)
    likeliest = request([1, 2], temperature=0.0, max_tokens=4, end_token=15)
    assert told.text == alone(model, likeliest)[0] and beside.text == alone(model, other)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_file_of_other_types_is_read_in_the_models(dtype: torch.dtype, tmp_path: Path) -> None:
    model = serving_model("rwkv4", "plus", torch.float32)
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    encoded = model.encode(pad([[1, 2, 3]]), memory="both")
    save_encoded(encoded, path, model, fingerprint="x")
    cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in load_file(path).items()}
    save_file(cast, other, {"format": "prosg-encoded-2", "model": "x"})
    loaded = load_encoded(other, model, fingerprint="x")
    assert [t.dtype for layer in loaded.state for t in layer] == [t.dtype for layer in encoded.state for t in layer]
    assert loaded.logits.dtype == encoded.logits.dtype
    assert {t.dtype for delta in (loaded.update or {}).values() for t in delta} == {torch.float32}
    engine = Engine(model)
    told = submit(engine, request((), encoded=loaded, max_tokens=3, end_token=15))[1]
    finish(engine)
    assert told.end is not None and told.end.error is None
    wrong = encoded.replace(state=tuple(type(layer)(*(t.double() for t in layer)) for layer in encoded.state))
    with pytest.raises(ValueError, match=r"is float64, expected float32"):
        engine.submit(request((), encoded=wrong), print)


def test_a_row_whose_text_cannot_be_had_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = serving_model()
    engine, other = Engine(model), request([3, 4], max_tokens=6, end_token=15, seed=2)
    told, beside = submit(engine, request([1, 2], max_tokens=6, end_token=15, seed=1))[1], submit(engine, other)[1]
    engine.step()
    broken = engine._decoding.rows[0]
    assert broken._stream is not None
    for name in ("push", "end"):
        monkeypatch.setattr(broken._stream, name, lambda *_: 1 / 0)
    finish(engine)
    assert told.end is not None and told.end.reason == "error" and "ZeroDivisionError" in str(told.end.error)
    assert beside.text == alone(model, other)[0]
    assert engine.statistics().finished["error"] == 1


def test_an_owner_finds_nothing_of_anothers_in_the_cache() -> None:
    engine = Engine(serving_model())
    for owner, cached in (("ann", 0), ("ann", 3), ("bob", 0), ("bob", 3)):
        told = submit(engine, request([1, 2, 3], max_tokens=1, end_token=15, owner=owner))[1]
        finish(engine)
        assert told.end is not None and told.end.cached_tokens == cached


@pytest.mark.parametrize("chunk", [4, 64])
def test_equal_prompts_are_read_once(chunk: int) -> None:
    model = serving_model("rwkv4", "plus")
    engine = Engine(model, prefill_chunk=chunk)
    prompt = [1 + n % 9 for n in range(10)]
    several = [request(prompt, memory="update", max_tokens=4, end_token=15, number=n << 20) for n in range(5)]
    told = [submit(engine, one)[1] for one in several]
    finish(engine)
    assert engine.statistics().read_tokens == len(prompt)
    for one, ours in zip(several, told, strict=True):
        assert ours.text == alone(model, one)[0]


def test_equal_prompts_are_read_even_where_the_first_goes_away() -> None:
    engine = Engine(serving_model(), prefill_chunk=4)
    handle, first = submit(engine, request([1] * 12, max_tokens=2, end_token=15))
    second = submit(engine, request([1] * 12, max_tokens=2, end_token=15))[1]
    engine.step()
    handle.cancel()
    finish(engine)
    assert first.end is not None and first.end.reason == "cancelled"
    assert second.end is not None and second.end.completion_tokens == 2 and second.end.cached_tokens == 0


def _add(path: Path, name: str) -> None:
    add_key(path, name, {})


def test_keys_that_are_made_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    context = multiprocessing.get_context("fork")
    makers = [context.Process(target=_add, args=(path, f"key {number}")) for number in range(6)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sorted(key.name for key in read_keys(path)) == [f"key {number}" for number in range(6)]
