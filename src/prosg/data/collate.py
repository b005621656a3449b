"""Batches of tensors from encoded rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prosg.core.tensors import pad
from prosg.data.encode import EncodedRow

__all__ = ["collate"]


def collate(rows: Sequence[EncodedRow], late_weight: float) -> dict[str, Tensor]:
    """Collates rows into one batch, padded on the right with id 0 and weight 0.

    Args:
        rows: B encoded rows, at least one.
        late_weight: Weight of the tokens of the last stage, end token included, in rows with stages.

    Returns:
        Tensors by name; Tp and Ta are the tokens of the longest prompt and answer (end token included):
            prompt: (B, Tp) int64, token ids.
            answer: (B, Ta) int64, token ids.
            weights: (B, Ta) float32, weight of each answer token in the loss: 1, `late_weight`, or 0 if unscored.
            prompt_lengths, answer_lengths: (B,) int64, valid tokens.
            late_start, late_text, first_end: (B,) int64, as in `EncodedRow`.
            story_end: (B,) int64, the answer token before which the state may be perturbed: the start of the last
                stage, or 0 where the answer has turns, since perturbing the state inside a turn harms that turn's
                own answer.
            row_ids: (B,) int64.
            open: (B,) bool, as in `EncodedRow`.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("no rows to collate; a batch needs at least one")
    answer = pad([row.answer for row in rows])
    lengths = torch.tensor([len(row.answer) for row in rows])
    late = torch.tensor([row.late_start for row in rows])
    staged = torch.tensor([row.has_stages for row in rows])
    position = torch.arange(answer.shape[1])
    heavy = (position >= late[:, None]) & staged[:, None]
    scored = position < lengths[:, None]
    for index, row in enumerate(rows):
        for start, end in row.unscored:
            scored[index, start:end] = False
    weights = torch.where(heavy, late_weight, 1.0) * scored
    return {
        "prompt": pad([row.prompt for row in rows]),
        "prompt_lengths": torch.tensor([len(row.prompt) for row in rows]),
        "answer": answer,
        "answer_lengths": lengths,
        "weights": weights.to(torch.float32),
        "late_start": late,
        "late_text": torch.tensor([row.late_text for row in rows]),
        "first_end": torch.tensor([row.first_end for row in rows]),
        "story_end": torch.tensor([0 if row.has_turns else row.late_start for row in rows]),
        "row_ids": torch.tensor([row.row_id for row in rows]),
        "open": torch.tensor([row.open for row in rows]),
    }
