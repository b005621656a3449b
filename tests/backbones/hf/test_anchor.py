"""Anchored states of models that transformers runs: pulled after every token, refused by name elsewhere."""

from __future__ import annotations

import pytest
import torch

from prosg.model.anchor import StateAnchor
from prosg.model.prosg import ProSG
from support.hf_models import CONTINUING, HF_TINY, hf_backbone, tolerance
from support.models import assert_near, tokens

RECURRENT = ["mamba", "falcon_mamba", "mamba2", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"]
WINDOWED = ["mistral"]  # its keys are kept: test_kept_keys


@pytest.mark.parametrize("name", RECURRENT)
@torch.no_grad()
def test_reading_on_pulls_after_every_token(name: str) -> None:
    backbone = hf_backbone(name)
    model = ProSG(backbone)
    encoded = model.encode(tokens(3, 6), torch.tensor([6, 4, 5]), memory="anchor", tau=4.0)
    x = tokens(3, 7, seed=2)
    whole = backbone(x, encoded.state, anchor=encoded.anchor)
    state, logits = encoded.state, []
    for token in x.split(1, 1):
        output = backbone(token, state)
        state = backbone.anchor(output.state, encoded.anchor)
        logits.append(output.logits)
    # The recurrence of a continuing type runs in chunks, against single steps.
    assert_near(torch.cat(logits, 1), whole.logits, tolerance(name) if name in CONTINUING else 1e-6)
    assert float((backbone(x, encoded.state).logits - whole.logits).abs().max()) > 1e-4
    # A ragged row is pulled as often as it has tokens.
    ragged = backbone(x, encoded.state, anchor=encoded.anchor, lengths=torch.tensor([7, 0, 3]))
    for after, before in zip(ragged.state, encoded.state, strict=True):
        if hasattr(before, "memory"):
            assert torch.equal(after.memory[1], before.memory[1])
    short = encoded.take(torch.tensor([2]))
    alone = backbone(x[2:, :3], short.state, anchor=short.anchor)
    assert_near(ragged.logits[2, :3], alone.logits[0], 1e-5)


@pytest.mark.parametrize("name", RECURRENT)
@torch.no_grad()
def test_a_strong_pull_brings_the_memory_back(name: str) -> None:
    backbone = hf_backbone(name)
    model = ProSG(backbone)
    encoded = model.encode(tokens(2, 6), memory="anchor", tau=1.0)
    x = tokens(2, 30, seed=2)

    def distance(anchored: bool) -> float:
        after = backbone(x, encoded.state, anchor=encoded.anchor if anchored else None).state
        pairs = zip(after, encoded.state, strict=True)
        return sum(float((a.memory - b.memory).norm()) for a, b in pairs if hasattr(a, "memory"))

    assert distance(True) < 0.9 * distance(False)


@pytest.mark.parametrize("name", [name for name in HF_TINY if name not in RECURRENT + WINDOWED])
def test_other_types_are_refused_by_name(name: str) -> None:
    backbone = hf_backbone(name)
    with pytest.raises(ValueError, match=f"{name}: its state cannot be anchored: "):
        StateAnchor(backbone)
    with pytest.raises(ValueError, match=f"{name}: its state cannot be anchored: "):
        ProSG(backbone).encode(tokens(1, 4), memory="anchor")


def test_a_window_or_an_age_that_only_its_own_code_knows_is_refused() -> None:
    backbone = hf_backbone("mamba")
    with pytest.raises(ValueError, match="tau is inf.*mamba has none"):
        StateAnchor(backbone, float("inf"))
    with pytest.raises(ValueError, match="a memory of mamba cannot be aged"):
        StateAnchor(backbone, 50.0, 5.0)
