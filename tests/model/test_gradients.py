"""Gradients of both phases by finite differences, and where none may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from prosg.core.state import detach_state
from prosg.training.perturbation import Perturber
from support.models import TINY, live_model, tokens
from support.two_passes import ANSWER, batch, draws, rows, touch


def finite_differences(loss: Callable[[], Tensor], parameters: Iterator[tuple[str, nn.Parameter]]) -> int:
    """Compare each tensor's gradient along a random direction with central differences; how many have one."""
    named = dict(parameters)
    gradients = torch.autograd.grad(loss(), list(named.values()), allow_unused=True)
    alive = 0
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        direction = torch.randn_like(parameter)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * direction
                ends.append(float(loss()))
                parameter -= sign * 1e-6 * direction
        measured = (ends[0] - ends[1]) / 2e-6
        claimed = 0.0 if gradient is None else float((gradient * direction).sum())
        assert claimed == pytest.approx(measured, rel=1e-5, abs=3e-8), name
        alive += claimed != 0.0
    return alive


ALL_DRAWS = {
    "as it is": None,
    "wiped": draws(wipe=rows(True, False, True)),
    "loaded at both places": draws(
        wipe=rows(False, True, False),
        prompt_end=touch(
            load=rows(True, True, False),
            weight=torch.tensor([2.0, 1.5, 1.0]),
            shift=torch.tensor([-1.0, -2.0, 0.0]),
        ),
        answer=touch(load=rows(True, True, False), weight=torch.tensor([1.0, 4.0, 1.0]), shift=-torch.ones(3)),
    ),
}


@pytest.mark.parametrize("module", ["paper, rank 3", "plus", "static"])
@pytest.mark.parametrize("given", ["as it is", "loaded at both places"])
def test_gradients_of_the_module(module: str, given: str) -> None:
    """Phase 2: the backbone is frozen, and every tensor of the module has its gradient."""
    model = live_model("rwkv4", module)
    model.backbone.requires_grad_(False)
    bank, chosen = detach_state(model.backbone(tokens(2, 30, seed=7)).state), ALL_DRAWS[given]
    assert model.synthesizer is not None
    alive = finite_differences(
        lambda: model(**batch(), perturber=None if chosen is None else Perturber(chosen, bank)).loss,
        model.synthesizer.named_parameters(),
    )
    # All of them, but those that the softmax or the last LayerNorm makes idle.
    assert alive >= 0.9 * len(list(model.synthesizer.parameters()))


THROUGH_THE_STATE = [
    *(("rwkv4", given) for given in ALL_DRAWS),
    *((name, "loaded at both places") for name in TINY if name != "rwkv4" and "own widths" not in name),
]
"""The last of the draws has wiped, loaded and untouched rows; what is no matter of the backbone is tried with one."""


@pytest.mark.parametrize(("name", "given"), THROUGH_THE_STATE)
def test_gradients_of_the_backbone_through_the_state(name: str, given: str) -> None:
    """Phase 1: the loss is on the answer alone, so what the prompt pass learns comes through the state."""
    model = live_model(name, None)
    with torch.no_grad():  # as drawn for training a norm makes of them a loss that is too steep for differences
        model.backbone.emb.weight *= 50
    bank, chosen = detach_state(model.backbone(tokens(2, 30, seed=7)).state), ALL_DRAWS[given]
    alive = finite_differences(
        lambda: model(**batch(), perturber=None if chosen is None else Perturber(chosen, bank)).loss,
        model.backbone.named_parameters(),
    )
    assert alive == len(list(model.backbone.parameters()))


def test_gradients_cross_from_the_answer_to_the_prompt() -> None:
    """A word that stands in the prompt only is learned from the answer's second token on."""
    model = live_model("rwkv4", None)
    prompt = torch.full((3, 9), 3)
    weights = batch()["weights"].clone()
    weights[:, 0] = 0  # that token comes from the prompt's own logits
    answer = torch.full_like(ANSWER, 5)
    loss = model(**batch(prompt=prompt, answer=answer, weights=weights)).loss
    gradient = torch.autograd.grad(loss, model.backbone.emb.weight)[0]
    assert gradient[3].abs().max() > 1e-6
    assert gradient[4].count_nonzero() == 0


def test_a_frozen_backbone_gets_no_gradient_and_no_history() -> None:
    model = live_model("rwkv4", "plus")
    model.backbone.requires_grad_(False)
    scored = model(**batch())
    assert scored.loss.requires_grad
    assert not any(leaf.requires_grad for layer in scored.encoded.state for leaf in layer)
    assert not scored.encoded.logits.requires_grad
    scored.loss.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
