"""Padding and masks for sequences of different lengths, and the number type of sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["pad", "valid_mask", "wide"]


def pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "B T"]:
    """Stacks sequences of token ids as int64, padded with 0 on the right to the longest."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.int64)


def valid_mask(lengths: Int[Tensor, " B"], width: int) -> Bool[Tensor, "B {width}"]:
    """Returns which positions of right-padded rows are valid: in row i the first `lengths[i]` of `width`."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def wide(x: Tensor) -> Tensor:
    """Casts to fp32 if x is narrower: the type in which factors, sums and losses are kept. fp64 stays fp64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
