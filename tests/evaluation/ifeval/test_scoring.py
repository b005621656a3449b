"""The published measures."""

from __future__ import annotations

import json

import pytest

from prosg.evaluation.ifeval import IFEvalRow, score_ifeval
from prosg.evaluation.ifeval.scoring import loose_variants
from support.ifeval import instruction


def test_loose_variants_are_the_published_eight() -> None:
    assert loose_variants("a*\nb\nc") == ["a*\nb\nc", "b\nc", "a*\nb", "b", "a\nb\nc", "b\nc", "a\nb", "b"]
    assert loose_variants("a") == ["a", "", "", "", "a", "", "", ""]


def two_rows() -> list[IFEvalRow]:
    comma = instruction("punctuation:no_comma", {})
    words = instruction("length_constraints:number_words", {"num_words": 2, "relation": "at least"})
    return [IFEvalRow("a", "One", (comma, words)), IFEvalRow("b", "Two", (comma,))]


def test_scores_are_the_published_measures() -> None:
    result = score_ifeval(two_rows(), ["Sure, gladly:\nA dog", "Yes, no"])
    assert result.verdicts[0] == ((False, True), (True, True))
    assert result.verdicts[1] == ((False,), (False,))
    measured = {(row["level"], row["kind"]): (row["n"], row["strict"], row["loose"]) for row in result.to_rows()}
    assert measured == {
        ("prompt", "all"): (2, 0, 1 / 2),
        ("instruction", "all"): (3, 1 / 3, 2 / 3),
        ("instruction", "punctuation:no_comma"): (2, 0, 1 / 2),
        ("instruction", "length_constraints:number_words"): (1, 1, 1),
    }
    for row in result.to_rows():
        assert row["strict_interval"][0] <= row["strict"] <= row["strict_interval"][1]
    names = ["punctuation:no_comma", "length_constraints:number_words"]
    assert result.verdict_rows()[0] == {
        "key": "a",
        "instruction_id_list": names,
        "strict": [False, True],
        "loose": [True, True],
    }
    assert json.loads(json.dumps(result.to_rows())) == result.to_rows()


@pytest.mark.parametrize("answer", ["", " \n"])
def test_an_empty_answer_follows_nothing(answer: str) -> None:
    assert score_ifeval(two_rows()[1:], [answer]).verdicts == (((False,), (False,)),)


def test_scoring_needs_an_answer_for_each_row() -> None:
    with pytest.raises(ValueError, match="1 answers for 2 rows"):
        score_ifeval(two_rows(), ["a"])
    with pytest.raises(ValueError, match="at least one row"):
        score_ifeval([], [])
