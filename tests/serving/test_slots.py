"""Slots: rows that join and leave, of any rank, with and without an update and an anchor."""

from __future__ import annotations

import random

import pytest
import torch

from prosg.core.encoded import EncodedPrompt, Memory
from prosg.core.update import LowRank, Site, pad_rank
from prosg.serving.slots import Slots, join_places
from support.models import live_model, state_bits_equal, tokens


def place(seed: int, memory: Memory, module: str = "plus") -> EncodedPrompt:
    model = live_model("rwkv4", module)
    return model.encode(tokens(1, 5, seed), memory=memory)


def check_row(slots: Slots, slot: int, wanted: EncodedPrompt) -> None:
    row = slots.place.take([slot])
    assert torch.equal(row.logits, wanted.logits) and state_bits_equal(row.state, wanted.state)
    for site, delta in (row.update or {}).items():
        ours = delta.dense()
        theirs = torch.zeros_like(ours) if wanted.update is None else wanted.update[site].dense()
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    assert wanted.update is None or row.update is not None
    if row.anchor is not None and wanted.anchor is not None:
        assert state_bits_equal(row.anchor, wanted.anchor)
    elif row.anchor is not None:
        assert all(not bool(leaf.any()) for layer in row.anchor for leaf in layer)
    else:
        assert wanted.anchor is None


@pytest.mark.parametrize("module", ["plus", "paper, rank 3"])
def test_whatever_joins_and_leaves_each_row_has_its_own(module: str) -> None:
    memories: list[Memory] = ["none", "anchor", "update", "both"]
    places = [place(seed, memories[seed % 4], module) for seed in range(12)]
    slots, rows, draw = Slots(5), list[EncodedPrompt](), random.Random(0)
    for _ in range(60):
        if rows and draw.random() < 0.5:
            kept = sorted(draw.sample(range(len(rows)), draw.randrange(len(rows))))
            rows = [rows[slot] for slot in slots.keep(kept)]
        elif len(rows) < 5:
            rows.append(draw.choice(places))
            slots.join(rows[-1])
        assert slots.count == len(rows)
        for slot, wanted in enumerate(rows):
            check_row(slots, slot, wanted)


def test_rows_that_stay_keep_their_order_where_they_can() -> None:
    slots = Slots(5)
    for seed in range(5):
        slots.join(place(seed, "none"))
    assert slots.keep([0, 1, 4]) == [0, 1, 4]
    assert slots.keep([1, 2]) == [2, 1]  # the last moves into the slot that became free
    assert slots.keep([]) == [] and slots.count == 0


def test_a_factor_that_all_rows_share_is_kept_once() -> None:
    """The paper's B is learned: it is the same for every prompt of a module."""
    slots = Slots(4)
    for seed in range(3):
        slots.join(place(seed, "update", "paper, rank 3"))
    assert {delta.b.dim() for delta in (slots.place.update or {}).values()} == {2}
    slots.join(place(0, "update", "plus"))  # of another module: from here on each row has its own
    assert {delta.b.dim() for delta in (slots.place.update or {}).values()} == {3}


def test_without_any_update_or_anchor_there_is_none() -> None:
    slots = Slots(3)
    slots.join(place(0, "none"))
    assert slots.place.update is None and slots.place.anchor is None
    slots.join(place(1, "both"))
    assert slots.place.update is not None and slots.place.anchor is not None
    slots.keep([0])
    assert slots.place.update is None and slots.place.anchor is None


def test_places_of_all_kinds_are_joined() -> None:
    places = [place(seed, memory) for seed, memory in enumerate(("none", "both", "update", "anchor"))]
    joined = join_places(places)
    assert joined.batch == 4 and join_places(places[:1]) is places[0]
    assert joined.update is not None and not bool(joined.update[Site(0, "key")].dense()[[0, 3]].any())


def test_a_padded_update_changes_what_it_did() -> None:
    delta = LowRank(torch.randn(2, 3, 5), torch.randn(4, 3))
    padded = pad_rank(delta, 6)
    assert padded.a.shape == (2, 6, 5) and padded.b.shape == (4, 6)
    assert torch.allclose(padded.dense(), delta.dense()) and pad_rank(padded, 3) is padded


@pytest.mark.parametrize("module", ["plus", "paper, rank 3"])
def test_updates_lie_as_decoding_reads_them_fastest(module: str) -> None:
    slots = Slots(4)
    slots.join(place(0, "none").replace(logits=torch.zeros(1, 5, dtype=torch.bfloat16)))
    for seed, name in enumerate((module, "plus")):  # another rank, and a b of its own, come later
        update = place(seed, "update", name)
        slots.join(update.replace(logits=torch.zeros(1, 5, dtype=torch.bfloat16)))
        for delta in (slots.place.update or {}).values():
            assert delta.a.dtype == delta.b.dtype == torch.bfloat16
            assert delta.a.is_contiguous() and delta.b.mT.is_contiguous()
