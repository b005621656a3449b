"""Tables of texts, for a terminal and as Markdown."""

from __future__ import annotations

__all__ = ["Table", "to_markdown", "to_text"]

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
