"""Stories: one line of simple sentences of 7 to 9 words, from a small closed vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import NamedTuple

from prosg.data.synthetic import words as w

__all__ = [
    "PATTERNS",
    "SentenceSource",
    "Story",
    "made_sentences",
    "sentence",
    "sentences_of_words",
    "story_of_sentences",
    "story_of_words",
]


class Story(NamedTuple):
    """A story with its numbers of sentences and words."""

    text: str
    sentences: int
    words: int


Pick = Callable[[list[str]], str]
SentenceSource = Callable[[Random], Iterator[str]]
"""Source of a story: an endless iterator of sentences, whose beginning is drawn by the random generator."""


def _a(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


# Each pattern is a function of one choosing function, so that no slot's distribution depends on another.
PATTERNS: tuple[Callable[[Pick], str], ...] = (
    lambda p: f"the {p(w.ADJECTIVES)} {p(w.SUBJECTS)} {p(w.MOVES)} {p(w.PREPOSITIONS)} the {p(w.NATURE)}",
    lambda p: f"{p(w.TIMES)} the {p(w.SUBJECTS)} {p(w.MOVES)} {p(w.ADVERBS)} {p(w.PREPOSITIONS)} the {p(w.NATURE)}",
    lambda p: (
        f"the {p(w.SUBJECTS)} {p(w.SEES)} {_a(p(w.ADJECTIVES))} {p(w.SUBJECTS)} {p(w.PREPOSITIONS)} the {p(w.NATURE)}"
    ),
    lambda p: f"the {p(w.SKY)} was {p(w.WEATHER)} and the {p(w.SUBJECTS)} {p(w.MOVES)} {p(w.ADVERBS)}",
    lambda p: f"every {p(w.SUBJECTS)} {p(w.MOVES)} when the {p(w.SKY)} was {p(w.WEATHER)}",
    lambda p: f"{_a(p(w.ADJECTIVES))} {p(w.SUBJECTS)} and {_a(p(w.SUBJECTS))} {p(w.MOVES)} {p(w.ADVERBS)}",
    lambda p: f"no {p(w.SUBJECTS)} {p(w.SEES)} the {p(w.THINGS)} {p(w.PREPOSITIONS)} the {p(w.NATURE)}",
    lambda p: f"{p(w.TIMES)} it was {p(w.WEATHER)} {p(w.PREPOSITIONS)} the {p(w.NATURE)}",
)


def sentence(rng: Random) -> str:
    """Draws one sentence, capitalised and with a full stop."""
    # int(random() * n) is three times faster than choice(), which matters for a hundred thousand long stories.
    random = rng.random
    text = PATTERNS[int(random() * len(PATTERNS))](lambda words: words[int(random() * len(words))])
    return f"{text[0].upper()}{text[1:]}."


def made_sentences(rng: Random) -> Iterator[str]:
    """Draws sentences without end."""
    while True:
        yield sentence(rng)


def story_of_sentences(rng: Random, count: int, source: SentenceSource = made_sentences) -> Story:
    """A story of exactly `count` sentences, at least one."""
    text = " ".join(islice(source(rng), count))
    return Story(text, count, text.count(" ") + 1)


def story_of_words(rng: Random, low: int, high: int, source: SentenceSource = made_sentences) -> Story:
    """A story of [low, high] words. Raises ValueError if no number of whole sentences has so many."""
    parts = sentences_of_words(rng, low, high, source)
    text = " ".join(parts)
    return Story(text, len(parts), text.count(" ") + 1)


def sentences_of_words(rng: Random, low: int, high: int, source: SentenceSource = made_sentences) -> list[str]:
    """One or more sentences of [low, high] words in all. Raises ValueError if no whole sentences have so many."""
    for _ in range(200):
        target = rng.randint(low, high)
        parts: list[str] = []
        total = 0
        stream = source(rng)
        while total < target:
            part = next(stream)
            parts.append(part)
            total += part.count(" ") + 1
        if total > high and total - part.count(" ") - 1 >= low:
            total -= parts.pop().count(" ") + 1
        if low <= total <= high and parts:
            return parts
    raise ValueError(
        f"no story of whole sentences has {low} to {high} words; allow a wider range (a made sentence has 7 to 9)"
    )
