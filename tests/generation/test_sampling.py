"""Choosing a token: temperature, top-k, top-p, and tokens that are ruled out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prosg.generation.sampling import Sampling, pick

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]]))


def distribution(temperature: float = 1.0, **options: Any) -> list[float]:
    """How often each token is drawn, by sweeping the random number over [0, 1)."""
    n = 4000
    numbers = (torch.arange(n) + 0.5) / n
    drawn = pick(LOGITS.expand(n, -1), torch.full((n,), temperature), numbers, **options)
    return (torch.bincount(drawn, minlength=5) / n).tolist()


def test_sampling_follows_the_distribution() -> None:
    assert distribution() == pytest.approx([0.1, 0.4, 0.05, 0.3, 0.15], abs=1e-3)
    squares = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]).square()
    assert distribution(0.5) == pytest.approx((squares / squares.sum()).tolist(), abs=1e-3)
    assert distribution(0.0) == [0, 1, 0, 0, 0]


def test_top_k_and_top_p() -> None:
    assert distribution(top_k=1) == [0, 1, 0, 0, 0]
    assert distribution(top_k=2) == pytest.approx([0, 4 / 7, 0, 3 / 7, 0], abs=1e-3)
    assert distribution(top_k=9) == distribution(top_k=0) == distribution()
    # .4, .3, .15, .1, .05: a token is kept while those before it hold less than p
    assert distribution(top_p=0.39) == [0, 1, 0, 0, 0]
    assert distribution(top_p=0.6) == pytest.approx([0, 4 / 7, 0, 3 / 7, 0], abs=1e-3)
    assert distribution(top_p=0.84) == pytest.approx([0, 40 / 85, 0, 30 / 85, 15 / 85], abs=1e-3)
    # top_k first, then the share of what it left: .4, .3, .15 of .85
    assert distribution(top_k=3, top_p=0.8) == pytest.approx([0, 4 / 7, 0, 3 / 7, 0], abs=1e-3)


def test_each_row_has_its_own_temperature() -> None:
    drawn = pick(LOGITS.expand(3, -1), torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.99, 0.99, 0.0]))
    assert drawn.tolist() == [1, 4, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e-6, 0.5, 1.0])
def test_logits_whose_quotients_are_beyond_fp32_are_drawn_from(dtype: torch.dtype, temperature: float) -> None:
    """The greatest one is certain; a row beside them is drawn as ever."""
    logits = torch.tensor([[1e35, 3e38, -3e38], [-3e38, -1e38, -2e38], [0.0, 1.0, 2.0]], dtype=dtype)
    if dtype == torch.float64:
        logits[:2] *= 1e3
    warm = torch.tensor([temperature, temperature, 1.0])
    drawn = pick(logits, warm, torch.tensor([0.0, 0.99, 0.5]))
    assert drawn.tolist() == [1, 1, int(pick(logits[2:].float(), warm[2:], torch.tensor([0.5])))]


def test_a_token_that_is_ruled_out_is_never_drawn() -> None:
    """Also at the ends of the range, where the cumulated distribution is rounded."""
    logits = LOGITS.clone()
    logits[0, 0] = logits[0, 4] = -torch.inf
    edges = torch.tensor([0.0, 2.0**-24, 1 - 2.0**-24, 1.0])
    for top_k in (0, 2):
        drawn = pick(logits.expand(4, -1), torch.ones(4), edges, top_k=top_k)
        assert set(drawn.tolist()) <= {1, 2, 3}
    many = torch.randn(4, 5000)
    many[:, 4000:] = -torch.inf
    assert int(pick(many, torch.ones(4), edges).max()) < 4000


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 1e308),
        ("temperature", math.nan),
        ("late_temperature", 1001.0),
        ("late_temperature", math.inf),
        ("top_p", math.nan),
    ],
)
def test_options_are_finite_and_in_range(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{option} is "):
        Sampling(**{option: value})


def test_each_row_may_have_its_own_top_k_and_top_p() -> None:
    """A row draws, bit for bit, what it draws where its options are those of all."""
    generator = torch.Generator().manual_seed(0)
    logits, numbers = torch.randn(60, 40, generator=generator), torch.rand(60, generator=generator)
    top_k, top_p = torch.arange(60) % 5 * 9, torch.tensor([1.0, 0.9, 0.5, 0.1]).repeat(15)
    temperature = torch.tensor([1.0, 0.0, 2.0]).repeat(20)
    together = pick(logits, temperature, numbers, top_k, top_p)
    for row in range(60):
        part = slice(row, row + 1)
        alone = pick(logits[part], temperature[part], numbers[part], int(top_k[row]), float(top_p[row]))
        assert together[part].tolist() == alone.tolist()


def chosen_by_sorting(logits: Tensor, temperature: float, number: float, top_k: int, top_p: float) -> int:
    """What `pick` chooses, for one row (V,), by a stable order of all tokens: its oracle."""
    if temperature == 0:
        return int((logits == logits.max()).nonzero()[0])
    scaled = logits.float() / temperature
    if top_k:
        scaled = scaled.masked_fill(
            scaled < scaled.sort(descending=True).values[min(top_k, len(scaled)) - 1], -torch.inf
        )
    p = torch.softmax(scaled.unsqueeze(0), 1)[0]
    if top_p < 1:
        ordered, index = torch.sort(p, descending=True, stable=True)
        p[index[ordered.cumsum(0) - ordered >= top_p]] = 0.0
    total = p.cumsum(0)
    target = min(number * total[-1], torch.nextafter(total[-1], torch.tensor(0.0)))
    return int((total > target).nonzero()[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [3, 700])
def test_rows_choose_what_an_order_of_all_tokens_gives(dtype: torch.dtype, vocab_size: int) -> None:
    """From peaked to flat distributions, with equals, mixed in one batch."""
    generator = torch.Generator().manual_seed(vocab_size)
    options = [*itertools.product((0.0, 0.7, 3.0), (0, 1, 40, 900), (1.0, 0.9, 0.4))]
    spread = torch.tensor([0.01, 1.0, 8.0]).repeat(len(options) // 3).unsqueeze(1)
    for equals in (False, True):
        logits = spread * torch.randn(len(options), vocab_size, generator=generator)
        logits = (logits.round() if equals else logits).to(dtype)
        numbers = torch.rand(len(options), generator=generator)
        temperature, top_k, top_p = (torch.tensor(column) for column in zip(*options, strict=True))
        chosen = pick(logits, temperature, numbers, top_k, top_p).tolist()
        assert chosen == [
            chosen_by_sorting(row, hot, number, k, share)
            for row, number, (hot, k, share) in zip(logits, numbers, options, strict=True)
        ]


def test_of_equals_the_lowest_ids_are_kept() -> None:
    """However the likeliest tokens are found: a share that few hold, and one that nearly all hold."""
    numbers = torch.linspace(0, 1, 50)
    for vocab_size in (10, 1000):
        drawn = pick(torch.zeros(50, vocab_size), torch.ones(50), numbers, top_p=0.3)
        assert int(drawn.max()) == 0.3 * vocab_size - 1
