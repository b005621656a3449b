"""Statistics of a data file: lengths, kinds, stages, distances, languages and duplicates, as text and as a plot."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prosg.data.row import Row, read_rows
from prosg.musi.similar import similar_pairs
from prosg.musi.text import language, plain, words
from prosg.utils.io import written_whole
from prosg.utils.outside import terminal_text
from prosg.utils.progress import OnProgress, no_progress, progress_bar

__all__ = ["RowStatistics", "count_rows", "plot", "statistics_text", "stats"]

QUANTILES = (0, 5, 25, 50, 75, 95, 100)


class RowStatistics(NamedTuple):
    """Counts of rows.

    Attributes:
        rows: Number of rows.
        kinds: Rows by kind.
        languages: Rows by the language of the prompt.
        stages: Rows by number of stages.
        checks: Stages by type of check.
        lengths: Numbers of words, by what is measured.
        leaking: Rows whose answer may hold what the last stage needs.
        same: Rows whose prompt another row has, too.
        near: Pairs of near-duplicate prompts; None if they were not counted.
    """

    rows: int
    kinds: Counter[str]
    languages: Counter[str]
    stages: Counter[int]
    checks: Counter[str]
    lengths: dict[str, list[int]]
    leaking: int
    same: int
    near: int | None


def count_rows(
    rows: Sequence[Row], *, above: float | None = None, on_progress: OnProgress = no_progress
) -> RowStatistics:
    """Counts rows. above: ROUGE-L F1 above which prompts are near-duplicates; None does not count these."""
    prompts = [row.prompt for row in rows]
    near = None if above is None else sum(1 for _ in similar_pairs(prompts, above, on_progress=on_progress))
    lengths = {
        "words of a prompt": [len(words(prompt)) for prompt in prompts],
        "words of an answer": [len(words(row.answer)) for row in rows],
        "words before the last stage": [row.distance_words for row in rows if row.stages],
    }
    return RowStatistics(
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
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{terminal_text(str(name))} {number:,}" for name, number in ordered)


def statistics_text(statistics: RowStatistics) -> str:
    """Returns the statistics as printable text."""
    lines = [
        f"rows             {statistics.rows:,}",
        f"kinds            {_listed(statistics.kinds)}",
        f"languages        {_listed(statistics.languages)}",
        f"stages per row   {_listed(statistics.stages)}",
        f"checks           {_listed(statistics.checks) or 'none'}",
        f"leaks            {statistics.leaking:,} rows whose answer may hold what the last stage needs",
        f"same prompt      {statistics.same:,} rows",
    ]
    if statistics.near is not None:
        lines.append(f"near-duplicates  {statistics.near:,} pairs of prompts")
    lines += ["", f"{'':28}" + "".join(f"{f'{q} %':>8}" for q in QUANTILES) + f"{'mean':>9}"]
    for name, values in statistics.lengths.items():
        if values:
            cells = "".join(f"{value:>8,.0f}" for value in np.percentile(values, QUANTILES))
            lines.append(f"{name:<28}{cells}{np.mean(values):>9,.1f}")
    return "\n".join(lines)


def plot(statistics: RowStatistics, file: Path, *, overwrite: bool = True) -> None:
    """Writes a .png file with histograms of lengths, and bars of kinds, stages and checks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).flat
    for axis, (name, values) in zip(axes, statistics.lengths.items(), strict=False):
        axis.hist(values, bins=40, color="#33658a")
        axis.set(title=name, ylabel="rows")
    bars: list[tuple[str, Counter[Any]]] = [
        ("kinds", statistics.kinds), ("stages per row", statistics.stages), ("checks", statistics.checks),
    ]  # fmt: skip
    for axis, (name, counts) in zip(list(figure.axes)[3:], bars, strict=True):
        common = counts.most_common(16)[::-1]
        names = [terminal_text(str(key)).replace("$", r"\$") for key, _ in common]  # no mathematics
        axis.barh(names, [number for _, number in common], color="#f26419")
        axis.set(title=name, xlabel="rows" if name != "checks" else "stages")
    # Without the version of the program, equal rows give equal files.
    with written_whole(file, overwrite=overwrite) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of kinds in other scripts
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def stats(file: str, *, out: str | None = None, above: float = 0.7, overwrite: bool = False) -> int:
    """`prosg data stats`: prints the statistics of a file and writes the plot.

    Args:
        file: The jsonl file.
        out: The plot's .png file; by default beside the rows.
        above: ROUGE-L F1 above which prompts are near-duplicates.
        overwrite: Replace the plot.

    Returns:
        0, the exit status.
    """
    rows = read_rows(file)
    path = Path(out) if out is not None else Path(file).with_suffix(".png")
    if path.suffix != ".png":
        raise ValueError(f"--out is {path}; the plot is a .png file")
    with progress_bar("comparing", len(rows), "row") as bar:
        statistics = count_rows(rows, above=above, on_progress=bar.update)
    plot(statistics, path, overwrite=overwrite)
    print(statistics_text(statistics))
    print(f"\nplot: {path}")
    return 0
