"""Learned initial states: what they are to the recurrence, and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prosg.model.initial_state import InitialState
from prosg.model.prosg import ProSG
from prosg.training.perturbation import Draws, Perturber, StateChange
from support.hf_models import hf_backbone
from support.models import TINY, assert_near, live_backbone, live_model, random_initial_state, tokens

PROMPT, LENGTHS = tokens(3, 7), torch.tensor([7, 4, 1])
ANSWER, ANSWERED = tokens(3, 5, seed=4), torch.tensor([5, 3, 2])


@pytest.mark.parametrize("name", TINY)
def test_it_is_the_memory_of_every_row(name: str) -> None:
    backbone = live_backbone(name)
    initial = random_initial_state(backbone).double()
    state = initial(backbone.init_state(2))
    for i, (layer, blank, tensor) in enumerate(zip(state, backbone.init_state(2), initial.layers, strict=True)):
        assert layer._fields == blank._fields
        for field in layer._fields:
            assert getattr(layer, field).shape == getattr(blank, field).shape, (i, field)
            if field.endswith("shift"):
                assert not getattr(layer, field).any()
        if "num" in layer._fields:  # as the recurrence sees it: mean, and logarithm of the weight
            assert_near(layer.num / layer.den, tensor[:1].expand(2, -1), 1e-12)
            assert_near(layer.den.log() + layer.top, tensor[1:].expand(2, -1), 1e-12)
        else:
            assert torch.equal(layer.memory, tensor.expand(2, *tensor.shape))


@pytest.mark.parametrize("name", [name for name in TINY if not name.startswith("rwkv4")])
def test_before_training_it_changes_nothing(name: str) -> None:
    model = live_model(name, None)
    bare = model.encode(PROMPT, LENGTHS)
    model.initial = InitialState(model.backbone)
    assert torch.equal(model.encode(PROMPT, LENGTHS).logits, bare.logits)


def test_rwkv4_begins_as_after_a_token_of_key_and_value_0() -> None:
    backbone = live_backbone("rwkv4")
    layer = InitialState(backbone)(backbone.init_state(1))[0]
    assert not layer.num.any() and not layer.top.any() and bool((layer.den == 1).all())


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("module", [None, "plus"])
def test_prompts_begin_from_it(name: str, module: str | None) -> None:
    model = live_model(name, module)
    model.initial = random_initial_state(model.backbone).double()
    whole = model.encode(PROMPT, LENGTHS)
    output = model.backbone(PROMPT, model.init_state(3), lengths=LENGTHS, logits="last")
    assert_near(whole.logits, output.logits, 1e-10)
    chunked = model.encode(PROMPT, LENGTHS, chunk=2)
    assert_near(chunked.logits, whole.logits, 1e-10)
    for start in range(0, 7, 3) if module else ():  # every window begins from it
        part = model.encode(PROMPT[:1, start : start + 3])
        assert_near(
            part.logits, model.backbone(PROMPT[:1, start : start + 3], model.init_state(1)).logits[:, -1], 1e-10
        )


def loss_of(model: ProSG, draws: Draws | None = None) -> Tensor:
    weights = torch.ones(ANSWER.shape, dtype=torch.float64)
    perturber = None if draws is None else Perturber(draws, None)
    loss: Tensor = model(PROMPT, LENGTHS, ANSWER, ANSWERED, weights, perturber).loss
    return loss


def wiped() -> Draws:
    no, zeros, rows = torch.zeros(3, dtype=torch.bool), torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    untouched = StateChange(no, zeros, zeros, no, zeros, rows)
    return Draws(no, ~no, untouched, untouched, rows, no, rows)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("wipe", [False, True], ids=["kept", "wiped"])
def test_gradients_are_those_of_the_loss(name: str, wipe: bool) -> None:
    """In fp64 against differences, the backbone frozen; a wiped row begins again from the learned state."""
    model = live_model(name, None)
    model.initial = random_initial_state(model.backbone).double()
    model.backbone.requires_grad_(False)
    draws = wiped() if wipe else None
    loss_of(model, draws).backward()
    for i, tensor in enumerate(model.initial.layers):
        assert tensor.grad is not None
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                tensor += step * direction
                values.append(float(loss_of(model, draws)))
            tensor += 1e-5 * direction
        expected = (values[0] - values[1]) / 2e-5
        assert float((tensor.grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert abs(expected) > 1e-7


@pytest.mark.parametrize("name", ["rwkv4", "rwkv7"])
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    """Also through a prompt of several chunks, each of which the backward pass reads again."""
    model = live_model(name, None)
    model.chunk = 2
    model.initial = random_initial_state(model.backbone).double()
    model.backbone.requires_grad_(False)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.initial.zero_grad()
        loss_of(model).backward()
        gradients.append([tensor.grad.clone() for tensor in model.initial.layers])
    for one, other in zip(*gradients, strict=True):
        assert_near(one, other, 1e-10)


def test_a_backbone_without_gradients_to_its_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mamba.*rwkv4"):
        InitialState(hf_backbone("mamba"))
