"""Tables of strings, as Markdown and as text; bytes, durations and perplexities as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = [
    "Table",
    "bytes_text",
    "counted",
    "duration_text",
    "perplexity_text",
    "print_table",
    "to_markdown",
    "to_text",
]

Table = list[list[str]]
"""Rows of equally many cells; the first row is the header."""


def to_markdown(table: Table) -> str:
    """Returns a Markdown table. All columns but the first are aligned to the right."""
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_text(table: Table) -> str:
    """Returns a table for a terminal. All columns but the first are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def print_table(lines: Sequence[tuple[str, str]]) -> None:
    """Prints (name, value) pairs in two columns."""
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        print(f"{name:<{width}}{value}")


def bytes_text(count: int | float) -> str:
    """Returns a number of bytes to three digits: "512 bytes", "1.52 MB"."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def duration_text(seconds: float) -> str:
    """Returns a duration in a unit that fits: "45 s", "12 min", "3 h 5 min"."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 prompt", "1,024 prompts"."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def perplexity_text(value: float) -> str:
    """Returns a perplexity to four digits, as "1.043", "52.30" or "12,345"; from a million on as "1.2e+06".

    What is no number is "not finite".
    """
    if math.isnan(value):
        return "not finite"
    if value >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.{3 if value < 10 else 2 if value < 100 else 1 if value < 1000 else 0}f}"
