"""The controls: whose update acts and which state is there, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.core.update import Update
from prosg.data.row import Row
from prosg.evaluation.config import SystemConfig
from prosg.evaluation.controls import Condition, derangement, encode_training
from prosg.evaluation.systems.local import LocalSystem
from prosg.model.prosg import ProSG
from support.models import WORDS, assert_near, live_model, state_bits_equal, tokens, word_tokenizer

KINDS = ["story", "code", "story", "code", "story", "code", "code"]
SEED = 5


def texts(count: int, seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(1, len(WORDS) - 1, (n,), generator=generator)) for n in lengths]


def rows_of(kind: str, prompts: Sequence[str]) -> list[Row]:
    return [Row(f"{kind}-{i}", prompt, "a", kind) for i, prompt in enumerate(prompts)]


def system(model: ProSG, update: Any, state: Any = "kept", training: int = 70, memory: Any = "") -> LocalSystem:
    rows = [Row(f"row-{i}", prompt, "a", kind) for i, (prompt, kind) in enumerate(zip(texts(7, 1), KINDS, strict=True))]
    known = {"story": rows_of("story", texts(training, 2)), "code": rows_of("code", texts(training, 3))}
    return LocalSystem(SystemConfig(model="tiny", update=update, state=state, memory=memory), model, rows, known, SEED)


def tiny(module: str | None = "plus") -> ProSG:
    model = live_model("rwkv4", module, vocab=len(WORDS))
    model.tokenizer = word_tokenizer()
    return model


def dense(update: Update | None) -> dict[Any, Tensor]:
    assert update is not None
    return {site: delta.dense() for site, delta in update.items()}


def test_a_derangement_gives_every_row_another_of_its_kind() -> None:
    for seed in range(20):
        partner = derangement(KINDS, seed)
        assert sorted(partner) == list(range(7))
        assert all(there != here for here, there in enumerate(partner))
        assert [KINDS[there] for there in partner] == KINDS
        assert partner == derangement(KINDS, seed)
    assert len({tuple(derangement(["a"] * 9, seed)) for seed in range(20)}) > 15


def test_a_derangement_gives_every_row_another_prompt() -> None:
    prompts = ["a", "a", "b", "b", "b", "c", "d"]
    for seed in range(50):
        partner = derangement(["code"] * 7, seed, prompts)
        assert sorted(partner) == list(range(7))
        assert all(prompts[there] != prompts[here] for here, there in enumerate(partner))
    assert derangement(KINDS, 3, [str(i) for i in range(7)]) == derangement(KINDS, 3)
    with pytest.raises(ValueError, match="'code' has one prompt in 4 of 7 rows"):
        derangement(["code"] * 7, 0, ["a", "a", "a", "a", "b", "c", "d"])


def test_a_kind_of_one_row_has_no_derangement() -> None:
    with pytest.raises(ValueError, match="story"):
        derangement(["code", "story", "code"], 0)


@pytest.mark.parametrize("module", ["plus", "paper"])
def test_conditions(module: str) -> None:
    model = tiny(module)
    own, other, mean, none = (system(model, update).encode(range(7)) for update in ("own", "other", "mean", "none"))
    for encoded in (other, mean, none):
        assert torch.equal(encoded.logits, own.logits)  # the first token is never the update's
        assert state_bits_equal(encoded.state, own.state)
    assert none.update is None
    averages: dict[str, dict[Any, Tensor]] = {}
    for kind, seed in (("story", 2), ("code", 3)):
        updates = [dense(model.encode(text).update) for text in texts(70, seed)]
        averages[kind] = {site: torch.stack([u[site][0] for u in updates]).mean(0) for site in updates[0]}
    for site, dw in dense(own.update).items():
        assert_near(dense(other.update)[site], dw[derangement(KINDS, SEED)], 1e-10)
        for row, kind in enumerate(KINDS):
            assert_near(dense(mean.update)[site][row], averages[kind][site], 1e-10)
    # The mean is usable as any update is.
    x = tokens(7, 3, vocab=len(WORDS))
    with torch.no_grad():
        ours = model.backbone(x, mean.state, update=mean.update).logits
        plain = model.backbone(x, mean.state).logits
    assert float((ours - plain).abs().max()) > 1e-3


def test_a_wiped_state_is_the_initial_one_under_any_update() -> None:
    model = tiny()
    for update in ("own", "other", "mean", "none"):
        kept, wiped = (system(model, update, state).encode(range(7)) for state in ("kept", "wiped"))
        assert state_bits_equal(wiped.state, model.backbone.init_state(7))
        assert torch.equal(wiped.logits, kept.logits)
        if update != "none":
            assert all(torch.equal(dw, dense(kept.update)[site]) for site, dw in dense(wiped.update).items())


def test_a_model_without_a_module_has_no_updates() -> None:
    model = tiny(None)
    assert all(system(model, update).encode(range(7)).update is None for update in ("own", "other", "mean", "none"))


def test_the_mean_needs_enough_prompts() -> None:
    with pytest.raises(ValueError, match=r"code.*63"):
        list(encode_training(tiny(), "code", [[1, 2]] * 63, "update"))


def test_anchors_have_the_same_controls() -> None:
    model = tiny()

    def memory(encoded: EncodedPrompt) -> list[Tensor]:
        return [torch.cat([pull.num, pull.den]) * pull.top.exp().repeat(2, 1) for pull in encoded.anchor]

    own, other, mean, none = (
        system(model, update, memory="anchor").encode(range(7)) for update in ("own", "other", "mean", "none")
    )
    both = system(model, "own", memory="both").encode(range(7))
    assert own.update is None
    assert none.anchor is None
    assert both.update is not None
    for encoded in (other, mean, both):
        assert state_bits_equal(encoded.state, own.state)
    partners = derangement(KINDS, SEED)
    # The second half of the rows is den.
    index = torch.tensor([*partners, *(7 + i for i in partners)])
    for ours, others, together in zip(memory(own), memory(other), memory(both), strict=True):
        assert_near(others, ours[index], 1e-10)
        assert_near(together, ours, 1e-10)
    averages = {
        kind: [one.mean(0) for one in memory_of_texts(model, texts(70, seed))]
        for kind, seed in (("story", 2), ("code", 3))
    }
    for layer, ours in enumerate(memory(mean)):
        for row, kind in enumerate(KINDS):
            assert_near(ours[row], averages[kind][layer], 1e-5)
    wiped = system(model, "own", "wiped", memory="anchor").encode(range(7))
    assert state_bits_equal(wiped.state, model.backbone.init_state(7))
    assert state_bits_equal(wiped.anchor, own.anchor)


def memory_of_texts(model: ProSG, prompts: Sequence[str]) -> list[Tensor]:
    """Per layer the pull's num of each prompt, not normalised."""
    anchors = [model.encode(prompt, memory="anchor").anchor for prompt in prompts]
    return [torch.cat([anchor[i].num * anchor[i].top.exp() for anchor in anchors]) for i in range(len(anchors[0]))]


def test_conditions_have_names() -> None:
    assert [str(c) for c in (Condition("own"), Condition("none", "wiped"))] == ["own", "none, wiped"]
