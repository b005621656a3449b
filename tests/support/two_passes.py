"""A batch of three rows for both passes of a model, and draws that perturb the states of chosen ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prosg.training.perturbation import Draws, StateChange
from support.models import tokens

LENGTHS = torch.tensor([9, 2, 6])
PROMPT = tokens(3, 9, seed=1)
ANSWER_LENGTHS = torch.tensor([4, 6, 1])
ANSWER = tokens(3, 6, seed=2)


def batch(**changes: Any) -> dict[str, Any]:
    weights = torch.tensor([[1.0, 1, 3, 3, 0, 0], [1, 1, 1, 1, 3, 3], [1, 0, 0, 0, 0, 0]])
    return {
        "prompt": PROMPT,
        "prompt_lengths": LENGTHS,
        "answer": ANSWER,
        "answer_lengths": ANSWER_LENGTHS,
        "weights": weights,
    } | changes


def touch(count: int = 3, **changes: Tensor) -> StateChange:
    """A change of nothing in `count` rows, but for what is given."""
    no, zero = torch.zeros(count, dtype=torch.bool), torch.zeros(count)
    nothing = StateChange(age=no, steps=zero, shift=zero, load=no, weight=zero, bank_row=zero.long())
    return nothing._replace(**changes)


def draws(**changes: Any) -> Draws:
    no = torch.zeros(3, dtype=torch.bool)
    position = torch.tensor([2, 4, 1])
    return Draws(
        swap=no, wipe=no, prompt_end=touch(), answer=touch(), position=position, start=no, start_row=no.long()
    )._replace(**changes)


def rows(*values: bool) -> Tensor:
    return torch.tensor(values)
