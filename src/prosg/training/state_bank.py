"""A bank of recurrent states of long text, which training loads from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from prosg.backbones.base import Backbone, Output
from prosg.checkpoints.encoded import flatten, unflatten
from prosg.core.rng import uniforms
from prosg.core.state import State, detach_state, replace_rows, take_rows
from prosg.core.update import Update, detach_update, replace_update_rows, take_update_rows
from prosg.training.config import Perturbation

__all__ = ["StoryBank"]


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
