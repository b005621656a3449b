"""Which items a text mentions, and whether it mentions others of their sort beside them.

A model may word its line as it likes ("Guests: We expect Anna and Ben."), but one that names ten people, two of them
invited, has not said who comes. So a check of such a line asks for the items, and for no other number, name or word of
a list beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

__all__ = ["SORTS", "UNSPACED", "WORD_CHARACTER", "mentions", "mentions_only"]

UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Characters of scripts without spaces between words: each counts as a word, and a word may begin beside any."""
WORD_CHARACTER = rf"[^\W{UNSPACED}]"

LABEL = re.compile(r"\W*[^\W\d_]+(?: [^\W\d_]+)?:")
"""What opens an answer's line: "Guests:", "First guests:"."""
PIECE_END = re.compile(r"[^\w\s'\u2019]|\n|\band\b|\d+")
"""Between the pieces of a line, of which each may be an item of a list."""
WORD = re.compile(r"[^\W\d_]+")


def mentions(text: str, item: str) -> bool:
    """Whether an item stands in a text as a word, or words, of its own.

    "key" is not in "keys", but Chinese words stand between others without a gap.
    """
    before = rf"(?<!{WORD_CHARACTER})" if re.match(WORD_CHARACTER, item) else ""
    after = rf"(?!{WORD_CHARACTER})" if re.search(rf"{WORD_CHARACTER}$", item) else ""
    return re.search(before + re.escape(item) + after, text) is not None


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def _names(text: str) -> list[str]:
    """Words with a capital, but for "I" and those that begin a sentence: after such a word one with a small letter."""
    names = []
    for piece in PIECE_END.split(text):
        words = WORD.findall(re.sub(r"['\u2019]\w*", "", piece))
        opens_sentence = len(words) > 1 and words[1][0].islower()
        names += [word for word in words[opens_sentence:] if word[0].isupper() and word != "I"]
    return names


SORTS: Mapping[str, Callable[[str], list[str]]] = {"number": _numbers, "name": _names}
"""What can be looked for in a text without knowing it: all of its numbers, all of its names."""


def mentions_only(text: str, items: Sequence[str], sorts: Collection[str], others: Sequence[str] = ()) -> bool:
    """Whether a text's line holds every item, nothing else of the sorts, and none of the others.

    The line is the first one behind its label, or, where the items stand on several lines, all of them up to a blank
    one: what a model goes on to write is no part of what it was asked for.
    """
    label = LABEL.match(text)
    body = (text[label.end() :] if label else text).strip()
    lines = (body.partition("\n")[0], re.split(r"\n\s*\n", body, maxsplit=1)[0])
    line = next((line for line in lines if all(mentions(line, item) for item in items)), None)
    if line is None:
        return False
    known = {part for item in items for part in (item, *WORD.findall(item), *_numbers(item))}
    return {found for sort in sorts for found in SORTS[sort](line)} <= known and not any(
        mentions(line, other) for other in others if other not in known
    )
