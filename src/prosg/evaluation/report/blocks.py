"""What a report is made of: sections of words, tables, figures and cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prosg.utils.tables import Table

__all__ = ["Answer", "Block", "Case", "Figure", "Section", "TableBlock"]


class TableBlock(NamedTuple):
    """A table with its caption."""

    table: Table
    caption: str


class Figure(NamedTuple):
    """A picture with its caption; what it shows stands in a table, too."""

    svg: str
    caption: str


class Answer(NamedTuple):
    """One system's answer, cut into its stages: (text, right or wrong or undecided)."""

    label: str
    stages: Sequence[tuple[str, bool | None]]


class Case(NamedTuple):
    """One prompt and what the systems wrote."""

    prompt: str
    asked: Sequence[str]
    answers: Sequence[Answer]


Block = str | TableBlock | Figure | Case


@dataclass
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)
