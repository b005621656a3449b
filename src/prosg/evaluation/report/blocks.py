"""The parts of a report: sections of paragraphs, tables, figures and cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prosg.utils.tables import Table

__all__ = ["MARKS", "Block", "Case", "CaseAnswer", "Figure", "Section", "TableBlock", "step_of"]


class TableBlock(NamedTuple):
    """A table with its caption."""

    table: Table
    caption: str


class Figure(NamedTuple):
    """A figure as SVG with its caption; its numbers stand in a table, too."""

    svg: str
    caption: str


class CaseAnswer(NamedTuple):
    """One system's answer, cut into its stages: (text, whether it is right; None for undecided)."""

    label: str
    stages: Sequence[tuple[str, bool | None]]


class Case(NamedTuple):
    """One prompt, its instructions, and every system's answer."""

    prompt: str
    asked: Sequence[str]
    answers: Sequence[CaseAnswer]


Block = str | TableBlock | Figure | Case
MARKS = {True: "right", False: "WRONG", None: "undecided"}
"""How a stage's verdict is written."""


def step_of(case: Case, number: int) -> str:
    """What stage `number` of an answer, from 0, was asked to do."""
    return f"{number + 1}. {case.asked[number]}" if number < len(case.asked) else "answer"


@dataclass
class Section:
    """A heading with its blocks."""

    title: str
    blocks: list[Block] = field(default_factory=list)
