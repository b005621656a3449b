"""Text and JSON from outside (replies, rows, configuration files, requests): bounded, and never half a letter.

What Python's own parser lets through breaks whoever comes after it: half a surrogate pair cannot be written to a file,
ten thousand brackets end every recursive function, an integer of ten thousand digits cannot be printed, and NaN is no
JSON.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, NoReturn

from prosg.utils.errors import unreadable
from prosg.utils.values import shortened

__all__ = [
    "DEEPEST",
    "MOST_BYTES",
    "MOST_DIGITS",
    "check_text",
    "decode_text",
    "parse_json",
    "plain_reason",
    "read_text",
    "terminal_text",
    "whole_text",
]

DEEPEST = 64
"""Levels of brackets that a value may have."""
MOST_DIGITS = 300
"""Digits that an integer may have; as many as the greatest floating-point number has."""
MOST_BYTES = 1 << 28
"""Bytes of a file, or of a line of a file of rows, that are read."""
LONGEST_REASON = 200
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that steer terminals, those that turn the direction of writing among them."""
SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(path: str | os.PathLike[str], most: int = MOST_BYTES) -> str:
    """Reads a file as UTF-8 text. Raises ValueError, naming it, if it cannot be read or has more than `most` bytes."""
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ValueError(unreadable(path, error)) from None
    if len(content) > most:
        raise ValueError(f"{os.fspath(path)}: has more than {most} bytes, the most that are read of such a file")
    return decode_text(content, os.fspath(path))


def parse_json(text: str | bytes, where: str, *, finite: bool = True, unique: bool = False) -> Any:
    """Parses JSON from outside.

    Args:
        text: One value; bytes are UTF-8, with or without a byte order mark.
        where: What the error names, like "rows.jsonl:7".
        finite: Whether NaN and Infinity, which are no JSON, are refused. Python writes them, so that a file of this
            package's own results may hold them.
        unique: Refuse a key that stands twice in an object, of which Python takes the last without a word.

    Returns:
        The value. Halves of surrogate pairs in its strings are replaced by U+FFFD.

    Raises:
        ValueError: "WHERE: ..." for what is not UTF-8 or not JSON (NaN and Infinity are not), for brackets deeper than
            `DEEPEST`, and for integers of more than `MOST_DIGITS` digits.
    """
    text = decode_text(text, where)
    try:
        value = json.loads(
            text.removeprefix("\ufeff"),
            parse_int=_parse_int,
            parse_constant=_refuse_constant if finite else float,
            object_pairs_hook=_unique if unique else None,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{where}: brackets deeper than {DEEPEST} levels") from None
    except _RefusedError as error:
        raise ValueError(f"{where}: {error}") from None
    if text.count("[") + text.count("{") > DEEPEST and _deeper_than(value, DEEPEST):
        raise ValueError(f"{where}: brackets deeper than {DEEPEST} levels")
    return _whole(value) if "\\u" in text or SURROGATE.search(text) else value


def decode_text(text: str | bytes, where: str) -> str:
    """Returns text, decoded from UTF-8 where it is bytes. Raises ValueError "WHERE: ..." for other bytes."""
    if isinstance(text, str):
        return text
    try:
        return bytes(text).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 text ({error.reason})") from None


def check_text(option: str, text: str) -> None:
    """Raises ValueError for bytes that are no characters: Python passes a command line's on as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{option} is {text!r}: not UTF-8 text") from None


def whole_text(text: str) -> str:
    """Returns text that can be written as UTF-8: pairs of surrogates joined, a half alone replaced by U+FFFD."""
    if not SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def terminal_text(text: str) -> str:
    """Returns text as it is printed: control characters, which could steer a terminal, as their escapes."""
    return CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def plain_reason(error: BaseException) -> str:
    """Returns why a library failed: the first line of its error, without advice that does not hold here.

    A line that ends in a colon only says what the next is about, which is then added.
    """
    lines = [*filter(None, map(str.strip, str(error).splitlines())), ""]
    text = (f"{lines[0]} {lines[1]}" if lines[0].endswith(":") else lines[0]).strip() or type(error).__name__
    # torch goes on to advise weights_only=False, which would run what the file says.
    text = re.split(r"\s*(?:\([0-9]\) )?In PyTorch 2\.6|[^.]*weights_only", text)[0].strip() or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


class _RefusedError(Exception):
    """A number or an object that is refused."""


def _parse_int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _RefusedError(f"an integer of {len(digits)} digits; at most {MOST_DIGITS} are read")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"not JSON ({name} is no number)")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _RefusedError(f"the key {shortened(repr(twice))} stands twice in one object")
    return value


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _deeper_than(value: Any, levels: int) -> bool:
    here = [value]
    for _ in range(levels):
        here = [child for parent in here for child in _children(parent)]
    return any(isinstance(child, dict | list) for child in here)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [_whole(child) for child in value]
    if isinstance(value, dict):
        return {whole_text(key): _whole(child) for key, child in value.items()}
    return value
