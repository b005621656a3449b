"""A report as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from prosg.evaluation.report.blocks import MARKS, Case, Figure, Section, TableBlock, step_of
from prosg.utils.tables import to_markdown

__all__ = ["to_report_markdown"]


def to_report_markdown(title: str, sections: Sequence[Section]) -> tuple[str, dict[str, str]]:
    """A report as Markdown, and its pictures (SVG) by the names that it links to."""
    parts = [f"# {_literal(title)}"]
    pictures: dict[str, str] = {}
    for section in sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            if isinstance(block, str):
                parts.append(_literal(block))
            elif isinstance(block, TableBlock):
                parts += [
                    to_markdown([[_literal(cell) for cell in row] for row in block.table]),
                    _literal(block.caption),
                ]
            elif isinstance(block, Figure):
                name = f"report-{len(pictures) + 1}.svg"
                pictures[name] = block.svg
                caption = _literal(block.caption)
                parts += [f"![{caption}]({name})", caption]
            else:
                parts += _case_in_markdown(block)
    return "\n\n".join(parts) + "\n", pictures


def _case_in_markdown(case: Case) -> list[str]:
    quoted = "\n".join(f"> {_literal(line)}" for line in case.prompt.splitlines())
    table = [["system", "stage", "", "text"]]
    for answer in case.answers:
        for number, (text, right) in enumerate(answer.stages):
            label = _literal(answer.label) if number == 0 else ""
            table.append([label, _literal(step_of(case, number)), MARKS[right], _one_line(text)])
    return [quoted, to_markdown(table)]


def _one_line(text: str) -> str:
    return "<br>".join(map(_literal, text.strip().splitlines()))


def _literal(text: str) -> str:
    """A line of somebody's text, so that it stands in Markdown as it is."""
    return re.sub(r"([\\`*_~]|(?<=\])[(:])", r"\\\1", html.escape(text, quote=False))
