"""Tables of texts, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Table", "bytes_text", "to_markdown", "to_text"]

Table = list[list[str]]
"""Rows of as many cells as there are columns; the first row is the head."""


def to_markdown(table: Table) -> str:
    """A Markdown table; all columns but the first stand on the right."""
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_text(table: Table) -> str:
    """Columns side by side, for a terminal; all but the first stand on the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def print_table(lines: Sequence[tuple[str, str]]) -> None:
    """Print what is what, in two columns."""
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        print(f"{name:<{width}}{value}")


def bytes_text(count: int | float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
