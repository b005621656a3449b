"""Text and JSON from outside: accepted only if it can be written, printed and walked; else one line."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prosg.utils.outside import DEEPEST, MOST_DIGITS, parse_json, plain_reason, read_text, whole_text
from support.generated import damaged, draws, refusal, value
from support.generated import text as letters


@pytest.mark.parametrize(
    "value",
    [{"a": [1, -2.5, None, True, "ä😀"]}, "", 0, [], 10**MOST_DIGITS // 10, "[[[[" * 40, {"k": {"k": [{}]}}],
)  # fmt: skip
def test_values_come_back_as_they_were(value: Any) -> None:
    assert parse_json(json.dumps(value), "x") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "x") == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode(), "x") == value


def test_a_key_that_stands_twice_is_refused_where_it_counts() -> None:
    text = '{"prompt": "one", "parts": [{"a": 1, "b": 2, "a": 3}]}'
    with pytest.raises(ValueError, match=r"rows.jsonl:7: the key 'a' stands twice in one object"):
        parse_json(text, "rows.jsonl:7", unique=True)
    assert parse_json(text, "x") == {"prompt": "one", "parts": [{"a": 3, "b": 2}]}
    assert parse_json('{"a": [{"a": 1}, {"a": 1}]}', "x", unique=True) == {"a": [{"a": 1}, {"a": 1}]}


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (nested(DEEPEST + 1), "brackets deeper"),
        (nested(5000), "brackets deeper"),
        ("[" * 100_000, "brackets deeper"),
        ('{"a":' * 80 + "1" + "}" * 80, "brackets deeper"),
        ("1" * 5000, "an integer of 5000 digits"),
        ("[-" + "9" * 400 + "]", "an integer of 401 digits"),
        ("NaN", "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ("", "not JSON"),
        ("<html>", "not JSON"),
        ("{'a': 1}", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'"\xed\xa0\xbd"', "not UTF-8"),
    ],
)
def test_what_would_break_later_is_refused_in_one_line(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        parse_json(text, "rows.jsonl:7")
    assert str(error.value).startswith("rows.jsonl:7: ")
    assert "\n" not in str(error.value)


def test_the_deepest_value_is_read() -> None:
    value = parse_json(nested(DEEPEST), "x")
    assert json.dumps(value) == nested(DEEPEST)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (r'"\ud83d"', "\ufffd"),
        (r'"a\udc00b"', "a\ufffdb"),
        (r'"\ud83d\ude00"', "😀"),
        (r'{"\ud83d": ["\ud83dx"]}', {"\ufffd": ["\ufffdx"]}),
        ('"\ud83d"', "\ufffd"),
    ],
)
def test_half_a_letter_is_replaced(text: str, whole: Any) -> None:
    value = parse_json(text, "x")
    assert value == whole
    json.dumps(value, ensure_ascii=False).encode()


def test_text_that_is_whole_stays() -> None:
    for text in ("", "a\x00b\r\n", "ä😀\u2028"):
        assert whole_text(text) == text


def test_generated_json_is_read_or_refused_in_one_line() -> None:
    for draw in draws(4):
        good = json.dumps(value(draw)) if draw.random() < 0.9 else letters(draw)
        for written in (good, damaged(draw, good)):
            if not refusal(partial(parse_json, written, "x"), "x: "):
                json.dumps(parse_json(written, "x"), allow_nan=False, ensure_ascii=False).encode()


def test_files_of_own_results_may_hold_what_is_no_number() -> None:
    assert parse_json("[Infinity, -Infinity]", "x", finite=False) == [math.inf, -math.inf]


def test_a_file_has_a_greatest_size(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("abcd")
    assert read_text(tmp_path / "x", 4) == "abcd"
    with pytest.raises(ValueError, match="x: has more than 3 bytes"):
        read_text(tmp_path / "x", 3)
    with pytest.raises(ValueError, match="cannot be read"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("\n first\nsecond", "first"),
        ("a check says:\n  second\nthird", "a check says: second"),
        ("Load failed. Re-running with `weights_only=False` will likely succeed", "Load failed."),
        ("", "RuntimeError"),
        ("x" * 1000, "x" * 200 + "..."),
    ],
)  # fmt: skip
def test_a_librarys_reason_is_one_line_without_its_advice(said: str, reason: str) -> None:
    assert plain_reason(RuntimeError(said)) == reason
