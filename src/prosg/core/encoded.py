"""A prompt that has been read: state, update and last logits, as a value and as a file."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prosg.core.state import State, join_states, take_rows
from prosg.core.update import Update, join_updates, take_update_rows

__all__ = ["EncodedPrompt"]


class EncodedPrompt(NamedTuple):
    """What a prompt leaves behind. Its rows can be taken, joined, stored and combined with any state."""

    state: State
    """after the prompt"""
    update: Update | None
    """None for a backbone without a module"""
    logits: Tensor
    """(B, V), the prompt's last: the first answer token comes from them, that is, from the unmodified weights"""

    @property
    def batch(self) -> int:
        """Number of prompts."""
        return self.logits.shape[0]

    def take(self, rows: Tensor) -> EncodedPrompt:
        """Some of the prompts, by index (N,)."""
        update = None if self.update is None else take_update_rows(self.update, rows)
        return EncodedPrompt(take_rows(self.state, rows), update, self.logits[rows])

    @staticmethod
    def join(parts: list[EncodedPrompt]) -> EncodedPrompt:
        """One batch out of several."""
        updates = [part.update for part in parts if part.update is not None]
        if 0 < len(updates) < len(parts):
            raise ValueError("encoded prompts with and without an update cannot be joined")
        return EncodedPrompt(
            join_states([part.state for part in parts]),
            join_updates(updates) if updates else None,
            torch.cat([part.logits for part in parts]),
        )
