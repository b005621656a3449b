"""What the packaged model was trained on, and whether a prompt is of that kind.

It knows a few hundred words. A prompt of the kinds has no other ones, in 6,000 of all splits; of 50 others, as people
write to chat models, each has more than a fifth of its words from elsewhere (`tests/demo/test_topics.py`).
"""

from __future__ import annotations

import functools
import re

from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.data.synthetic.words import COUNTS, NAMES, OBJECTS, PLACES

__all__ = ["TOPICS", "is_off_topic"]

TOPICS = (
    "the packaged model knows three kinds of prompt, each with a story in it: a code of 6 to 8 digits to repeat, four "
    "names to list, a place and two objects to end in; its answer to any other means nothing. Try: Remember the code "
    "4821937. Tell a story, then say the code."
)
"""What to say of a prompt that is of no kind."""
MOST_UNKNOWN = 0.2
"""Share of words that a prompt of the kinds may have from elsewhere: a name or an object of one's own."""
WORDS = re.compile(r"[^\W\d_]+")
SAMPLE = 600
"""Prompts from which the words of the kinds are taken; more have no others."""


@functools.cache
def _known_words() -> frozenset[str]:
    rows = make_rows((*DEMO_KINDS, "story"), SAMPLE, 0, "train", sentences=(0, 8))
    words = {word.lower() for row in rows for word in WORDS.findall(row.prompt)}
    return frozenset(words.union(word.lower() for word in (*NAMES, *OBJECTS, *PLACES, *COUNTS)))


def is_off_topic(prompt: str) -> bool:
    """Whether a prompt is of none of the kinds that the packaged model was trained on, by its words."""
    words = [word.lower() for word in WORDS.findall(prompt)]
    unknown = sum(word not in _known_words() for word in words)
    return unknown > MOST_UNKNOWN * len(words) or not words
