"""Running text of a file as a source of stories.

A paragraph (lines up to a blank one) belongs to the split that a hash of its words gives, 80 / 10 / 10. Kept are
complete sentences without a sentence end inside, so that the sentences of a story can be counted. WikiText's <unk> is
kept, since most of its sentences contain it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from random import Random

from prosg.data.checks import SENTENCE_ENDS
from prosg.data.synthetic.splits import SPLITS, split_of
from prosg.data.synthetic.story import SentenceSource
from prosg.utils.outside import read_text

__all__ = ["MOST_BYTES", "Filler", "paragraphs"]

WORDS = (4, 60)
"""Least and greatest number of words of a usable sentence."""
MOST_BYTES = 1 << 32
"""Bytes of a file; collections of running text are large."""
CLEANING = (
    (r" @(\S+)@ ", r"\1"),  # WikiText's 1 @,@ 000
    (r"\s+", " "),
    (r'" ([^"]*?) "', r'"\1"'),
    (r" ([,;:.!?%)\]])", r"\1"),
    (r"([(\[]) ", r"\1"),
    (r" ('(?:s|t|d|m|re|ve|ll)\b)", r"\1"),
)


class Filler:
    """Usable sentences of a text, by split.

    Attributes:
        name: Name of the text, for messages and results.
        parts: Sentences of each split, in the order of the text.
    """

    def __init__(self, name: str, text: str) -> None:
        """Cleans a text and splits it into sentences. Raises ValueError if none of them is usable."""
        self.name = name
        self.parts: dict[str, list[str]] = {split: [] for split in SPLITS}
        for body in _bodies(text):
            if usable := [sentence for sentence in _sentences(_cleaned(body)) if _usable(sentence)]:
                self.parts[split_of("filler", body.split())] += usable
        if not any(self.parts.values()):
            raise ValueError(
                f"{name}: has no running text; it needs sentences of {WORDS[0]} to {WORDS[1]} words, each from a "
                "capital letter to a full stop"
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Filler:
        """Reads a file. Raises ValueError if it cannot be read, is not UTF-8, or has no usable sentence."""
        return cls(os.fspath(path), read_text(path, MOST_BYTES))

    def source(self, split: str | None, without: Sequence[str]) -> SentenceSource:
        """Sentences in the text's order, each once, beginning at a drawn one.

        The beginning does not depend on the length, so that a row's longer story begins with its shorter one.

        Args:
            split: Split whose sentences are used; None: all.
            without: Words that exclude a sentence, whatever their case.

        Returns:
            A source of sentences, which raises ValueError when they run out.
        """
        part = self.parts[split] if split else [s for split in SPLITS for s in self.parts[split]]
        excluded = re.compile(rf"\b(?:{'|'.join(map(re.escape, without))})\b" if without else r"(?!)", re.IGNORECASE)

        def sentences(rng: Random) -> Iterator[str]:
            start = rng.randrange(len(part)) if part else 0
            yield from (sentence for sentence in part[start:] + part[:start] if not excluded.search(sentence))
            in_split = f" for {split}" if split else ""
            raise ValueError(
                f"{self.name}: too short: its {len(part)} usable sentences{in_split} do not make a story; allowed: a "
                "longer file, or shorter stories"
            )

        return sentences


def paragraphs(text: str, split: str) -> Iterator[str]:
    """Yields the paragraphs of a split, without headings, each in one line, cleaned of WikiText's spacing."""
    for body in _bodies(text):
        if body and split_of("filler", body.split()) == split:
            yield _cleaned(body)


def _bodies(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in paragraph.splitlines()]
        yield " ".join(line for line in lines if not _is_heading(line))


def _cleaned(text: str) -> str:
    for pattern, replacement in CLEANING:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def _is_heading(line: str) -> bool:
    return line.startswith("#") or (line.startswith("=") and line.endswith("="))


def _sentences(text: str) -> list[str]:
    return re.split(rf'(?<=[{SENTENCE_ENDS}])\s+(?=["A-Z])', text)


def _usable(sentence: str) -> bool:
    ends = re.findall(f"[{SENTENCE_ENDS}]", sentence)
    complete = len(ends) == 1 and sentence[-1] in SENTENCE_ENDS and sentence[0] in '"ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    # An initial or "St." does not end a sentence.
    abbreviation = re.search(r"\b[A-Z][a-z]?\.$", sentence)
    return complete and not abbreviation and WORDS[0] <= len(sentence.split()) <= WORDS[1]
