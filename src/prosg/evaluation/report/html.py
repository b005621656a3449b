"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from importlib.resources import files

from prosg.evaluation.report.blocks import MARKS, Case, CaseAnswer, Figure, Section, TableBlock, step_of

__all__ = ["to_report_html"]

NUMBER = re.compile(r"[-+]?\.?\d|-$")
"""How a cell with a number begins; a dash stands for none."""
LONG = 40
"""Characters of a cell from which on it may be broken on narrow screens."""


def to_report_html(title: str, sections: Sequence[Section]) -> str:
    """A report as one HTML file that needs nothing else."""
    style = (files("prosg.evaluation.report") / "report.css").read_text("utf-8")
    links = "".join(f'<li><a href="#s{i}">{html.escape(s.title)}</a></li>' for i, s in enumerate(sections))
    body = "".join(
        f'<section id="s{i}"><h2>{html.escape(section.title)}</h2>{"".join(map(_block, section.blocks))}</section>'
        for i, section in enumerate(sections)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><header><h1>{html.escape(title)}</h1><nav><ul>{links}</ul></nav></header>"
        f"<main>{body}</main></body></html>{os.linesep}"
    )


def _block(block: str | TableBlock | Figure | Case) -> str:
    if isinstance(block, str):
        return f"<p>{html.escape(block)}</p>"
    if isinstance(block, TableBlock):
        return _table(block)
    if isinstance(block, Figure):
        picture = f'<div class="picture" role="img" aria-label="{html.escape(block.caption)}">{block.svg}</div>'
        return f"<figure>{picture}<figcaption>{html.escape(block.caption)}</figcaption></figure>"
    asked = "".join(f"<li>{html.escape(text)}</li>" for text in block.asked)
    answers = "".join(_answer(block, answer) for answer in block.answers)
    steps = f'<ol class="asked">{asked}</ol>' if asked else ""
    return f'<article class="case"><blockquote>{html.escape(block.prompt)}</blockquote>{steps}{answers}</article>'


def _table(block: TableBlock) -> str:
    head, *rows = block.table
    marks = [_mark([row[i] for row in rows]) for i in range(len(head))]
    top = "".join(f'<th scope="col"{mark}>{html.escape(cell)}</th>' for cell, mark in zip(head, marks, strict=True))
    lines = ""
    for row in rows:
        cells = zip(row[1:], marks[1:], strict=True)
        values = "".join(f"<td{mark}>{html.escape(cell)}</td>" for cell, mark in cells)
        lines += f'<tr><th scope="row"{marks[0]}>{html.escape(row[0])}</th>{values}</tr>'
    head_row = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    table = f"<table><caption>{html.escape(block.caption)}</caption>{head_row}<tbody>{lines}</tbody></table>"
    return f'<div class="table" tabindex="0" role="region" aria-label="{html.escape(block.caption)}">{table}</div>'


def _mark(cells: Sequence[str]) -> str:
    """The attribute of a column's cells: numbers stand to the right, long texts may be broken."""
    if all(NUMBER.match(cell) for cell in cells if cell) and any(map(NUMBER.match, cells)):
        return ' class="number"'
    return ' class="long"' if max(map(len, cells), default=0) > LONG else ""


def _answer(case: Case, answer: CaseAnswer) -> str:
    stages = "".join(
        f'<div class="stage {MARKS[right].lower()}"><span class="mark">{html.escape(step_of(case, number))}: '
        f'{MARKS[right]}</span><p class="text">{html.escape(text)}</p></div>'
        for number, (text, right) in enumerate(answer.stages)
    )
    return f'<div class="answer"><h3>{html.escape(answer.label)}</h3>{stages}</div>'
