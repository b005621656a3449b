"""One check for each kind of value that comes in."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from prosg.core.checks import GREATEST, check_lengths, check_token_id, check_tokens, check_values
from support.generated import draws, refusal

KINDS = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]
ODD = [math.nan, math.inf, -math.inf, 1e30, -1e11, 0.0, 1.0, -5.0, 1e10]


def test_values_are_accepted_only_if_finite_and_in_range() -> None:
    for draw in draws(11):
        numbers = torch.tensor([draw.choice(ODD) for _ in range(draw.randrange(4))], dtype=torch.float64)
        values = numbers.to(draw.choice(KINDS)).reshape(-1, 1)
        fits = values.is_floating_point() and bool((values.isfinite() & (values.abs() <= GREATEST)).all())
        assert (refusal(partial(check_values, "x", values), "x ") == "") == fits


def test_lengths_lie_within_their_rows() -> None:
    for draw in draws(12):
        batch, width = draw.randrange(1, 4), draw.randrange(1, 5)
        lengths = torch.tensor([draw.randrange(-1, 7) for _ in range(draw.choice([batch, batch, 2]))])
        lengths = lengths.to(draw.choice([torch.int64, torch.int32, torch.float32, torch.bool]))
        whole = lengths.dtype in (torch.int64, torch.int32)
        fits = whole and len(lengths) == batch and all(1 <= length <= width for length in lengths.tolist())
        assert (refusal(partial(check_lengths, lengths, batch, width), "lengths ") == "") == fits


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (torch.tensor([[0, 9], [3, 10]]), "an id in x is 10; the model's vocabulary has the ids 0 to 9"),
        (torch.tensor([[0, -100]]), "an id in x is -100"),
        (torch.tensor([1, 2]), r"shape \(2,\)"),
        (torch.ones(1, 2), "float32"),
        (torch.ones(1, 2, dtype=torch.bool), "bool"),
        (torch.ones(1, 2, dtype=torch.uint8), "uint8; .*int64 or int32"),
        (torch.zeros(0, 3, dtype=torch.int64), "the batch is empty"),
    ],
)
def test_token_ids_are_those_of_the_vocabulary(tokens: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_tokens(tokens, 10, "x")
    check_tokens(torch.tensor([[0, 9]]), 10)


@pytest.mark.parametrize("token", [-1, 10, 999_999])
def test_an_id_beyond_the_vocabulary_is_named(token: int) -> None:
    check_token_id("end_token", 9, 10)
    with pytest.raises(ValueError, match=f"end_token is {token}; .* 0 to 9"):
        check_token_id("end_token", token, 10)
