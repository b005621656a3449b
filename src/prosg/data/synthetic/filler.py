"""Running text of a file in a story's place: cut into sentences, cleaned, and divided over the splits.

A paragraph (lines up to a blank one) belongs to the split that the hash of its words says, 80 / 10 / 10, so the parts
of a file never overlap. Of each paragraph those sentences are kept that end as they should and have no mark of a
sentence's end inside (a story's sentences can then be counted). WikiText's <unk> stays: most of its sentences have one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from prosg.data.checks import ENDS
from prosg.data.synthetic.splits import SPLITS, split_of
from prosg.data.synthetic.story import Sentences

__all__ = ["Filler"]

WORDS = (4, 60)
"""least and greatest number of words of a sentence that is kept"""
CLEANING = (
    (r" @(\S+)@ ", r"\1"),  # WikiText's 1 @,@ 000
    (r"\s+", " "),
    (r'" ([^"]*?) "', r'"\1"'),
    (r" ([,;:.!?%)\]])", r"\1"),
    (r"([(\[]) ", r"\1"),
    (r" ('(?:s|t|d|m|re|ve|ll)\b)", r"\1"),
)


class Filler:
    """The sentences of a text, by split."""

    def __init__(self, name: str, text: str) -> None:
        """`name` is for messages. Raises ValueError for a text without a sentence that can be used."""
        self.name = name
        self.parts: dict[str, list[str]] = {split: [] for split in SPLITS}
        for paragraph in re.split(r"\n\s*\n", text):
            lines = [line.strip() for line in paragraph.splitlines()]
            body = " ".join(line for line in lines if not _is_heading(line))
            if kept := [sentence for sentence in _sentences(body) if _usable(sentence)]:
                self.parts[split_of("filler", body.split())] += kept
        if not any(self.parts.values()):
            raise ValueError(
                f"{name}: has no running text; needed are sentences of {WORDS[0]} to {WORDS[1]} words, each from a "
                "capital letter to a full stop"
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Filler:
        """A file's. Raises ValueError for one that cannot be read, is not UTF-8, or holds no running text."""
        try:
            return cls(os.fspath(path), Path(path).read_text("utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error.reason})") from None

    def source(self, split: str | None, without: Sequence[str]) -> Sentences:
        """Sentences of a split's part (None: of all) from a drawn one on, in the text's order, each once.

        Those with one of the words `without` are left out. The stories of a row at several lengths begin alike.
        """
        part = self.parts[split] if split else [s for split in SPLITS for s in self.parts[split]]
        barred = re.compile(rf"\b(?:{'|'.join(map(re.escape, without))})\b" if without else r"(?!)", re.IGNORECASE)

        def sentences(rng: Random) -> Iterator[str]:
            start = rng.randrange(len(part)) if part else 0
            yield from (sentence for sentence in part[start:] + part[:start] if not barred.search(sentence))
            whose = f" for {split}" if split else ""
            raise ValueError(
                f"{self.name}: too short: its {len(part)} usable sentences{whose} do not make a story; allowed: a "
                "longer file, or shorter stories"
            )

        return sentences


def _is_heading(line: str) -> bool:
    return line.startswith("#") or (line.startswith("=") and line.endswith("="))


def _sentences(text: str) -> list[str]:
    for pattern, by in CLEANING:
        text = re.sub(pattern, by, text)
    return re.split(rf'(?<=[{ENDS}])\s+(?=["A-Z])', text.strip())


def _usable(sentence: str) -> bool:
    ends = re.findall(f"[{ENDS}]", sentence)
    whole = len(ends) == 1 and sentence[-1] in ENDS and sentence[0] in '"ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    # An initial or "St." ends a line, not a sentence.
    broken = re.search(r"\b[A-Z][a-z]?\.$", sentence)
    return whole and not broken and WORDS[0] <= len(sentence.split()) <= WORDS[1]
