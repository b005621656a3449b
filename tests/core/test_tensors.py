"""Padding, masks, and the type of sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prosg.core.tensors import last_valid, pad, valid_mask, wide


def test_rows_are_padded_on_the_right_and_masked() -> None:
    tokens = pad([[5, 6, 7], [], [8]])
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 0], [8, 0, 0]]
    mask = valid_mask(torch.tensor([3, 0, 1]), 3)
    assert mask.tolist() == [[True, True, True], [False, False, False], [True, False, False]]


def test_sums_are_kept_wide() -> None:
    kept = {dtype: wide(torch.zeros(1, dtype=dtype)).dtype for dtype in (torch.bfloat16, torch.float16, torch.float32)}
    assert set(kept.values()) == {torch.float32}
    assert wide(torch.zeros(1).double()).dtype == torch.float64


@pytest.mark.parametrize("lengths", [None, torch.tensor([7])])
def test_the_last_position_keeps_no_other_alive(lengths: Any) -> None:
    x = torch.randn(1, 7, 3)
    last = last_valid(x, lengths, torch.zeros(1, 3))
    assert torch.equal(last, x[:, -1]) and last.untyped_storage().nbytes() == last.nbytes
