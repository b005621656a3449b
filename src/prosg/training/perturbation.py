"""What training does to the recurrent state, never at inference: swap, wipe, load, age.

An update that never had to do without the state learns to lean on it. So before the prompt a row's state may be

    started   from what another text left (state passing, arXiv 2507.02782), instead of the initial state

and between two calls of the backbone, at the prompt's end and at one random place of the answer, it may be

    swapped   another prompt's state (the next row of the batch)
    wiped     the initial state: recurrence and token shifts; the update is then the only way to the prompt
    loaded    weakened by e^U(-6, 0), with the state of other, longer text mixed in: as after a long story
    aged      decayed as if `steps` empty tokens had passed, and weakened by e^U(-6, 0)

in this order (aged or loaded, not both, and a wiped row is not aged). Each is a function State -> State. All draws are
a function of (seed, step, row id): a resumed run, and two processes, draw alike.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.core.rng import uniforms
from prosg.core.state import State, choose_rows, take_rows
from prosg.model.prosg import ProSG
from prosg.model.scoring import Interruption
from prosg.training.config import Perturbation

__all__ = ["Draws", "Perturber", "StateChange", "change_state", "draw", "loss_weights"]


class StateChange(NamedTuple):
    """Ageing or loading at one place, per row (B,)."""

    age: Tensor
    """bool"""
    steps: Tensor
    """fp32, tokens of ageing"""
    shift: Tensor
    """fp32, natural logarithm of what is left of the memory"""
    load: Tensor
    """bool"""
    weight: Tensor
    """fp32, weight of the loaded memory"""
    bank_row: Tensor
    """int64, row of the bank whose state is loaded"""


class Draws(NamedTuple):
    """Everything random of one step, per row (B,)."""

    swap: Tensor
    """bool"""
    wipe: Tensor
    """bool"""
    prompt_end: StateChange
    answer: StateChange
    position: Tensor
    """int64: how many answer tokens are read before the change inside the answer"""
    start: Tensor
    """bool: whether the prompt is read from a state of the bank"""
    start_row: Tensor
    """int64, row of the bank"""


def draw(p: Perturbation, seed: int, step: int, progress: float, row_ids: Tensor, late_start: Tensor) -> Draws:
    """Draws what is done to the states of one step.

    Args:
        p: Probabilities and strengths.
        seed: Of the run.
        step: Optimiser step.
        progress: 0 to 1 over the run; moves the probability of wiping from its first to its last value.
        row_ids: Numbers of the rows (B,) int64.
        late_start: Answer token at which each row's last stage begins (B,).
    """
    table = torch.from_numpy(uniforms(seed, step, row_ids.numpy(), 15)).to(torch.float32)
    column = iter(table.unbind(1))
    swap = next(column) < p.swap
    wipe = next(column) < p.wipe_first + (p.wipe_last - p.wipe_first) * progress

    def change(load: float, age: float, longest: float, possible: Tensor) -> StateChange:
        hit, steps, shift, weight, bank = (next(column) for _ in range(5))
        return StateChange(
            age=(hit < age) & ~wipe & possible,
            steps=steps * longest,
            shift=shift * p.weakest,
            load=(hit < load) & possible,
            weight=torch.exp(weight * p.load_weight),
            bank_row=(bank * p.bank_size).long(),
        )

    has_story = late_start > 1  # an answer of one stage has no place before its last one
    prompt_end = change(p.load, p.age, p.age_steps, torch.ones_like(has_story))
    answer = change(p.load_story, p.cut, p.cut_steps, has_story)
    position = 1 + (next(column) * (late_start - 1).clamp(min=1)).long()
    start, start_row = next(column) < p.start, (next(column) * p.bank_size).long()
    return Draws(swap, wipe, prompt_end, answer, position, start, start_row)


def loss_weights(draws: Draws, weights: Tensor, first_end: Tensor, factor: float) -> Tensor:
    """Returns the weights of answer tokens (B, T) under `Perturbation.first_weight`.

    Args:
        draws: Which states are perturbed, and where.
        weights: Of the answer tokens in the loss.
        first_end: Where the first stages end (B,).
        factor: Of the weights of tokens before that are read from a perturbed state.
    """
    place = torch.arange(weights.shape[1], device=weights.device)
    whole = draws.swap | draws.wipe | draws.prompt_end.load | draws.prompt_end.age
    rest = (draws.answer.load | draws.answer.age).unsqueeze(1) & (place > draws.position.unsqueeze(1))
    first = place < first_end.unsqueeze(1)
    return torch.where((whole.unsqueeze(1) | rest) & first, factor * weights, weights)


def change_state(backbone: Backbone, state: State, change: StateChange, bank: State | None, reference: State) -> State:
    """Ages or loads the rows that were drawn.

    Args:
        backbone: Knows how its memory ages and is loaded.
        state: Of B rows.
        change: What is done to each row.
        bank: States of long text; needed where a row is loaded.
        reference: The state before it was wiped: says how strong a memory is.
    """
    if change.age.any():
        state = choose_rows(change.age, backbone.age(state, change.steps, change.shift), state)
    if change.load.any():
        assert bank is not None
        other = take_rows(bank, change.bank_row)
        loaded = backbone.load(state, other, torch.exp(change.shift), change.weight, reference)
        state = choose_rows(change.load, loaded, state)
    return state


class Perturber(NamedTuple):
    """One step's draws and the bank that is loaded from: the `StatePerturber` of `ProSG.forward`."""

    draws: Draws
    bank: State | None

    def at_start(self, model: ProSG) -> State | None:
        """The state from which the prompts are read; None for the initial one in every row."""
        if not bool(self.draws.start.any()):
            return None
        assert self.bank is not None
        empty = model.init_state(self.draws.start.shape[0])
        return choose_rows(self.draws.start, take_rows(self.bank, self.draws.start_row), empty)

    def at_prompt_end(self, model: ProSG, state: State) -> State:
        """Swaps, wipes, then ages or loads the states after the prompts."""
        batch = self.draws.swap.shape[0]
        swapped = choose_rows(self.draws.swap, take_rows(state, _neighbours(self.draws.swap)), state)
        wiped = choose_rows(self.draws.wipe, model.init_state(batch), swapped)
        return change_state(model.backbone, wiped, self.draws.prompt_end, self.bank, swapped)

    def in_answer(self, model: ProSG, steps: Tensor) -> Interruption | None:
        """Ages or loads the states inside the answers, of which `steps` (B,) tokens are read.

        The call boundary of a row that is not changed may stand anywhere: it is put where neither call grows beyond
        what the changed rows need.
        """
        changed = self.draws.answer.age | self.draws.answer.load
        if not bool(changed.any()):
            return None
        position = torch.minimum(self.draws.position, steps)
        first, second = position[changed].max(), (steps - position)[changed].max()
        position = torch.where(changed, position, (steps - second).clamp(min=0).minimum(first))
        return Interruption(
            position, lambda state: change_state(model.backbone, state, self.draws.answer, self.bank, state)
        )

    def exchange_prompts(self, prompt: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Where there is no state between two calls: a wiped row reads no prompt, a swapped one the next row's."""
        other = _neighbours(prompt)
        shown = torch.where(self.draws.swap.unsqueeze(1), prompt[other], prompt)
        return shown, torch.where(self.draws.swap, lengths[other], lengths).masked_fill(self.draws.wipe, 0)


def _neighbours(rows: Tensor) -> Tensor:
    return torch.arange(rows.shape[0], device=rows.device).roll(-1)
