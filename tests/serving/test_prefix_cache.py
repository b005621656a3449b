"""The cache of places in texts: what is found, what it saves, what comes back from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.checkpoints.encoded import flatten
from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.core.encoded import EncodedPrompt
from prosg.core.packed import PackedPrompt
from prosg.model.anchor import StateAnchor
from prosg.model.prosg import ProSG
from prosg.serving import Engine, Request
from prosg.serving.prefix_cache import PrefixCache
from support.models import random_initial_state, same_encoded
from support.serving import Told, alone, finish, request, serving_model, submit

LONG = [1 + place % 13 for place in range(50)]


def cache_of(model: ProSG, most_bytes: int = 1 << 20, **options: Any) -> PrefixCache:
    return PrefixCache(model, model_fingerprint(model), most_bytes=most_bytes, **options)


def encoded(model: ProSG, *ids: int) -> EncodedPrompt:
    return model.encode(torch.tensor([ids]), memory="update")


def answer(engine: Engine, wanted: Request) -> Told:
    told = submit(engine, wanted)[1]
    finish(engine)
    return told


def test_the_longest_beginning_of_a_text_is_found() -> None:
    model = serving_model()
    cache = cache_of(model)
    chain, other = cache.chain("prompt", True), cache.chain("prompt", False)
    short, long = encoded(model, 1, 2), encoded(model, 1, 2, 3)
    cache.put(chain, (1, 2), short)
    cache.put(chain, (1, 2, 3), long)
    for text, length, place in (((1, 2, 3, 4), 3, long), ((1, 2, 4), 2, short)):
        found = cache.longest(chain, text)
        assert found is not None and found[0] == length and same_encoded(found[1], place)
    assert cache.longest(chain, (1, 2, 4), 3) is None and cache.longest(chain, (1, 3)) is None
    assert cache.longest(other, (1, 2)) is None
    assert cache.bytes == PackedPrompt(short).nbytes + PackedPrompt(long).nbytes and len(cache) == 2


def test_a_chain_is_of_all_that_a_place_depends_on() -> None:
    model, other = serving_model(), serving_model("retnet", None)
    chains = {cache_of(model).chain("prompt", True), cache_of(other).chain("prompt", True)}
    chains |= {cache_of(model).chain("prompt", False), cache_of(model).chain("prompt", True, after=(1,))}
    assert len(chains) == 4 and cache_of(model).chain("prompt", True) in chains
    model.anchor = StateAnchor(model.backbone, 9.0)
    chains.add(cache_of(model).chain("prompt", True))
    model.anchor = StateAnchor(model.backbone, 9.0, 3.0)
    chains.add(cache_of(model).chain("prompt", True))
    model.initial = random_initial_state(model.backbone)
    chains.add(cache_of(model).chain("prompt", True))
    chains.add(cache_of(model.float()).chain("prompt", True))
    assert len(chains) == 8


def test_what_was_not_used_for_longest_goes_first_and_comes_back_from_disk(tmp_path: Path) -> None:
    model = serving_model()
    places = [encoded(model, 1, 2, last) for last in range(1, 5)]
    size = PackedPrompt(places[0]).nbytes
    cache = cache_of(model, 2 * size, folder=tmp_path, most_disk_bytes=10**9)
    chain = cache.chain("prompt", True)
    for last, place in enumerate(places[:2], 1):
        cache.put(chain, (1, 2, last), place)
    used = cache.longest(chain, (1, 2, 1))  # so the second goes
    assert used is not None and same_encoded(used[1], places[0])
    cache.put(chain, (1, 2, 3), places[2])
    assert len(cache) == 2 and cache.files == 1 and cache.bytes == 2 * size
    back = cache.longest(chain, (1, 2, 2))
    assert back is not None and back[1] is not places[1] and same_encoded(back[1], places[1])
    cache.flush()
    later = cache_of(model, 2 * size, folder=tmp_path, most_disk_bytes=10**9)
    assert later.files == 3 and later.disk_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    for last in (1, 2, 3):
        found = later.longest(chain, (1, 2, last, 7))
        assert found is not None and found[0] == 3 and same_encoded(found[1], places[last - 1])
    one = later.disk_bytes // 3
    small = cache_of(model, 0, folder=tmp_path, most_disk_bytes=one)
    assert small.files == 1 == len([*tmp_path.iterdir()]) and small.disk_bytes <= one


def test_a_file_that_was_damaged_or_removed_is_read_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = serving_model()
    cache = cache_of(model, folder=tmp_path, most_disk_bytes=10**9)
    chain = cache.chain("prompt", True)
    for last in (1, 2):
        cache.put(chain, (last,), encoded(model, last))
    cache.flush()
    first, second = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:-9])
    later = cache_of(model, folder=tmp_path, most_disk_bytes=10**9)
    second.unlink()
    assert later.longest(chain, (1,)) is None and later.longest(chain, (2,)) is None
    assert not first.exists() and later.files == 0 == later.disk_bytes and len(caplog.messages) == 2


def test_what_is_not_finite_or_too_large_is_not_kept() -> None:
    model = serving_model()
    place = encoded(model, 1)
    cache = cache_of(model, place.nbytes - 1)
    cache.put(cache.chain(), (1,), place)
    assert len(cache) == 0
    cache = cache_of(model)
    cache.put(cache.chain(), (1,), place.replace(logits=place.logits * torch.nan))
    assert len(cache) == 0


@pytest.mark.parametrize("memory", ["none", "anchor", "update", "both"])
def test_a_prompt_that_is_known_gives_the_same_text(memory: Any, tmp_path: Path) -> None:
    model = serving_model()
    wanted = request(LONG, memory=memory, seed=3, temperature=0.7)
    expected = alone(model, wanted)[0]
    engine = Engine(model, prefill_chunk=16, cache_folder=tmp_path)
    told = [answer(engine, wanted) for _ in range(2)]
    assert [ours.text for ours in told] == [expected] * 2
    assert [ours.end.cached_tokens for ours in told if ours.end] == [0, 50]
    counts = engine.statistics()
    assert (counts.cache_hits, counts.cache_misses, counts.read_tokens, counts.cached_tokens) == (1, 1, 50, 50)
    engine.stop()  # what is in memory is stored
    later = Engine(model, prefill_chunk=16, cache_folder=tmp_path)
    again = answer(later, wanted)
    assert again.text == expected and again.end is not None and again.end.cached_tokens == 50
    # nothing of memory at all: from disk or anew
    tight = Engine(model, prefill_chunk=16, cache_bytes=0, cache_folder=tmp_path)
    assert answer(tight, wanted).text == expected


@pytest.mark.parametrize("memory", ["none", "anchor", "update", "both"])
def test_a_conversation_goes_on_from_where_it_was(memory: Any) -> None:
    """A system prompt that is held, then turns: each later request reads only what is new."""
    model = serving_model()
    engine = Engine(model, prefill_chunk=16)
    first = request(LONG[:30], memory=memory, prefix=20, seed=1)
    second = request([*LONG[:30], 5, 6, 7, 8], memory=memory, prefix=20, seed=2)
    third = request([*LONG[:20], 9, 10], memory=memory, prefix=20, seed=3)
    for wanted, cached in ((first, 0), (second, 30), (third, 0 if memory == "none" else 20)):
        told = answer(engine, wanted)
        assert told.text == alone(model, wanted)[0]
        assert told.end is not None and told.end.cached_tokens == cached


def test_memories_do_not_mix_in_the_cache() -> None:
    model = serving_model()
    engine = Engine(model)
    for memory, tau in (("update", None), ("none", None), ("anchor", 3.0), ("anchor", 30.0), ("both", 3.0)):
        wanted = request(LONG, memory=memory, tau=tau, prefix=40, seed=1)  # type: ignore[arg-type]
        assert answer(engine, wanted).text == alone(model, wanted)[0]
    assert engine.statistics().cache_hits == 4  # the prompt's own end, under any memory


def test_encoding_fills_the_cache() -> None:
    model = serving_model()
    engine = Engine(model, prefill_chunk=16)
    ours, theirs = engine.encode(LONG, "both"), model.encode(torch.tensor([LONG]), memory="both", chunk=16)
    assert same_encoded(ours, theirs) and same_encoded(engine.encode(LONG, "both"), theirs)
    assert engine.statistics().encoded == 2 and engine.statistics().cache_hits == 1


@pytest.mark.parametrize("backbone", ["rwkv4", "rwkv7", "retnet"])
def test_the_cache_keeps_no_more_alive_than_it_counts(backbone: str) -> None:
    model = serving_model(backbone, None if backbone == "retnet" else "plus")
    engine = Engine(model, prefill_chunk=16)
    for memory in ("none", "anchor") if backbone == "retnet" else ("none", "update"):
        answer(engine, request(LONG, memory=memory, max_tokens=1))
        answer(engine, request(LONG[1:], memory=memory, prefix=9, max_tokens=1))
        answer(engine, request(LONG[:7], memory=memory, max_tokens=1))
    cached = engine._cache._entries.values()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for place in (packed.unpack() for packed in cached)
        for tensor in [*flatten(place.state, place.update).values(), place.logits]
    }
    assert len(cached) > 4 and sum(storages.values()) <= engine.statistics().cache_bytes
