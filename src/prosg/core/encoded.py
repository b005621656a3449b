"""An encoded prompt: all that a model keeps of a prompt once it has been read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prosg.core.state import State, join_states, take_rows
from prosg.core.update import Update, join_updates, take_update_rows

__all__ = ["EncodedPrompt"]


class EncodedPrompt(NamedTuple):
    """State, update and last logits of B prompts.

    It is a value: rows can be taken, joined and stored, and an update can be combined with any state of its model.
    """

    state: State
    """the recurrent state after the prompt"""
    update: Update | None
    """the weight changes under which the answer is written; None for a backbone alone"""
    logits: Tensor
    """(B, V) at the prompt's last token, computed with unmodified weights: they give the first answer token"""

    @property
    def batch(self) -> int:
        """Number of prompts."""
        return self.logits.shape[0]

    def take(self, rows: Tensor) -> EncodedPrompt:
        """Returns the prompts at the indices `rows` (N,)."""
        update = None if self.update is None else take_update_rows(self.update, rows)
        return EncodedPrompt(take_rows(self.state, rows), update, self.logits[rows])

    @staticmethod
    def join(parts: list[EncodedPrompt]) -> EncodedPrompt:
        """Concatenates encoded prompts. Raises ValueError if only some of them have an update."""
        updates = [part.update for part in parts if part.update is not None]
        if 0 < len(updates) < len(parts):
            raise ValueError("encoded prompts with and without an update cannot be joined")
        return EncodedPrompt(
            join_states([part.state for part in parts]),
            join_updates(updates) if updates else None,
            torch.cat([part.logits for part in parts]),
        )
