"""`prosg perplexity`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from prosg.model.perplexity import RowScore
from support.commands import case

BAD = [
    case("perplexity start bad.jsonl", "bad.jsonl:2"),
    case("perplexity start blank.jsonl", "blank.jsonl:2"),
    case("perplexity start chat.jsonl", "chat.jsonl", "--template"),
    case("perplexity start chat.jsonl --template alpaca", "'alpaca'", "world"),
    case("perplexity start train.jsonl --batch-size 0", "--batch-size is 0"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


def test_with_and_without_the_update(output: Callable[..., str]) -> None:
    bare = json.loads(output("perplexity", "start", "validation.jsonl"))
    assert json.loads(output("perplexity", "plus", "validation.jsonl", "--no-update")) == pytest.approx(bare)
    assert json.loads(output("perplexity", "plus", "validation.jsonl"))["perplexity"] != bare["perplexity"]


def test_rows_are_scored_under_the_template(tmp_path: Path, output: Callable[..., str]) -> None:
    framed = "Question: Say.\n\nAnswer:"
    turns = [{"role": "user", "content": "Say."}, {"role": "assistant", "content": "Tree."}]
    rows = {
        "chat": {"messages": turns},
        "pair": {"prompt": "Say.", "answer": "Tree."},
        "text": {"text": f"{framed} Tree."},
        "by hand": {"prompt": framed, "answer": " Tree."},
    }
    scores = {}
    for name, row in rows.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps(row) + "\n")
        options = ("--template", "pile") if name in ("chat", "pair") else ()
        scores[name] = json.loads(output("perplexity", "start", file, *options))
    assert all(score == scores["by hand"] for score in scores.values())


def test_what_is_not_finite_is_null_and_said(output: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [RowScore(math.nan, 3, False, None, None, None)]
    monkeypatch.setattr("prosg.model.perplexity.score_rows", lambda *_, **__: scores)
    found = json.loads(output("perplexity", "start", "validation.jsonl"), parse_constant=pytest.fail)
    assert found["perplexity"] is None and found["tokens"] == 3
