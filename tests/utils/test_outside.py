"""Text and JSON from outside: accepted only if it can be written, printed and walked; else one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prosg.utils.outside import DEEPEST, MOST_DIGITS, parse_json, whole_text


@pytest.mark.parametrize(
    "value",
    [{"a": [1, -2.5, None, True, "ä😀"]}, "", 0, [], 10**MOST_DIGITS // 10, "[[[[" * 40, {"k": {"k": [{}]}}],
)  # fmt: skip
def test_values_come_back_as_they_were(value: Any) -> None:
    assert parse_json(json.dumps(value), "x") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "x") == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode(), "x") == value


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
