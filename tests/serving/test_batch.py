"""Files of requests: answers as `generate` gives them, wrong lines, going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prosg.serving import Engine
from prosg.serving.batch import BatchResult, answer_file
from prosg.utils.store import Log
from support.serving import serving_model

LINES: list[Any] = [
    {"prompt": "Tom saw a b", "id": "first", "seed": 3, "max_tokens": 6},
    {"prompt": "c d then", "memory": "both", "tau": 5, "temperature": 0, "stop": "red."},
    {"prompt": "c d then", "max_token": 3},
    {"prompt": ""},
    {"messages": [{"role": "user", "content": "Names: a"}], "template": "world", "top_k": 2},
    {"prompt": "Code: ab", "memory": "all"},
    {"prompt": "Code: ab", "temperature": "hot"},
    [1],
]


def written(path: Path) -> dict[int, dict[str, Any]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({record["line"] for record in records}) == len(records)
    return {record["line"]: record for record in records}


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join([*map(json.dumps, LINES), "{not json", ""]))
    return path


def test_each_line_is_answered_as_generate_does_and_wrong_lines_say_why(requests: Path, tmp_path: Path) -> None:
    model, out = serving_model(), tmp_path / "answers.jsonl"
    result = answer_file(Engine(model, max_rows=2), requests, out, max_tokens=9, seed=1)
    assert result == BatchResult(answered=3, failed=6, skipped=0)
    records = written(out)
    options: dict[str, Any] = {"max_tokens": 9, "seed": 1}
    assert records[1]["id"] == "first" and records[1]["reason"] in ("stop", "length")
    assert records[1]["answer"] == model.generate("Tom saw a b", seed=3, max_tokens=6)
    told = model.generate("c d then", memory="both", tau=5.0, temperature=0.0, stop=["red."], **options)
    assert records[2]["answer"] == told
    told = model.generate([{"role": "user", "content": "Names: a"}], template="world", top_k=2, **options)
    assert records[5]["answer"] == told.removeprefix(" ")
    errors = {number: record["error"] for number, record in records.items() if "error" in record}
    assert "'max_token' is unknown" in errors[3] and "max_tokens" in errors[3]
    assert "'prompt' is empty" in errors[4] and "memory is 'all'" in errors[6]
    assert "temperature is 'hot'" in errors[7] and "object" in errors[8] and "not JSON" in errors[9]


def test_an_option_that_a_line_cannot_have_is_no_field_of_a_data_set(tmp_path: Path) -> None:
    lines = [{"hold_until": 3, "force_marker": "Code:"}, {"end_token": 3}, {"window": 4}, {"n": 2}, {"source": "x"}]
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps({"prompt": "Tom saw", **line}) for line in lines))
    result = answer_file(
        Engine(serving_model(), max_rows=2), tmp_path / "r.jsonl", tmp_path / "out.jsonl", max_tokens=2
    )
    assert result == BatchResult(answered=1, failed=4, skipped=0)
    errors = [record["error"] for _, record in sorted(written(tmp_path / "out.jsonl").items()) if "error" in record]
    for name, error in zip(("hold_until", "end_token", "window", "n"), errors, strict=True):
        assert f"{name} is no option of a line; allowed: " in error and "max_tokens" in error


def test_it_goes_on_where_it_was_stopped(requests: Path, tmp_path: Path) -> None:
    model, out, whole = serving_model(), tmp_path / "answers.jsonl", tmp_path / "whole.jsonl"
    answer_file(Engine(model), requests, whole, max_tokens=9)
    lines = whole.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:4]) + lines[4][:-7])  # killed while it wrote the fifth
    result = answer_file(Engine(model), requests, out, max_tokens=9)
    before = sum("answer" in json.loads(line) for line in lines[:4])
    assert result == BatchResult(answered=3 - before, failed=6, skipped=before)  # what failed is no answer
    assert written(out) == written(whole)
    assert answer_file(Engine(model), requests, out, max_tokens=9) == BatchResult(0, 6, 3)
    for changed, options in ((model, {"max_tokens": 8}), (serving_model("retnet"), {"max_tokens": 9})):
        with pytest.raises(ValueError, match=r"answers.jsonl: answers line \d of .*name another"):
            answer_file(Engine(changed), requests, out, **options)
    (tmp_path / "other.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(ValueError, match="other.jsonl:1: no answer of prosg batch"):
        answer_file(Engine(model), requests, tmp_path / "other.jsonl")


def test_two_at_once_do_not_write_one_file(requests: Path, tmp_path: Path) -> None:
    log = Log(tmp_path / "answers.jsonl", alone=True)
    with pytest.raises(ValueError, match=r"answers.jsonl: another command is at work"):
        answer_file(Engine(serving_model()), requests, log.path)
    log.close()


def test_options_of_all_lines_are_checked_before_anything_is_written(requests: Path, tmp_path: Path) -> None:
    engine, out = Engine(serving_model()), tmp_path / "answers.jsonl"
    for words, options in (("top_p is 0", {"top_p": 0.0}), ("hold_until is unknown", {"hold_until": 2})):
        with pytest.raises(ValueError, match=words):
            answer_file(engine, requests, out, **options)
    with pytest.raises(ValueError, match="nowhere.jsonl: cannot be read"):
        answer_file(engine, tmp_path / "nowhere.jsonl", out)
    assert not out.exists() or not out.read_bytes()
