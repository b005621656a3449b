"""What is in a data file: lengths, kinds, stages, distances, languages, duplicates; as text and as a plot."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from prosg.data.row import Row, read_rows
from prosg.musi.similar import similar_pairs
from prosg.musi.text import language, plain, words

__all__ = ["Stats", "count", "describe", "plot", "stats"]

QUANTILES = (0, 5, 25, 50, 75, 95, 100)


class Stats(NamedTuple):
    """Counts of a data file. near: pairs of near-duplicate prompts; None where they were not looked for."""

    rows: int
    kinds: Counter[str]
    languages: Counter[str]
    stages: Counter[int]
    checks: Counter[str]
    lengths: dict[str, list[int]]
    leaking: int
    same: int
    near: int | None


def count(rows: Sequence[Row], *, above: float | None = None, progress: bool = False) -> Stats:
    """Count; near-duplicates only where `above`, the ROUGE-L F1 to be above, is given."""
    prompts = [row.prompt for row in rows]
    with tqdm(total=len(rows), desc="comparing", unit="row", disable=not progress, leave=False) as bar:
        near = None if above is None else sum(1 for _ in similar_pairs(prompts, above, tell=bar.update))
    lengths = {
        "words of a prompt": [len(words(prompt)) for prompt in prompts],
        "words of an answer": [len(words(row.answer)) for row in rows],
        "words before the last stage": [row.distance_words for row in rows if row.stages],
    }
    return Stats(
        rows=len(rows),
        kinds=Counter(row.kind or "(no kind)" for row in rows),
        languages=Counter(language(prompt) for prompt in prompts),
        stages=Counter(len(row.stages) for row in rows),
        checks=Counter(stage.check["type"] for row in rows for stage in row.stages),
        lengths=lengths,
        leaking=sum(row.leaks for row in rows),
        same=len(rows) - len({plain(prompt) for prompt in prompts}),
        near=near,
    )


def _listed(counts: Counter[Any]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def describe(found: Stats) -> str:
    """The counts as text for people."""
    lines = [
        f"rows             {found.rows:,}",
        f"kinds            {_listed(found.kinds)}",
        f"languages        {_listed(found.languages)}",
        f"stages per row   {_listed(found.stages)}",
        f"checks           {_listed(found.checks) or 'none'}",
        f"leaks            {found.leaking:,} rows whose answer may hold what the last stage needs",
        f"same prompt      {found.same:,} rows",
    ]
    if found.near is not None:
        lines.append(f"near-duplicates  {found.near:,} pairs of prompts")
    lines += ["", f"{'':28}" + "".join(f"{f'{q} %':>8}" for q in QUANTILES) + f"{'mean':>9}"]
    for name, values in found.lengths.items():
        if values:
            cells = "".join(f"{value:>8,.0f}" for value in np.percentile(values, QUANTILES))
            lines.append(f"{name:<28}{cells}{np.mean(values):>9,.1f}")
    return "\n".join(lines)


def plot(found: Stats, file: Path) -> None:
    """Histograms of lengths, and bars of kinds and stages."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).flat
    for axis, (name, values) in zip(axes, found.lengths.items(), strict=False):
        axis.hist(values, bins=40, color="#33658a")
        axis.set(title=name, ylabel="rows")
    bars: list[tuple[str, Counter[Any]]] = [
        ("kinds", found.kinds), ("stages per row", found.stages), ("checks", found.checks),
    ]  # fmt: skip
    for axis, (name, counts) in zip(list(figure.axes)[3:], bars, strict=True):
        common = counts.most_common(16)[::-1]
        axis.barh([str(key) for key, _ in common], [number for _, number in common], color="#f26419")
        axis.set(title=name, xlabel="rows" if name != "checks" else "stages")
    # Without the date and the version of the program, the same rows give the same file.
    figure.savefig(file, dpi=110, metadata={"Software": None})


def stats(file: str, *, out: str | None = None, above: float = 0.7) -> int:
    """Print a file's counts and write the plot: to `out`, by default beside the file as NAME.png."""
    rows = read_rows(file)
    path = Path(out) if out else Path(file).with_suffix(".png")
    if path.suffix != ".png":
        raise ValueError(f"--out is {path}; the plot is a .png file")
    found = count(rows, above=above, progress=sys.stderr.isatty())
    plot(found, path)
    print(describe(found))
    print(f"\nplot: {path}")
    return 0
