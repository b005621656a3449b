"""What is done to the recurrent state in training, never at inference: wipe, swap, age, load.

A memory that never had to do without the state learns to lean on it. So between two calls of the backbone, at the
prompt's end and at one random place of the answer, each row's state may be

    swap   another prompt's state (the next row of the batch)
    wipe   the initial state: recurrence and token shifts; the update is then the only way to the prompt
    load   weakened by e^U(-6, 0), with the state of other, longer text mixed in: how a state is after a long story
    age    decayed as if `steps` empty tokens had passed, and weakened by e^U(-6, 0)

in this order (age or load, not both, and a wiped row is not aged). Each is a function State -> State. All draws are a
function of (seed, step, row id): a resumed run, and two processes, draw the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.core.rng import uniforms
from prosg.core.state import State, choose_rows, take_rows
from prosg.training.config import Perturbation

__all__ = ["Draws", "Touch", "draw", "perturb"]


class Touch(NamedTuple):
    """One place's ageing or loading, per row (B,)."""

    age: Tensor
    """bool"""
    steps: Tensor
    """fp32, tokens"""
    shift: Tensor
    """fp32, natural logarithm of what is left"""
    load: Tensor
    """bool"""
    weight: Tensor
    """fp32, weight of the loaded memory"""
    bank_row: Tensor
    """int64"""


class Draws(NamedTuple):
    """Everything random of one step, per row (B,)."""

    swap: Tensor
    wipe: Tensor
    end: Touch
    story: Touch
    position: Tensor
    """int64: how many answer tokens are read before the story's touch."""


def draw(p: Perturbation, seed: int, step: int, progress: float, row_ids: Tensor, late_start: Tensor) -> Draws:
    """The draws of one step. `progress` 0 to 1 moves the wiping; late_start (B,): where the last stage begins."""
    table = torch.from_numpy(uniforms(seed, step, row_ids.numpy(), 13)).to(torch.float32)
    column = iter(table.unbind(1))
    swap = next(column) < p.swap
    wipe = next(column) < p.wipe_first + (p.wipe_last - p.wipe_first) * progress

    def touch(load: float, age: float, longest: float, place: Tensor) -> Touch:
        hit, steps, shift, weight, bank = (next(column) for _ in range(5))
        return Touch(
            age=(hit < age) & ~wipe & place,
            steps=steps * longest,
            shift=shift * p.weakest,
            load=(hit < load) & place,
            weight=torch.exp(weight * p.load_weight),
            bank_row=(bank * p.bank_size).long(),
        )

    story_there = late_start > 1  # an answer of one stage has no place before its last one
    end = touch(p.load, p.age, p.age_steps, torch.ones_like(story_there))
    story = touch(p.load_story, p.cut, p.cut_steps, story_there)
    position = 1 + (next(column) * (late_start - 1).clamp(min=1)).long()
    return Draws(swap, wipe, end, story, position)


def perturb(backbone: Backbone, state: State, touch: Touch, bank: State | None, reference: State) -> State:
    """Age or load the rows that were drawn; `reference` is the state before it was wiped."""
    if touch.age.any():
        state = choose_rows(touch.age, backbone.age(state, touch.steps, touch.shift), state)
    if touch.load.any():
        assert bank is not None
        other = take_rows(bank, touch.bank_row)
        loaded = backbone.load(state, other, torch.exp(touch.shift), touch.weight, reference)
        state = choose_rows(touch.load, loaded, state)
    return state
