"""Reports of evaluations: report.html (one file that needs nothing else), report.md with its pictures, results.json."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from prosg.evaluation.report import sections
from prosg.evaluation.report.blocks import Answer, Case, Figure, Section, TableBlock
from prosg.evaluation.results import Run, read_results, result_rows
from prosg.utils.io import written_whole
from prosg.utils.tables import to_markdown

__all__ = ["write_reports"]

MARKS = {True: "right", False: "WRONG", None: "undecided"}


def write_reports(folders: Sequence[str | Path], out: str | Path) -> list[str]:
    """Write the reports of one run, or of several side by side, into `out`; returns what is missing in them.

    Raises ValueError for folders that are no evaluations', and for runs of other rows: those do not compare.
    """
    run = _joined([read_results(folder) for folder in folders])
    out = Path(out)
    if len(folders) > 1 and out.resolve() in {Path(folder).resolve() for folder in folders}:
        raise ValueError(f"--out is {out}, one of the runs; a report of several needs a folder of its own")
    out.mkdir(parents=True, exist_ok=True)
    found = sections(run)
    title = str(run.config["title"])
    rows = {"config": run.config, "rows": list(result_rows(run))}
    _write(out / "results.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    _write(out / "report.md", _markdown(title, found, out))
    _write(out / "report.html", _html(title, found))
    return list(run.missing)


def _write(path: Path, text: str) -> None:
    with written_whole(path, overwrite=True) as temporary:
        temporary.write_text(text, "utf-8")


def _joined(runs: Sequence[Run]) -> Run:
    """Several runs as one: systems that two of them call the same are told apart by their folders' names."""
    first, *others = runs
    if not others:
        return first
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise ValueError("a run is named twice")
    for run in others:
        if run.rows != first.rows:
            raise ValueError(
                f"{run.folder}: asked other rows than {first.folder}; only runs of the same rows stand side by side"
            )
    names = [run.folder.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    taken = [label for run in runs for label in run.labels]
    systems = []
    for run, name in zip(runs, names, strict=True):
        for system in run.systems:
            label = f"{name}: {system.label}" if taken.count(system.label) > 1 else system.label
            systems.append(dataclasses.replace(system, config=dataclasses.replace(system.config, label=label)))
    config = {**first.config, "reference": "", "title": " and ".join(names)}
    return Run(first.folder, config, first.rows, systems, [m for run in runs for m in run.missing])


# -- Markdown


def _markdown(title: str, found: Sequence[Section], out: Path) -> str:
    parts = [f"# {_literal(title)}"]
    pictures = 0
    for section in found:
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
                pictures += 1
                name = f"report-{pictures}.svg"
                _write(out / name, block.svg)
                caption = _literal(block.caption)
                parts += [f"![{caption}]({name})", caption]
            else:
                parts += _case_in_markdown(block)
    return "\n\n".join(parts) + "\n"


def _case_in_markdown(case: Case) -> list[str]:
    quoted = "\n".join(f"> {_literal(line)}" for line in case.prompt.splitlines())
    table = [["system", "stage", "", "text"]]
    for answer in case.answers:
        for number, (text, right) in enumerate(answer.stages):
            label = _literal(answer.label) if number == 0 else ""
            table.append([label, _literal(_asked(case, number)), MARKS[right], _one_line(text)])
    return [quoted, to_markdown(table)]


def _one_line(text: str) -> str:
    return "<br>".join(map(_literal, text.strip().splitlines()))


def _literal(text: str) -> str:
    """A line of somebody's text, so that it stands in Markdown as it is."""
    return re.sub(r"([\\`*_~]|(?<=\])[(:])", r"\\\1", html.escape(text, quote=False))


def _asked(case: Case, number: int) -> str:
    return f"{number + 1}. {case.asked[number]}" if number < len(case.asked) else "answer"


# -- HTML


def _html(title: str, found: Sequence[Section]) -> str:
    style = (files("prosg.evaluation.report") / "report.css").read_text("utf-8")
    links = "".join(f'<li><a href="#s{i}">{html.escape(s.title)}</a></li>' for i, s in enumerate(found))
    body = "".join(
        f'<section id="s{i}"><h2>{html.escape(section.title)}</h2>{"".join(map(_block, section.blocks))}</section>'
        for i, section in enumerate(found)
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
    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>{"".join(f"<td>{html.escape(c)}</td>" for c in row[1:])}</tr>'
        for row in rows
    )
    head_row = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    table = f"<table><caption>{html.escape(block.caption)}</caption>{head_row}<tbody>{lines}</tbody></table>"
    return f'<div class="table" tabindex="0" role="region" aria-label="{html.escape(block.caption)}">{table}</div>'


def _answer(case: Case, answer: Answer) -> str:
    stages = "".join(
        f'<div class="stage {MARKS[right].lower()}"><span class="mark">{html.escape(_asked(case, number))}: '
        f'{MARKS[right]}</span><p class="text">{html.escape(text)}</p></div>'
        for number, (text, right) in enumerate(answer.stages)
    )
    return f'<div class="answer"><h3>{html.escape(answer.label)}</h3>{stages}</div>'
