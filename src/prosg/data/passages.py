"""Rows of running text: a passage, and what follows it in the same paragraph.

They have no answer in a reference's sense, so they are `open`: the continuation goes on, and its last word is no end. A
paragraph belongs to the split that a hash of its words gives, as with a story's `Filler`, so that no two splits share
one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from random import Random

from prosg.data.row import Row
from prosg.data.synthetic.filler import MOST_BYTES, paragraphs
from prosg.data.synthetic.splits import SPLITS
from prosg.utils.outside import read_text

__all__ = ["PASSAGE", "iter_passages"]

PASSAGE = "passage"
"""Their kind."""
Words = tuple[int, int]


def iter_passages(
    path: str | os.PathLike[str],
    split: str,
    *,
    prompt_words: Words = (30, 60),
    answer_words: Words = (30, 60),
    seed: int = 0,
    size: int = 0,
) -> Iterator[Row]:
    """Cuts a text into passages with their continuations, in the text's order.

    A paragraph gives as many rows as it holds, one after the other; what is left at its end is not used.

    Args:
        path: A file of running text, its paragraphs divided by blank lines; headings are left out.
        split: train, validation or test.
        prompt_words: Least and greatest number of words of a passage, drawn per row.
        answer_words: The same of a continuation; its end may be that of its paragraph.
        seed: Of the draws.
        size: Rows; 0: as many as there are.

    Raises:
        ValueError: for an unknown split, sizes out of range, a file that cannot be read, and one with fewer rows.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    for name, (least, most) in (("prompt_words", prompt_words), ("answer_words", answer_words)):
        if not 1 <= least <= most:
            raise ValueError(f"{name} is {least} to {most}; allowed: from 1 upwards, the least first")
    rows = _rows(read_text(path, MOST_BYTES), split, prompt_words, answer_words, seed)
    count = 0
    for row in islice(rows, size or None):
        count += 1
        yield row
    if not count or count < size:
        shortest = prompt_words[0] + answer_words[0]
        raise ValueError(
            f"{os.fspath(path)}: {count} passages for {split}, {size or 1} wanted: its paragraphs, of {shortest} words "
            "or more, are too few; allowed: a longer text, or shorter passages"
        )


def _rows(text: str, split: str, prompt_words: Words, answer_words: Words, seed: int) -> Iterator[Row]:
    rng = Random(f"{seed}/{split}")
    seen = set[str]()
    for paragraph in paragraphs(text, split):
        words, start = paragraph.split(), 0
        while len(words) - start >= prompt_words[0] + answer_words[0]:
            middle = start + rng.randint(prompt_words[0], min(prompt_words[1], len(words) - start - answer_words[0]))
            end = min(middle + rng.randint(*answer_words), len(words))
            prompt, answer = " ".join(words[start:middle]), " " + " ".join(words[middle:end])
            row_id = hashlib.sha256(f"{prompt}\0{answer}".encode()).hexdigest()[:16]
            if row_id not in seen:  # texts quote themselves
                seen.add(row_id)
                yield Row(row_id, prompt, answer, PASSAGE, open=True)
            start = end
