"""Perplexity against a computation by hand, token by token."""

from __future__ import annotations

import math

import pytest
import torch

from prosg.core.encoded import EncodedPrompt
from prosg.data.encode import EncodedRow
from prosg.model.perplexity import batches_by_length, perplexity, score_rows, summarize
from prosg.model.prosg import ProSG
from support.models import VOCAB, live_model


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(1, VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


ROWS = [
    EncodedRow(1, "a", ids(7, 1), [*ids(8, 2), 0], late_start=5, has_stages=True, late_text=6),
    EncodedRow(2, "b", ids(3, 3), [*ids(3, 4), 0], late_start=2, has_stages=True, late_text=2),
    EncodedRow(3, "c", ids(5, 5), [*ids(5, 6), 0], late_start=4, has_stages=False, late_text=4),
    EncodedRow(4, "d", ids(2, 7), [0], late_start=0, has_stages=False, late_text=0),
]


def by_hand(model: ProSG, row: EncodedRow, encoded: EncodedPrompt) -> tuple[list[float], list[int]]:
    """Each answer token's negative log-likelihood, and what the model would have written there."""
    nll, likeliest = [], []
    logits, state = encoded.logits, encoded.state
    with torch.no_grad():
        for token in row.answer:
            nll.append(-float(torch.log_softmax(logits[0], 0)[token]))
            likeliest.append(int(logits.argmax()))
            output = model.backbone(torch.tensor([[token]]), state, update=encoded.update, logits="last")
            logits, state = output.logits, output.state
    return nll, likeliest


def alone(model: ProSG, row: EncodedRow) -> EncodedPrompt:
    return model.encode(torch.tensor([row.prompt]))


@pytest.mark.parametrize("module", ["plus", "paper", None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_perplexity_is_that_computed_by_hand(module: str | None, dtype: torch.dtype, batch_size: int) -> None:
    model = live_model("rwkv4", module, dtype)
    nll = [by_hand(model, row, alone(model, row))[0] for row in ROWS]
    measured = perplexity(model, ROWS, batch_size)
    assert (measured.rows, measured.tokens) == (4, 9 + 4 + 6 + 1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    corpus = math.exp(sum(map(sum, nll)) / 20)
    sample = sum(math.exp(sum(row) / len(row)) for row in nll) / 4
    late = math.exp((sum(nll[0][5:]) + sum(nll[1][2:])) / (4 + 2))
    assert measured.perplexity == pytest.approx(corpus, rel=tolerance)
    assert measured.sample_perplexity == pytest.approx(sample, rel=tolerance)
    assert measured.late_perplexity == pytest.approx(late, rel=tolerance)
    assert abs(corpus - sample) > 1e-2  # or the two could be mixed up


def written_by(model: ProSG, row: EncodedRow, right_from: int) -> EncodedRow:
    """The row with what the model likes best from an answer token on; before it, anything else."""
    answer: list[int] = []
    for t in range(len(row.answer)):
        likes = by_hand(model, row._replace(answer=[*answer, 0]), alone(model, row))[1][-1]
        answer.append(likes if t >= right_from else (likes + 1) % VOCAB)
    return row._replace(answer=answer)


def test_exact_answers_are_those_likeliest_throughout() -> None:
    model = live_model("rwkv4", "plus")
    rows = [
        written_by(model, ROWS[0], 0),  # right throughout
        written_by(model, ROWS[0], 6),  # right from the late text on, wrong in the marker
        written_by(model, ROWS[0], 7),  # wrong in the late text
        written_by(model, ROWS[1], 2),
        written_by(model, ROWS[2], 4),  # without stages: counts for `exact` alone
    ]
    measured = perplexity(model, rows, batch_size=2)
    assert measured.exact == pytest.approx(1 / 5)
    assert measured.late_exact == pytest.approx(3 / 4)


def test_late_measures_need_stages() -> None:
    measured = perplexity(live_model("rwkv4", "plus"), ROWS[2:])
    assert measured.late_perplexity is None
    assert measured.late_exact is None
    assert measured.to_dict()["perplexity"] == measured.perplexity


def test_rows_may_be_scored_under_anothers_update() -> None:
    model = live_model("rwkv4", "plus")
    order = [2, 3, 1, 0]
    own = [alone(model, row) for row in ROWS]
    other = [mine.replace(update=own[i].update) for mine, i in zip(own, order, strict=True)]
    nll = [by_hand(model, row, encoded)[0] for row, encoded in zip(ROWS, other, strict=True)]

    def encode(indices: list[int]) -> EncodedPrompt:
        return EncodedPrompt.join([other[i] for i in indices])

    measured = summarize(score_rows(model, ROWS, 3, encode))
    assert measured.perplexity == pytest.approx(math.exp(sum(map(sum, nll)) / 20), rel=1e-10)
    assert measured.perplexity != pytest.approx(perplexity(model, ROWS).perplexity, rel=1e-3)


def test_without_updates_the_backbone_is_scored() -> None:
    model = live_model("rwkv4", "plus")
    assert perplexity(model, ROWS, memory="none") == perplexity(ProSG(model.backbone), ROWS)


def test_batches_hold_every_row_once_by_length() -> None:
    batches = list(batches_by_length(ROWS, 3))
    assert batches == [[3, 1, 2], [0]]


def test_no_rows_have_no_perplexity() -> None:
    with pytest.raises(ValueError, match="perplexity of no rows is undefined"):
        perplexity(live_model("rwkv4"), [])
    with pytest.raises(ValueError, match="batch_size is 0"):
        list(batches_by_length([], 0))
