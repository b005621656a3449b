"""The controls: whose update acts and which state is there, exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prosg.core.update import Update
from prosg.data.encode import EncodedRow
from prosg.evaluation.controls import Condition, Conditions, derangement, encode_prompts
from prosg.model.prosg import ProSG
from support.models import VOCAB, assert_near, assert_same_state, live_model, state_bits_equal, tokens

KINDS = ["story", "code", "story", "code", "story", "code", "code"]


def prompts(count: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
    return [torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def make(module: str | None = "plus", training: int = 70) -> tuple[ProSG, Conditions, dict[str, list[list[int]]]]:
    model = live_model("rwkv4", module)
    rows = [EncodedRow(i, f"row-{i}", prompt, [1, 0], 0, False, 0) for i, prompt in enumerate(prompts(7, 1))]
    known = {"story": prompts(training, 2), "code": prompts(training, 3)}
    return model, Conditions(model, rows, KINDS, known, seed=5), known


def dense(update: Update | None) -> dict[Any, Tensor]:
    assert update is not None
    return {site: delta.dense() for site, delta in update.items()}


def test_a_derangement_gives_every_row_another_of_its_kind() -> None:
    for seed in range(20):
        partner = derangement(KINDS, seed).tolist()
        assert sorted(partner) == list(range(7))
        assert all(there != here for here, there in enumerate(partner))
        assert [KINDS[there] for there in partner] == KINDS
        assert partner == derangement(KINDS, seed).tolist()
    assert len({tuple(derangement(["a"] * 9, seed).tolist()) for seed in range(20)}) > 15


def test_a_kind_of_one_row_has_no_derangement() -> None:
    with pytest.raises(ValueError, match="kind 'story' has one row; another prompt's update needs at least two"):
        derangement(["code", "story", "code"], 0)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_prompts_are_encoded_in_order_whatever_the_batches(batch_size: int) -> None:
    model = live_model("rwkv4", "plus")
    some = prompts(7, 1)
    together = encode_prompts(model, some, batch_size)
    assert together.batch == 7
    for i, ids in enumerate(some):
        alone, mine = model.encode(torch.tensor([ids])), together.take(torch.tensor([i]))
        assert_near(mine.logits, alone.logits, 1e-10)
        assert_same_state("rwkv4", mine.state, alone.state, 1e-10)
        for site, dw in dense(mine.update).items():
            assert_near(dw, dense(alone.update)[site], 1e-10)


@pytest.mark.parametrize("module", ["plus", "paper"])
def test_conditions(module: str) -> None:
    model, conditions, training = make(module)
    own = conditions.encoded(Condition("own"))
    other = conditions.encoded(Condition("other"))
    mean = conditions.encoded(Condition("mean"))
    partner = derangement(KINDS, 5)
    for encoded in (own, other, mean, conditions.encoded(Condition("none"))):
        assert torch.equal(encoded.logits, own.logits)  # the first token is never the update's
        assert state_bits_equal(encoded.state, own.state)
    assert conditions.encoded(Condition("none")).update is None
    averages: dict[str, dict[Any, Tensor]] = {}
    for kind, some in training.items():
        updates = [dense(model.encode(torch.tensor([ids])).update) for ids in some]
        averages[kind] = {site: torch.stack([u[site][0] for u in updates]).mean(0) for site in updates[0]}
    for site, dw in dense(own.update).items():
        assert torch.equal(dense(other.update)[site], dw[partner])
        for row, kind in enumerate(KINDS):
            assert_near(dense(mean.update)[site][row], averages[kind][site], 1e-10)
    # The mean is usable as any update is.
    x = tokens(7, 3)
    with torch.no_grad():
        ours = model.backbone(x, mean.state, update=mean.update).logits
        plain = model.backbone(x, mean.state).logits
    assert float((ours - plain).abs().max()) > 1e-3


def test_a_wiped_state_is_the_initial_one_under_any_update() -> None:
    model, conditions, _ = make()
    for update in ("own", "other", "mean", "none"):
        kept, wiped = (conditions.encoded(Condition(update, state)) for state in ("kept", "wiped"))
        assert state_bits_equal(wiped.state, model.backbone.init_state(7))
        assert torch.equal(wiped.logits, kept.logits)
        if update != "none":
            assert all(torch.equal(dw, dense(kept.update)[site]) for site, dw in dense(wiped.update).items())


def test_a_model_without_a_module_has_no_updates() -> None:
    _, conditions, _ = make(None)
    assert all(conditions.encoded(Condition(update)).update is None for update in ("own", "other", "mean", "none"))


def test_the_mean_needs_enough_prompts() -> None:
    with pytest.raises(ValueError, match="kind 'code' has 63 training prompts; the mean update needs 64"):
        make("plus", training=63)[1].encoded(Condition("mean"))


def test_conditions_have_names() -> None:
    assert [str(c) for c in (Condition("own"), Condition("none", "wiped"))] == ["own", "none, wiped"]
