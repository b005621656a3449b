"""What a terminal shows of a report: findings, the late stage's table with distances, and cases in columns."""

from __future__ import annotations

import re
import textwrap

from prosg.evaluation.report.appendix import cases
from prosg.evaluation.report.blocks import MARKS, Case
from prosg.evaluation.report.cells import of_seeds
from prosg.evaluation.report.curves import distance_table, late_table
from prosg.evaluation.report.findings import findings
from prosg.evaluation.results import Run
from prosg.evaluation.statistics import mean_of
from prosg.utils.tables import Table, to_text

__all__ = ["to_terminal"]

WIDTH = 48
"""Of a column with an answer."""


def to_terminal(run: Run, shown: tuple[str, ...] = ()) -> str:
    """The text; cases show the systems with the labels `shown`, by default the first two."""
    parts = [to_text(late_table(run, brief=True)), to_text(distance_table(run))] if run.places else []
    free: Table = [["free length", "all stages right", "late stage right"]]
    for label in run.labels:
        systems = [system for system in run.of(label) if system.answers]
        if systems:
            right = of_seeds(systems, lambda s: mean_of(s.right), brief=True)
            free.append([label, right, of_seeds(systems, lambda s: mean_of(s.late), brief=True)])
    if len(free) > 1:
        parts.append(to_text(free))
    parts.append("\n".join(_wrapped(block) for block in findings(run) if isinstance(block, str)))
    parts += [_in_columns(case, shown or tuple(run.labels[:2])) for case in cases(run) if isinstance(case, Case)]
    return "\n\n".join(part for part in parts if part)


def _wrapped(sentence: str) -> str:
    return textwrap.fill(re.sub("[`*]", "", sentence), 100, initial_indent="- ", subsequent_indent="  ")


def _in_columns(case: Case, labels: tuple[str, ...]) -> str:
    columns = []
    for answer in (answer for answer in case.answers if answer.label in labels):
        lines = [answer.label]
        for text, right in answer.stages:
            lines += [f"[{MARKS[right]}]", *textwrap.wrap(_abbreviated(text.strip()), WIDTH)]
        columns.append(lines)
    height = max(map(len, columns), default=0)
    filled = [column + [""] * (height - len(column)) for column in columns]
    rows = [" | ".join(cell.ljust(WIDTH) for cell in row).rstrip() for row in zip(*filled, strict=True)]
    return "\n".join([textwrap.fill(f"Prompt: {case.prompt}", 2 * WIDTH + 3), "", *rows])


def _abbreviated(text: str, ends: int = 2) -> str:
    """The first and last sentences of a long text."""
    sentences = re.findall(r"\S.*?[.!?](?=\s|$)|\S.*$", text, re.DOTALL)
    if len(sentences) <= 2 * ends + 1:
        return text
    return " ".join([*sentences[:ends], "[...]", *sentences[-ends:]])
