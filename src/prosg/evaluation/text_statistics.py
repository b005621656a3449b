"""What a text's words say without its meaning: how long it is, how much of it repeats.

rep-4       share of 4-grams that stood in the text before (Welleck et al. 2019, seq-rep-4)
distinct-2  share of bigrams that occur once or are the first of their kind (Li et al. 2016)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["TextStatistics", "text_statistics"]


class TextStatistics(NamedTuple):
    """Means over answers; rep_4 and distinct_2 over those long enough to have such n-grams, None where none is."""

    words: float
    rep_4: float | None
    distinct_2: float | None


def _share_new(words: Sequence[str], n: int) -> float | None:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def text_statistics(texts: Sequence[str]) -> TextStatistics:
    """Of answers. ValueError for none."""
    if not texts:
        raise ValueError("statistics of no texts are undefined")
    split = [re.findall(r"\w+(?:['\u2019-]\w+)*|[\u4e00-\u9fff]", text.lower()) for text in texts]

    def mean(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if there else None

    new_4 = mean([_share_new(words, 4) for words in split])
    return TextStatistics(
        words=sum(map(len, split)) / len(split),
        rep_4=None if new_4 is None else 1 - new_4,
        distinct_2=mean([_share_new(words, 2) for words in split]),
    )
