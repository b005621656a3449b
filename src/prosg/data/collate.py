"""Rows into tensors: ids, weights, and batches of like lengths.

B batch, Tp / Ta tokens of the longest prompt / answer in the batch (answers include the end token)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prosg.core.tensors import pad
from prosg.data.encode import EncodedRow

__all__ = ["collate"]


def collate(rows: Sequence[EncodedRow], late_weight: float) -> dict[str, Tensor]:
    """Pad on the right. Padding is id 0 with weight 0; lengths say where a row ends.

    prompt (B, Tp), answer (B, Ta) int64; weights (B, Ta) float32: 1 for predicting that answer token, `late_weight`
    from the last stage's first token to the end token where a row has stages; prompt_lengths, answer_lengths,
    late_start, late_text, row_ids (B,) int64; story_end (B,) int64, before which the state may be perturbed: the last
    stage's start, 0 where the answer has turns (a touch inside one would harm its own recitation).
    """
    if not rows:
        raise ValueError("no rows to collate; a batch has at least one")
    answer = pad([row.answer for row in rows])
    lengths = torch.tensor([len(row.answer) for row in rows])
    late = torch.tensor([row.late_start for row in rows])
    staged = torch.tensor([row.has_stages for row in rows])
    position = torch.arange(answer.shape[1])
    heavy = (position >= late[:, None]) & staged[:, None]
    scored = position < lengths[:, None]
    for row, unscored in enumerate(one.unscored for one in rows):
        for start, end in unscored:
            scored[row, start:end] = False
    weights = torch.where(heavy, late_weight, 1.0) * scored
    return {
        "prompt": pad([row.prompt for row in rows]),
        "prompt_lengths": torch.tensor([len(row.prompt) for row in rows]),
        "answer": answer,
        "answer_lengths": lengths,
        "weights": weights.to(torch.float32),
        "late_start": late,
        "late_text": torch.tensor([row.late_text for row in rows]),
        "story_end": torch.tensor([0 if row.has_turns else row.late_start for row in rows]),
        "row_ids": torch.tensor([row.row_id for row in rows]),
    }
