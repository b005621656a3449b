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

__all__ = ["StateBank"]


class StateBank:
    """States of long text: each grows, step by step, under the update of the prompt that it began with, if any.

    In each step some rows read a text of the batch, without gradient, and some of them begin anew, from a prompt of the
    batch or from the empty state (`Perturbation.bank_start`). So a bank holds states of every age that the restarts
    allow.

    Attributes:
        state: Of `bank_size` rows; None before the first step.
        update: Their updates; None for a model without a module.
    """

    def __init__(self, settings: Perturbation, seed: int, process: int = 0) -> None:
        """Makes an empty bank; each of several processes has one of its own, with draws of its own."""
        self.settings = settings
        self.seed = seed
        self.numbers = process * settings.bank_size + np.arange(settings.bank_size)
        self.state: State | None = None
        self.update: Update | None = None

    def fill(self, state: State, update: Update | None) -> None:
        """Begins with the states of one batch, over and over."""
        rows = torch.arange(self.settings.bank_size, device=state[0][0].device) % state[0][0].shape[0]
        self.state = take_rows(detach_state(state), rows)
        self.update = None if update is None else detach_update(_take_whole_rows(update, rows))

    @torch.no_grad()
    def grow(
        self,
        backbone: Callable[..., Output],
        step: int,
        texts: Tensor,
        lengths: Tensor,
        state: State,
        update: Update | None,
    ) -> None:
        """Lets `bank_rows` rows read a text each; at first, where they begin empty, all of them.

        Args:
            backbone: What reads.
            step: Counts the calls of a run; the draws are a function of it.
            texts: Token ids (B, T) of the batch, padded on the right.
            lengths: Tokens of each text (B,).
            state: Of B rows, from which rows begin anew.
            update: Under which they then read.
        """
        p, batch = self.settings, texts.shape[0]
        all_read = self.state is None and p.bank_start == "empty"
        if self.state is None:
            self.fill(state, update)
        assert self.state is not None
        numbers = uniforms(self.seed, step, self.numbers, 3)
        count = p.bank_size if all_read else p.bank_rows
        rows = torch.from_numpy(np.sort(np.argsort(numbers[:, 0])[:count])).to(texts.device)
        source = torch.from_numpy((numbers[:, 1] * batch).astype(np.int64)).to(texts.device)[rows]
        renew = torch.from_numpy(numbers[:, 2] < p.bank_restart).to(texts.device)[rows]
        if renew.any():
            self.state = replace_rows(self.state, rows[renew], take_rows(detach_state(state), source[renew]))
            if self.update is not None and update is not None:
                fresh = detach_update(_take_whole_rows(update, source[renew]))
                self.update = replace_update_rows(self.update, rows[renew], fresh)
        longest = max(int(lengths[source].max()), 1)
        grown = backbone(
            texts[source, :longest],
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
        """Restores what `state_dict` gave, for states of this backbone."""
        self.state, self.update = unflatten(flat, backbone) if flat else (None, None)


def _take_whole_rows(update: Update, rows: Tensor) -> Update:
    """Rows of an update with `b` as a row's own: a learned b changes later, the bank keeps what a row was born with."""
    return take_update_rows({site: delta.rows() for site, delta in update.items()}, rows)
