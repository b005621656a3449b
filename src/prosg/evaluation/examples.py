"""Answers to read: phase 1 beside the update, for the first prompt of each kind, whatever came out."""

from __future__ import annotations

import re
import textwrap
from typing import Any, NamedTuple

from prosg.data.checks import find_stages
from prosg.data.row import Row
from prosg.data.synthetic import make_rows
from prosg.evaluation.findings import FAR_TOKENS
from prosg.evaluation.measured import OWN, PHASE1, Line, Measured

__all__ = ["Answer", "Example", "examples_in_columns", "examples_in_markdown", "first_examples"]

WIDTH = 48
"""Of a column in a terminal."""


class Answer(NamedTuple):
    """What one system wrote."""

    system: str
    story: str
    """abbreviated in the middle"""
    late: str
    tokens: int
    right: bool

    @property
    def mark(self) -> str:
        return "right" if self.right else "WRONG"


class Example(NamedTuple):
    """One prompt, what was expected at the end, and every system's answer."""

    kind: str
    prompt: str
    expected: str
    answers: list[Answer]


def first_examples(measured: Measured) -> list[Example]:
    """The first row of each kind, first seed, at the first distance at which controls are judged (else the last)."""
    lines = [line for line in (PHASE1, OWN) if line in measured.lines]
    seed = measured.seeds[0]
    where = next((where for where in measured.bins if where.tokens >= FAR_TOKENS), measured.bins[-1])
    found: dict[str, dict[Line, dict[str, Any]]] = {}
    for answer in measured.answers:
        line = Line(answer["system"], answer["update"], answer["state"])
        here = (answer["seed"], answer["sentences"], answer["length"]) == (seed, where.sentences, "controlled")
        if here and line in lines:
            found.setdefault(answer["id"], {})[line] = answer
    kinds = list(dict.fromkeys(answer["kind"] for answers in found.values() for answer in answers.values()))
    rows = _asked(measured, kinds, len(found), seed)
    examples: dict[str, Example] = {}
    for name, answers in found.items():
        row = rows[name]
        if row.kind not in examples:
            written = [_answer(str(line), row, answers[line]) for line in lines if line in answers]
            examples[row.kind] = Example(row.kind, row.prompt, row.answer[row.stages[-1].start :].strip(), written)
    return list(examples.values())


def _asked(measured: Measured, kinds: list[str], count: int, seed: int) -> dict[str, Row]:
    """The rows that were asked, made again: they are a function of what stands in the results."""
    first = next(row for row in measured.rows if row["seed"] == seed and row["in_range"])
    sentences = (first["sentences"], first["sentences"])
    return {row.id: row for row in make_rows(kinds, count, seed, first["split"], sentences=sentences)}


def _answer(system: str, row: Row, answer: dict[str, Any]) -> Answer:
    late = find_stages(row, answer["text"])[-1] or ""
    story = answer["text"].removesuffix(late) if late else answer["text"]
    return Answer(
        system, _abbreviated(story.strip(), answer["distance_tokens"]), late, answer["distance_tokens"], answer["late"]
    )


def _abbreviated(story: str, tokens: int, ends: int = 2) -> str:
    """Its first and last sentences; what is left out is counted in tokens, by its share of the characters."""
    sentences = re.findall(r"\S.*?[.!?](?=\s|$)|\S.*$", story, re.DOTALL)
    if len(sentences) <= 2 * ends + 1:
        return story
    first, middle, last = sentences[:ends], " ".join(sentences[ends:-ends]), sentences[-ends:]
    left_out = round(tokens * len(middle) / len(story))
    return " ".join([*first, f"[... about {left_out:,} tokens ...]", *last])


def examples_in_markdown(examples: list[Example]) -> str:
    """A small table for each."""
    parts = []
    for example in examples:
        cells = [f"{answer.story}<br><br>{answer.late}".replace("|", "\\|") for answer in example.answers]
        heads = [f"{answer.system}: {answer.mark}, {answer.tokens:,} tokens" for answer in example.answers]
        table = [heads, ["---"] * len(heads), [cell.replace("\n", "<br>") for cell in cells]]
        parts.append(f"> {example.prompt}\n\nExpected: `{example.expected}`")
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(parts)


def examples_in_columns(examples: list[Example]) -> str:
    """For a terminal: two columns."""
    parts = []
    for example in examples:
        columns = []
        for answer in example.answers:
            head = f"{answer.system} ({answer.tokens:,} tokens): {answer.mark}"
            columns.append([head, *textwrap.wrap(answer.story, WIDTH), *textwrap.wrap(f"> {answer.late}", WIDTH)])
        height = max(map(len, columns), default=0)
        filled = [column[:-1] + [""] * (height - len(column)) + column[-1:] for column in columns]
        lines = [" | ".join(cell.ljust(WIDTH) for cell in row).rstrip() for row in zip(*filled, strict=True)]
        head = textwrap.fill(f"Prompt: {example.prompt}", 2 * WIDTH + 3)
        parts.append("\n".join([head, f"Expected: {example.expected}", "", *lines]))
    return "\n\n".join(parts)
