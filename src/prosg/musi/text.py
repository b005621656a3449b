"""Words, languages and refusals: what is asked of a text before anything else.

A *word* is a run of letters and digits in lower case, or one Chinese or Japanese character, which are written without
spaces. On ASCII text these are the tokens of the `rouge-score` package without stemming.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["LANGUAGES", "language", "ngrams", "plain", "refuses", "words"]

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
FEW = 6
"""so short a text may do without"""


def words(text: str) -> list[str]:
    """The text's words; see the top of this module."""
    return WORD.findall(text.lower())


def plain(text: str) -> str:
    """What is left where case, punctuation and spacing do not count."""
    return " ".join(words(text))


def ngrams(tokens: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """All runs of `size` tokens."""
    return {tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)}


def language(text: str) -> str:
    """ "en", "zh" or "other", by script and, for Latin letters, by some of the commonest English words."""
    letters = len(LETTER.findall(text))
    if not letters:
        return "other"
    chinese = len(CHINESE.findall(text))
    # Chinese text may hold English names and terms, each of many letters.
    if chinese >= 0.3 * letters and len(KANA.findall(text)) < 0.1 * chinese:
        return "zh"
    found = words(text)
    if len(LATIN.findall(text)) >= 0.9 * letters and (len(found) < FEW or ENGLISH.intersection(found)):
        return "en"
    return "other"


REFUSAL = re.compile(
    r"""^\W*(?:
        (?:i['’]?m|i\ am|we['’]?re)\ (?:very\ |really\ |truly\ )?(?:sorry|afraid|unable)\b
      | (?:i\ )?apologi[sz]e\b | (?:my|our)\ apologies\b | sorry,?\ (?:but\ )?(?:i|as)\b
      | (?:unfortunately,?\ )?(?:i|we)\ (?:can['’]?t|can\ ?not|cannot|won['’]?t|will\ not|am\ not\ able|must\ decline)\b
      | as\ an?\ (?:ai|artificial|large\ language|language\ model)\b
      | (?:对不起|很?抱歉|非常抱歉|我无法|我不能|作为一[个名](?:AI|人工智能|语言模型))
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def refuses(text: str) -> bool:
    """Whether a reply opens as refusals do ("I'm sorry, but I can't ...", "抱歉，...")."""
    return REFUSAL.match(text) is not None
