"""Checks that tables of results in the documents have the figures of the files that they come from.

    python scripts/check_figures.py            says which cells differ; exit status 1 if any does
    python scripts/check_figures.py --write    writes the files' figures into the tables

A table is checked if a comment stands above it:

    <!-- figures: docs/results.json late -->

The word after the file is `late` (late stage exactly right), `tokens` (generated before it), `free` (answers of free
length), `runs` (trainings), `memory` (of benchmarks/results/real_sizes.json) or `time` (of a benchmark; `of=QUANTITY`
with underscores for spaces). Then come options: `part=NAME` takes a part of the file, `by=FIELD` says what the columns
count (sentences). The first cell of a line is the system, as the file or reports call it; empty cells are left alone.
Above a paragraph or a list, `prose` checks that the file has every share and every number from 1,000 on in it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prosg.evaluation.formatting import amount

ROOT = Path(__file__).resolve().parents[1]
PROSE = re.compile(r"<!-- figures: (\S+) prose -->\n\n((?:.+\n)+)")
FIGURE = re.compile(r"(?<![\d.,])(?:\.\d+|1\.0|\d{1,3}(?:,\d{3})+)(?![\d%])")
TABLE = re.compile(r"<!-- figures: (\S+) (\w+)((?: [\w-]+=[^ >]+)*) -->\n\n((?:\|.*\n)+)")
SYSTEMS: dict[str, tuple[str, str, str]] = {
    "phase 1": ("phase1", "none", "kept"),
    "phase 1 continued": ("phase1_more", "none", "kept"),
    "durable fine-tuning": ("phase1_perturbed", "none", "kept"),
    "phase 1 continued, prompt read again": ("phase1_replay", "none", "kept"),
    "static adapter": ("static", "own", "kept"),
    "static adapter, perturbed": ("static_perturbed", "own", "kept"),
    "plus, own, prompt read in windows": ("plus_windows", "own", "kept"),
    "plus, own, in windows, state wiped": ("plus_windows", "own", "wiped"),
    **{
        f"{module}, {words}": (module, update, state)
        for module in ("paper", "plus")
        for words, update, state in (
            ("own update", "own", "kept"),
            ("another prompt's", "other", "kept"),
            ("the mean update", "mean", "kept"),
            ("no update", "none", "kept"),
            ("own, state wiped", "own", "wiped"),
        )
    },
}
"""What reports call a system -> its name, update and state in files of earlier runs; later files have the label."""

PLACE = ("sentences", "prompt_tokens", "turns", "items")
NEAR = 0.05
"""How far a row's length may be from the column's, relative: prompts are of 1,999 tokens where 2,000 are asked for."""

Rows = Sequence[Mapping[str, Any]]


class Table(NamedTuple):
    """A table that is checked: where it stands, where its figures come from, its cells."""

    document: str
    file: str
    quantity: str
    options: dict[str, str]
    head: list[str]
    lines: list[list[str]]


def tables_of(document: Path) -> Iterator[tuple[Table, re.Match[str]]]:
    """The marked tables of a document, with their places."""
    for match in TABLE.finditer(document.read_text("utf-8")):
        file, quantity, options, text = match.groups()
        head, _, *lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines()]
        pairs = dict(pair.split("=", 1) for pair in options.split())
        yield Table(str(document.relative_to(ROOT)), file, quantity, pairs, head, lines), match


def expected(table: Table) -> Iterator[list[str | None]]:
    """The cells of each line as the file has them; None for a cell that no figure belongs to.

    Raises:
        ValueError: for a line that the file knows nothing of.
    """
    content = json.loads((ROOT / table.file).read_text("utf-8"))
    if "part" in table.options:
        content = content[table.options["part"]]
    for line in table.lines:
        yield [None, *QUANTITIES[table.quantity](content, table, line)]


def _late(content: Any, table: Table, line: list[str]) -> Iterator[str | None]:
    yield from _curve(content, table, line, lambda rows: _of_seeds([row["late_accuracy"] for row in rows]))


def _tokens(content: Any, table: Table, line: list[str]) -> Iterator[str | None]:
    yield from _curve(content, table, line, lambda rows: f"{_mean([row['distance_tokens'] for row in rows]):,.0f}")


def _curve(content: Any, table: Table, line: list[str], shown: Callable[[Rows], str]) -> Iterator[str | None]:
    """The cells of a curve's line: its columns are places, and it may have a column `kind`."""
    field = table.options.get("by", "sentences")
    kind = line[table.head.index("kind")] if "kind" in table.head else "all"
    places = [_number(cell) for cell in table.head]
    rows = [row for row in _rows(content, table, line, kind) if row.get(field) and row.get("length") != "free"]
    if not rows:
        raise ValueError(f"no rows of {line[0]}")
    for head, place in list(zip(table.head, places, strict=True))[1:]:
        if place is None:
            yield None
            continue
        here = [row for row in rows if abs(row[field] - place) <= NEAR * place]
        if not here:
            raise ValueError(f"no rows of {line[0]} in column {head}")
        cell = shown(here)
        yield cell if kind == "all" else cell.partition(" (")[0]


def _rows(content: Any, table: Table, line: list[str], kind: str) -> Rows:
    """A system's rows, by seed."""
    label = re.sub(r"[*`]|\[([^]]*)\]\([^)]*\)", r"\1", line[0]).strip()
    system = SYSTEMS.get(label)
    rows = [
        row
        for row in content["rows"]
        if row["kind"] == kind
        and (row["system"] == label or (row["system"], row["update"], row["state"]) == system)
        and ("measure" not in row or row["measure"] == ("free" if table.quantity == "free" else "curve"))
    ]
    return sorted(rows, key=lambda row: row["seed"])


