"""Whether a module tells prompts apart: what another prompt's update costs, with the prompt itself out of reach.

    other minus own, wiped     nats per token: -log p(answer) under another prompt's update, less that under its own,
                               both read from the initial state

A module that has learned only what suits every prompt stands at 0, however far its loss has fallen. An answer's first
token is left out: the prompt's own logits predict it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from prosg.data.collate import collate
from prosg.data.encode import EncodedRow
from prosg.model.perplexity import batches_by_length
from prosg.model.prosg import ProSG

__all__ = ["Contrast", "contrast"]


class Contrast(NamedTuple):
    """Other minus own, wiped, over rows."""

    mean: float
    """nats per token, each row counting alike"""
    error: float
    """standard error of the mean over rows"""
    rows: int

    @property
    def is_noise(self) -> bool:
        """Whether it lies within two standard errors of 0, or below."""
        return self.mean <= 2 * self.error


def contrast(model: ProSG, rows: Sequence[EncodedRow], batch_size: int = 32) -> Contrast | None:
    """Measures other minus own of a model with a module.

    A row's partner is the next in its batch, of about its length. Rows with the same prompt as their partner do not
    count, nor answers of one token.

    Args:
        model: With a module that reads prompts.
        rows: Prompts with their answers.
        batch_size: Rows at once, each of which is read twice in one call.

    Returns:
        None where fewer than two rows count.
    """
    differences: list[float] = []
    for indices in batches_by_length(rows, batch_size):
        chosen = [rows[i] for i in indices]
        partners = [*range(1, len(chosen)), 0]
        batch = {name: value.to(model.device) for name, value in collate(chosen, late_weight=1.0).items()}
        other, own = model.score_wiped(
            batch["prompt"],
            batch["prompt_lengths"],
            batch["answer"],
            batch["answer_lengths"],
            torch.tensor(partners, device=model.device),
        )
        scored = (batch["weights"] > 0)[:, 1:]
        counts = scored.sum(1)
        gaps = ((other.nll - own.nll)[:, 1:].double() * scored).sum(1) / counts.clamp(min=1)
        for row, partner, count, gap in zip(chosen, partners, counts.tolist(), gaps.tolist(), strict=True):
            if count and row.prompt != chosen[partner].prompt:
                differences.append(gap)
    if len(differences) < 2:
        return None
    mean = math.fsum(differences) / len(differences)
    variance = math.fsum((value - mean) ** 2 for value in differences) / (len(differences) - 1)
    return Contrast(mean, math.sqrt(variance / len(differences)), len(differences))
