"""An anchored state, in all native backbones: in calls of any length, in ragged batches, with gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.core.state import detach_state, map_state, take_rows
from prosg.model.anchor import StateAnchor, mean_state
from support.models import TINY, TOLERANCE, assert_near, assert_same_state, live_backbone, live_model, tokens

BATCH, TIME = 3, 40
LENGTHS = torch.tensor([5, 3, 7])

backbones = pytest.mark.parametrize("name", TINY)
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def windows(backbone: object) -> StateAnchor:
    """A window and a strength of its own for every unit."""
    anchor = StateAnchor(backbone, 8.0, None)  # type: ignore[arg-type]
    for parameter in (*anchor.log_tau, *anchor.log_strength):
        parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
    return anchor


def prepare(name: str, dtype: torch.dtype) -> tuple[object, EncodedPrompt, Tensor]:
    model = live_model(name, "plus", dtype)
    model.anchor = windows(model.backbone)
    encoded = model.encode(tokens(BATCH, 7, seed=1), LENGTHS)
    assert encoded.update is not None
    assert encoded.anchor is not None
    return model.backbone, encoded, tokens(BATCH, TIME, seed=2)


@backbones
@dtypes
def test_one_call_equals_one_by_one(name: str, dtype: torch.dtype) -> None:
    backbone, encoded, x = prepare(name, dtype)
    how = {"update": encoded.update, "anchor": encoded.anchor}
    with torch.no_grad():
        whole = backbone(x, encoded.state, **how)
        plain = backbone(x, encoded.state, update=encoded.update)
        state, logits = encoded.state, []
        for token in x.split(1, 1):
            output = backbone(token, state, **how)
            state, logits = output.state, [*logits, output.logits]
        by_hand, steps = encoded.state, []
        for token in x.split(1, 1):
            output = backbone(token, by_hand, update=encoded.update)
            by_hand = backbone.anchor(output.state, encoded.anchor)
            steps.append(output.logits)
    assert_near(torch.cat(logits, 1), whole.logits, TOLERANCE[dtype])
    assert_near(torch.cat(steps, 1), whole.logits, TOLERANCE[dtype])
    assert_same_state(name, state, whole.state, TOLERANCE[dtype])
    assert_same_state(name, by_hand, whole.state, TOLERANCE[dtype])
    assert float((plain.logits - whole.logits).abs().max()) > 0.01


@backbones
@dtypes
def test_a_ragged_row_equals_the_row_alone(name: str, dtype: torch.dtype) -> None:
    backbone, encoded, x = prepare(name, dtype)
    lengths = torch.tensor([TIME, 1, 17])
    with torch.no_grad():
        ragged = backbone(x, encoded.state, update=encoded.update, anchor=encoded.anchor, lengths=lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = encoded.take(torch.tensor([row]))
            part = x[row : row + 1, :length]
            single = backbone(part, alone.state, update=alone.update, anchor=alone.anchor)
            assert_near(ragged.logits[row, :length], single.logits[0], TOLERANCE[dtype])
            assert_same_state(name, take_rows(ragged.state, torch.tensor([row])), single.state, TOLERANCE[dtype])


@backbones
def test_gradients_of_windows_strengths_and_the_prompt(name: str) -> None:
    """Finite differences in fp64."""
    backbone = live_backbone(name, vocab=5)
    backbone.requires_grad_(False)
    anchor = windows(backbone).double()
    prompt, x = tokens(2, 4, seed=3, vocab=5), tokens(2, 4, vocab=5)
    weight = "blocks.0.att.value.weight"
    inputs = [backbone.get_parameter(weight).clone(), anchor.log_tau[0].clone(), anchor.log_strength[-1].clone()]

    def loss(value: Tensor, tau: Tensor, strength: Tensor) -> Tensor:
        changed = {weight: value}
        state = torch.func.functional_call(backbone, changed, (prompt,)).state
        own = {"log_tau.0": tau, f"log_strength.{len(anchor.log_tau) - 1}": strength}
        held = torch.func.functional_call(anchor, own, (backbone, state))
        lengths = torch.tensor([4, 2])
        output = torch.func.functional_call(backbone, changed, (x, state), {"anchor": held, "lengths": lengths})
        return torch.log_softmax(output.logits, 2)[:, :2]

    assert torch.autograd.gradcheck(loss, [t.requires_grad_() for t in inputs], atol=1e-7, fast_mode=True)


@backbones
def test_a_strong_pull_holds_the_prompt_and_a_weak_one_does_nothing(name: str) -> None:
    backbone = live_backbone(name)
    state = detach_state(backbone(tokens(BATCH, 6)).state)
    x = tokens(BATCH, 200, seed=4)

    def memory_after(tau: float) -> list[Tensor]:
        held = StateAnchor(backbone, tau, 0.0)(backbone, state)
        with torch.no_grad():
            return TINY[name].memory(backbone(x, state, anchor=held).state)

    shifts = sum(field.endswith("shift") for field in state[0]._fields)
    with torch.no_grad():
        free = TINY[name].memory(backbone(x, state).state)
    for ours, theirs in zip(memory_after(1e12), free, strict=True):
        assert_near(ours, theirs, 1e-6)

    def distance(memory: list[Tensor]) -> float:
        """From the prompt's memory, over all layers, token shifts left out."""
        pairs = [
            (a, b)
            for i, (a, b) in enumerate(zip(memory, TINY[name].memory(state), strict=True))
            if i % (len(memory) // len(state)) >= shifts
        ]
        return float(sum((a - b).norm() for a, b in pairs))

    assert distance(memory_after(1.0)) < 0.7 * distance(free)


@backbones
def test_the_mean_state_is_the_mean_memory(name: str) -> None:
    backbone = live_backbone(name)
    states = [detach_state(backbone(tokens(2, 5, seed=seed)).state) for seed in (1, 2)]
    mean = mean_state(backbone, states)
    assert mean[0][0].shape[0] == 1
    for layer, *others in zip(mean, *states, strict=True):
        if "top" in layer._fields:
            for field in ("num", "den"):
                rows = torch.cat([getattr(one, field) * one.top.exp() for one in others])
                assert_near(getattr(layer, field) * layer.top.exp(), rows.mean(0, keepdim=True), 1e-6)
        else:
            rows = torch.cat([one.memory for one in others])
            assert_near(layer.memory, rows.mean(0, keepdim=True), 1e-6)


def test_a_pin_holds_the_prompts_share_of_rwkv4() -> None:
    """(num, den) = the own text's decayed sum + a constant."""
    backbone = live_backbone("rwkv4")
    state = detach_state(backbone(tokens(BATCH, 6)).state)
    held = StateAnchor(backbone, math.inf, 0.0)(backbone, state)
    x = tokens(BATCH, 60, seed=4)
    with torch.no_grad():
        pinned = backbone(x, state, anchor=held).state
        # The first layer's keys do not depend on the memory: the same text without any prompt in its memory.
        empty = map_state(lambda leaf: leaf, backbone.init_state(BATCH))
        start = (empty[0]._replace(att_shift=state[0].att_shift, ffn_shift=state[0].ffn_shift), *empty[1:])
        own = backbone(x, start).state
    for field in ("num", "den"):
        total, text, prompt = (getattr(one[0], field) * one[0].top.exp() for one in (pinned, own, state))
        assert_near(total, text + prompt, 1e-8)


@pytest.mark.parametrize("name", ["rwkv7", "retnet"])
def test_others_cannot_be_pinned(name: str) -> None:
    with pytest.raises(ValueError, match=f"tau is inf, which needs .*{name} has none"):
        StateAnchor(live_backbone(name), math.inf)


@backbones
def test_values_out_of_range_are_refused(name: str) -> None:
    backbone = live_backbone(name)
    for tau in (0.0, 0.99, -5.0, math.nan):
        with pytest.raises(ValueError, match="tau is .* at least 1 token"):
            StateAnchor(backbone, tau)
    for age in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="age is .* 0 or more"):
            StateAnchor(backbone, 50.0, age)
    if not TINY[name].ages:
        with pytest.raises(ValueError, match="cannot be aged, so it must be 0"):
            StateAnchor(backbone, 50.0, 3.0)
