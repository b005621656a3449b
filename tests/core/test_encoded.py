"""Encoded prompts: which rows can be taken of them."""

from __future__ import annotations

import pytest
import torch

from prosg.core.encoded import EncodedPrompt


def test_rows_to_take_are_a_list() -> None:
    encoded = EncodedPrompt((), None, torch.zeros(2, 3))
    for rows in (0, slice(0, 1)):
        with pytest.raises(TypeError, match="rows"):
            encoded.take(rows)  # type: ignore[arg-type]
