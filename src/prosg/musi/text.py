"""Words and languages of texts.

A *word* is a run of letters and digits in lower case, or one Chinese or Japanese character, which are written without
spaces. On ASCII text these are the tokens of the `rouge-score` package without stemming.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["LANGUAGES", "language", "ngrams", "plain", "words"]

LANGUAGES = ("en", "zh")

UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA = re.compile(r"[\u3040-\u30ff]")
LATIN = re.compile(r"[A-Za-z]")
LETTER = re.compile(r"[^\W\d_]")
# A text in English of some length has one of these; other languages in Latin letters seldom do.
ENGLISH = {"the", "a", "an", "of", "to", "and", "in", "is", "are", "it", "this", "that", "you", "your", "with", "for"}
ENGLISH |= {"on", "or", "as", "be", "write", "give", "tell", "list", "then", "first"}
LONG_ENOUGH = 6
"""Words from which on an English text has one of these words."""


def words(text: str) -> list[str]:
    """Returns the words of a text, as this module defines them."""
    return WORD.findall(text.lower())


def plain(text: str) -> str:
    """Returns the words joined by blanks: equal for texts that differ in case, punctuation and spacing only."""
    return " ".join(words(text))


def ngrams(tokens: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """Returns all runs of `size` tokens."""
    return {tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)}


def language(text: str) -> str:
    """Returns "en", "zh" or "other", by the script and, for Latin letters, by some of the commonest English words."""
    letters = len(LETTER.findall(text))
    if not letters:
        return "other"
    chinese = len(CHINESE.findall(text))
    # Chinese text may hold English names and terms, each of many letters.
    if chinese >= 0.3 * letters and len(KANA.findall(text)) < 0.1 * chinese:
        return "zh"
    tokens = words(text)
    if len(LATIN.findall(text)) >= 0.9 * letters and (len(tokens) < LONG_ENOUGH or ENGLISH.intersection(tokens)):
        return "en"
    return "other"
