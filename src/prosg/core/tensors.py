"""Batches of sequences of different lengths: padding and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pad", "valid_mask", "wide"]


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """(B, T) int64, padded with 0 on the right to the longest row."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.int64)


def valid_mask(lengths: Tensor, width: int) -> Tensor:
    """(B, width) bool: the first `lengths` (B,) positions of each right-padded row."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def wide(x: Tensor) -> Tensor:
    """x in fp32, or in fp64 where it is that: the type that factors, sums and losses are kept in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
