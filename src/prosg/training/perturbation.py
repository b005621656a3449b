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

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prosg.backbones.base import Backbone, Output
from prosg.core.encoded import flatten, unflatten
from prosg.core.state import State, choose_rows, detach_state, replace_rows, take_rows
from prosg.core.update import Update, detach_update, replace_update_rows, take_update_rows
from prosg.training.config import Perturbation

__all__ = ["Draws", "StoryBank", "Touch", "draw", "perturb", "uniforms"]


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


def uniforms(seed: int, step: int, ids: np.ndarray, count: int) -> np.ndarray:
    """(len(ids), count) numbers in [0, 1), a function of seed, step, id and column alone (splitmix64).

    They are multiples of 2^-24: one above the largest fp32 below 1 would become 1 there, and point beyond every table.
    """
    with np.errstate(over="ignore"):
        x: np.ndarray = np.full(1, seed & (2**64 - 1), np.uint64)
        for part in (np.full(1, step, np.uint64), ids.astype(np.uint64)[:, None], np.arange(count, dtype=np.uint64)):
            x = x + np.uint64(0x9E3779B97F4A7C15) * (part + np.uint64(1))
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return np.asarray((x >> np.uint64(40)).astype(np.float64) / float(1 << 24))


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


class StoryBank:
    """States of long text, for loading: each grows under the update of the prompt that it began with.

    In each step some rows read the story of a row of the batch, without gradient, and some begin anew from a prompt of
    the batch. So a bank holds states of every age that the restarts allow.
    """

    def __init__(self, settings: Perturbation, seed: int, process: int = 0) -> None:
        """Each of several processes has a bank of its own, with draws of its own."""
        self.settings = settings
        self.seed = seed
        self.rows = process * settings.bank_size + np.arange(settings.bank_size)
        self.state: State | None = None
        self.update: Update | None = None

    def fill(self, state: State, update: Update | None) -> None:
        """Begin with the prompts of one batch, over and over."""
        rows = torch.arange(self.settings.bank_size, device=state[0][0].device) % state[0][0].shape[0]
        self.state = take_rows(detach_state(state), rows)
        self.update = None if update is None else detach_update(_rows(update, rows))

    @torch.no_grad()
    def grow(
        self,
        backbone: Callable[..., Output],
        step: int,
        stories: Tensor,
        lengths: Tensor,
        state: State,
        update: Update | None,
    ) -> None:
        """stories (B, T) of `lengths` (B,); state and update are those of the batch's prompts."""
        if self.state is None:
            self.fill(state, update)
        assert self.state is not None
        p, batch = self.settings, stories.shape[0]
        order = uniforms(self.seed, step, self.rows, 3)
        rows = torch.from_numpy(np.sort(np.argsort(order[:, 0])[: p.bank_rows])).to(stories.device)
        source = torch.from_numpy((order[:, 1] * batch).astype(np.int64)).to(stories.device)[rows]
        renew = torch.from_numpy(order[:, 2] < p.bank_restart).to(stories.device)[rows]
        if renew.any():
            self.state = replace_rows(self.state, rows[renew], take_rows(detach_state(state), source[renew]))
            if self.update is not None and update is not None:
                fresh = detach_update(_rows(update, source[renew]))
                self.update = replace_update_rows(self.update, rows[renew], fresh)
        longest = max(int(lengths[source].max()), 1)
        grown = backbone(
            stories[source, :longest],
            take_rows(self.state, rows),
            update=None if self.update is None else take_update_rows(self.update, rows),
            lengths=lengths[source],
            logits="none",
        )
        self.state = replace_rows(self.state, rows, grown.state)

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors, for a checkpoint; empty before the first step."""
        return {} if self.state is None else flatten(self.state, self.update)

    def load_state_dict(self, flat: dict[str, Tensor], backbone: Backbone) -> None:
        """The reverse, for states of this backbone."""
        self.state, self.update = unflatten(flat, backbone) if flat else (None, None)


def _rows(update: Update, rows: Tensor) -> Update:
    # A learned b is the batch's alone as long as it is learned: the bank keeps the one that a row was born with.
    return take_update_rows({site: delta.rows() for site, delta in update.items()}, rows)
