"""Surface statistics of texts: length and repetition.

rep-4       share of 4-grams that occurred earlier in the text (Welleck et al. 2019, seq-rep-4)
distinct-2  number of different bigrams divided by the number of all (Li et al. 2016)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["TextStatistics", "compute_text_statistics"]


class TextStatistics(NamedTuple):
    """Means over texts.

    Attributes:
        words: Words per text; a Chinese character counts as one.
        rep_4, distinct_2: Over the texts that are long enough to have such n-grams; None where none is.
    """

    words: float
    rep_4: float | None
    distinct_2: float | None


def compute_text_statistics(texts: Sequence[str]) -> TextStatistics:
    """Computes the statistics of some texts, ignoring case.

    Raises:
        ValueError: For no texts.
    """
    if not texts:
        raise ValueError("statistics of no texts are undefined")
    words_of_texts = [re.findall(r"\w+(?:['\u2019-]\w+)*|[\u4e00-\u9fff]", text.lower()) for text in texts]
    distinct_4 = _mean_distinct(words_of_texts, 4)
    return TextStatistics(
        words=sum(map(len, words_of_texts)) / len(words_of_texts),
        rep_4=None if distinct_4 is None else 1 - distinct_4,
        distinct_2=_mean_distinct(words_of_texts, 2),
    )


def _mean_distinct(words_of_texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Mean over texts of the share of n-grams that are different from one another."""
    shares = []
    for words in words_of_texts:
        if grams := [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else None
