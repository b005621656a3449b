"""Kinds of keyword arguments that the rules of IFEval take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["COUNT", "LANGUAGE", "LETTER", "POSITION", "RELATION", "TEXT", "TEXTS", "RuleArgument"]

LANGUAGES = "ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th uk ur vi"  # ISO 639-1


class RuleArgument(NamedTuple):
    """Allowed values of a keyword argument, in words and as a test."""

    allowed: str
    is_valid: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


COUNT = RuleArgument("a whole number, 0 or more", lambda value: type(value) is int and value >= 0)
POSITION = RuleArgument("a whole number, 1 or more", lambda value: type(value) is int and value >= 1)
TEXT = RuleArgument("a text that is not empty", _is_text)
TEXTS = RuleArgument(
    "a list of texts, at least one, none empty",
    lambda value: isinstance(value, list) and value != [] and all(_is_text(text) for text in value),
)
RELATION = RuleArgument("'less than' or 'at least'", lambda value: value in ("less than", "at least"))
LETTER = RuleArgument("one character", lambda value: _is_text(value) and len(value) == 1)
LANGUAGE = RuleArgument(f"one of {LANGUAGES}", lambda value: value in LANGUAGES.split())