def _free(content: Any, table: Table, line: list[str]) -> Iterator[str | None]:
    rows = [row for row in _rows(content, table, line, "all") if row.get("length", "free") == "free"]
    if not rows:
        raise ValueError(f"no rows of {line[0]}")
    yield _of_seeds([row["accuracy"] for row in rows])
    yield _of_seeds([row["late_accuracy"] for row in rows])
    yield _of_seeds([row["perplexity"] for row in rows], "{:,.2f}".format)


def _runs(content: Any, table: Table, line: list[str]) -> Iterator[str | None]:
    run = content["about"]["runs"][line[1]][line[0]]
    reached = {None: "none set", True: "reached", False: "**not reached**"}[run["reached"]]
    yield from (None, f"{run['steps']:,}", f"{run['seconds']:,.0f}", str(run["skipped"]), reached)


def _memory(content: Any, table: Table, line: list[str]) -> Iterator[str | None]:
    """Peak memory in GB: a line is a model, a column what was done."""
    for head in table.head[1:]:
        quantity = f"{MEMORY.get(head, head.replace(',', ''))}, peak resident memory"
        values = [row["value"] for row in content if (row["system"], row["quantity"]) == (line[0], quantity)]
        yield f"{values[0]:.2f}" if values else ""


def _seconds(content: Any, table: Table, line: list[str]) -> Iterator[str | None]:
    """A benchmark's times: a line is a system, a column a number of threads."""
    quantity = table.options["of"].replace("_", " ")
    for head in table.head[1:]:
        key = (line[0], quantity, _number(head))
        values = [row["value"] for row in content if (row["system"], row["quantity"], row["threads"]) == key]
        if not values:
            raise ValueError(f"no time of {line[0]} with {head}")
        yield f"{values[0]:,.0f}" if values[0] >= 100 else f"{values[0]:.2g}"


MEMORY = {
    "opened": "load",
    "512 tokens encoded": "encode 512",
    "4,096 encoded": "encode 4096",
    "16 generated": "generate",
}
"""Column of a table -> quantity in benchmarks/results/real_sizes.json, where they differ."""
QUANTITIES: dict[str, Callable[[Any, Table, list[str]], Iterator[str | None]]] = {
    "late": _late,
    "tokens": _tokens,
    "free": _free,
    "runs": _runs,
    "memory": _memory,
    "time": _seconds,
}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _of_seeds(values: Sequence[float], shown: Callable[[float], str] = amount) -> str:
    """As reports show several seeds: the mean, and each."""
    mean = shown(_mean(values))
    return mean if len(values) == 1 else f"{mean} ({'/'.join(map(shown, values))})"


def _number(cell: str) -> int | None:
    """The number in a column's head."""
    found = re.search(r"\d[\d,]*", cell)
    return int(found[0].replace(",", "")) if found else None


def strange_figures(document: Path) -> Iterator[str]:
    """Shares and thousands in marked paragraphs that no cell of their file has: no table says what each belongs to."""
    for file, text in PROSE.findall(document.read_text("utf-8")):
        groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for row in json.loads((ROOT / file).read_text("utf-8"))["rows"]:
            key = ("system", "update", "state", "kind", "length", "measure", *PLACE)
            groups.setdefault(tuple(row.get(name) for name in key), []).append(row)
        known = set()
        for rows in groups.values():
            for quantity in ("accuracy", "late_accuracy"):
                values = [row[quantity] for row in rows]
                known |= {amount(value) for value in (*values, _mean(values))}
            tokens = [row["distance_tokens"] for row in rows if row.get("distance_tokens") is not None]
            known |= {f"{value:,.0f}" for value in (*tokens, *([_mean(tokens)] if tokens else []))}
        for figure in dict.fromkeys(FIGURE.findall(text)):
            if figure not in known:
                yield f"{figure}: {file} has no such figure"


def differences(document: Path) -> Iterator[str]:
    """What a document's tables have otherwise than their files."""
    yield from strange_figures(document)
    for table, _ in tables_of(document):
        try:
            for line, cells in zip(table.lines, expected(table), strict=True):
                if len(line) != len(cells):
                    yield f"{line[0]}: {len(line)} cells, should be {len(cells)}"
                for head, cell, figure in zip(table.head, line, cells, strict=False):
                    if figure is not None and cell and cell.strip("*") != figure.strip("*"):
                        yield f"{line[0]}, {head}: {cell}, but {table.file} has {figure}"
        except (KeyError, ValueError) as error:
            yield f"table of {table.file} {table.quantity}: {error}"


def write(document: Path) -> None:
    """Writes the files' figures into a document's tables."""
    text = document.read_text("utf-8")
    for table, match in list(tables_of(document))[::-1]:
        lines = match[4].splitlines(keepends=True)[:2]
        for line, cells in zip(table.lines, expected(table), strict=True):
            merged = [cell if figure is None or not cell else figure for cell, figure in zip(line, cells, strict=True)]
            lines.append(f"| {' | '.join(merged)} |\n".replace("|  ", "| "))
        text = text[: match.start(4)] + "".join(lines) + text[match.end(4) :]
    document.write_text(text, "utf-8")


def main() -> int:
    """Checks, or writes, every document; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the figures into the tables first")
    options = parser.parse_args()
    documents = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    if options.write:
        for document in documents:
            write(document)
    mistakes = [f"{document.relative_to(ROOT)}: {text}" for document in documents for text in differences(document)]
    print(
        "\n".join(
            [*mistakes, f"{sum(1 for one in documents for _ in tables_of(one))} tables, {len(mistakes)} mistakes"]
        )
    )
    return int(bool(mistakes))


if __name__ == "__main__":
    sys.exit(main())
