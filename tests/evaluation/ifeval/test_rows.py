"""Reading rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prosg.evaluation.ifeval import read_ifeval

ROW: dict[str, Any] = {
    "key": 1,
    "prompt": "Name trees.",
    "instruction_id_list": ["keywords:existence", "punctuation:no_comma"],
    "kwargs": [{"keywords": ["oak"], "relation": None}, {}],
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_rows_are_read(tmp_path: Path) -> None:
    rows = read_ifeval(write(tmp_path / "rows.jsonl", ROW, ROW | {"key": "x", "more": 1}))
    assert [row.key for row in rows] == ["1", "x"]
    assert rows[0].instructions == (("keywords:existence", {"keywords": ["oak"]}), ("punctuation:no_comma", {}))


def with_rule(name: str, **kwargs: Any) -> dict[str, Any]:
    return ROW | {"instruction_id_list": [name], "kwargs": [kwargs]}


NTH_PARAGRAPH = {"num_paragraphs": 2, "nth_paragraph": 0, "first_word": "a"}
BAD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no object": ([1], ("object", "list")),
    "no kwargs": ({"key": 1, "prompt": "a", "instruction_id_list": []}, ("'kwargs'",)),
    "key": (ROW | {"key": True}, ("'key'", "number", "text", "bool")),
    "prompt": (ROW | {"prompt": " "}, ("'prompt'", "empty")),
    "ids": (ROW | {"instruction_id_list": "keywords:existence"}, ("'instruction_id_list'", "list", "str")),
    "none": (ROW | {"instruction_id_list": [], "kwargs": []}, ("'instruction_id_list'", "at least one")),
    "lengths": (ROW | {"kwargs": [{}]}, ("2 instructions", "1 kwargs")),
    "unknown id": (with_rule("keywords:rhyme"), ("'keywords:rhyme'", "keywords:existence", "punctuation:no_comma")),
    "id of another type": (ROW | {"instruction_id_list": [["a"], "b"]}, ("['a']", "keywords:existence")),
    "kwargs of another type": (ROW | {"kwargs": [{"keywords": ["a"]}, []]}, ("kwargs", "object", "list")),
    "unknown": (with_rule("punctuation:no_comma", strict=None), ("punctuation:no_comma", "'strict'", "none")),
    "another's": (with_rule("punctuation:no_comma", keyword="a"), ("punctuation:no_comma", "'keyword'")),
    "missing": (with_rule("keywords:frequency", keyword="a", relation="at least"), ("'frequency'", "whole number")),
    "relation": (
        with_rule("length_constraints:number_words", num_words=3, relation="more than"),
        ("'relation'", "'more than'", "'less than' or 'at least'"),
    ),
    "count": (
        with_rule("length_constraints:number_paragraphs", num_paragraphs=2.0),
        ("'num_paragraphs'", "2.0", "whole number"),
    ),
    "position": (
        with_rule("length_constraints:nth_paragraph_first_word", **NTH_PARAGRAPH),
        ("'nth_paragraph'", "is 0", "1 or more"),
    ),
    "words": (with_rule("keywords:forbidden_words", forbidden_words=["a", ""]), ("'forbidden_words'", "list of texts")),
    "letter": (
        with_rule("keywords:letter_frequency", letter="ab", let_frequency=1, let_relation="at least"),
        ("'letter'", "'ab'", "one character"),
    ),
    "language": (with_rule("language:response_language", language="xx"), ("'language'", "'xx'", "ar bg")),
    "repeated key": (ROW, ("key 1", "line 1")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named_by_file_and_line(name: str, tmp_path: Path) -> None:
    row, words = BAD[name]
    first = ROW | {"key": 1 if name == "repeated key" else 0}
    path = write(tmp_path / "rows.jsonl", first, row)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}:2: ')}") as caught:
        read_ifeval(path)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows.jsonl: .*no rows"):
        read_ifeval(write(tmp_path / "rows.jsonl"))
