"""Stories: one line of simple sentences of about 7 to 8 words, from a small closed vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import NamedTuple

from prosg.data.synthetic import words as w

__all__ = [
    "PATTERNS",
    "Sentences",
    "Story",
    "made_here",
    "sentence",
    "sentences_of_words",
    "story_of_sentences",
    "story_of_words",
]


class Story(NamedTuple):
    """A story's text with its number of sentences and of words."""

    text: str
    sentences: int
    words: int


Pick = Callable[[list[str]], str]
Sentences = Callable[[Random], Iterator[str]]
"""Where stories come from: sentences without an end, from a place that the random generator draws."""


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
    """One sentence, capitalised and with its full stop."""
    # int(random() * n) draws three times faster than choice(), which counts at a hundred thousand long stories.
    random = rng.random
    text = PATTERNS[int(random() * len(PATTERNS))](lambda words: words[int(random() * len(words))])
    return f"{text[0].upper()}{text[1:]}."


def made_here(rng: Random) -> Iterator[str]:
    """Sentences of this grammar."""
    while True:
        yield sentence(rng)


def story_of_sentences(rng: Random, count: int, source: Sentences = made_here) -> Story:
    """A story of exactly `count` sentences (at least one)."""
    text = " ".join(islice(source(rng), count))
    return Story(text, count, text.count(" ") + 1)


def story_of_words(rng: Random, low: int, high: int, source: Sentences = made_here) -> Story:
    """A story whose number of words lies in [low, high]. Raises ValueError where whole sentences cannot give that."""
    parts = sentences_of_words(rng, low, high, source)
    text = " ".join(parts)
    return Story(text, len(parts), text.count(" ") + 1)


def sentences_of_words(rng: Random, low: int, high: int, source: Sentences = made_here) -> list[str]:
    """Sentences, at least one, of [low, high] words in all. Raises ValueError where whole ones cannot give that."""
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
        f"no story of whole sentences has {low} to {high} words; allow a wider range (a sentence made here has 7 to 9)"
    )
