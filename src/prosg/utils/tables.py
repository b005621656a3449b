"""Tables of strings, as Markdown and as text; numbers of bytes as text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Table", "bytes_text", "print_table", "to_markdown", "to_text"]

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
