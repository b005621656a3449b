"""What a system does to a row's prompt before it is read."""

from __future__ import annotations

import dataclasses

from prosg.data.row import Row

__all__ = ["read_twice"]


def read_twice(row: Row) -> Row:
    """The row with its prompt twice ("Just read twice", arXiv 2407.05483)."""
    if row.turns:
        *before, last = row.turns
        return dataclasses.replace(row, turns=(*before, last._replace(text=f"{last.text}\n{last.text}")))
    return dataclasses.replace(row, prompt=f"{row.prompt}\n{row.prompt}")
