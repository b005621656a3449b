"""The demo's end: results.json, report.md and forgetting.png from the seeds' curves, and what a terminal shows.

Every sentence that says what came out is made from the numbers of the tables: "better" stands only where the interval
of every seed's paired difference excludes zero, and whether an update carries its prompt is judged by its controls.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prosg.evaluation.examples import Example, examples_in_columns, examples_in_markdown, first_examples
from prosg.evaluation.findings import amount, findings, join, mean_only, with_seeds
from prosg.evaluation.measured import OWN, PAPER, PHASE1, Bin, Difference, Line, Measured, read_measured, verdict
from prosg.evaluation.plot import plot_curves
from prosg.utils.io import written_whole
from prosg.utils.tables import Table, to_markdown, to_text

__all__ = ["write_report"]


def write_report(out: Path, folders: list[Path], about: dict[str, Any]) -> str:
    """Write results.json, forgetting.png and report.md into `out`; returns the text for a terminal.

    Args:
        out: The demo's folder.
        folders: One per seed, each with curves/*.json and, where rivals were tried, rates.json.
        about: How it came to be: command, dtype, machine, versions, commit, seconds, plan, runs.

    Raises:
        ValueError: where there are no curves, or two that were measured on different prompts.
    """
    measured = read_measured(folders)
    examples = first_examples(measured)
    said = [*_convergence_warning(about["runs"]), *findings(measured)]
    _write(out / "results.json", json.dumps({"about": about, "rows": measured.rows}, indent=2) + "\n")
    plot_curves(out / "forgetting.png", measured)
    _write(out / "report.md", _markdown(measured, examples, folders, about, said))
    return _terminal(measured, examples, out, said)


def _write(path: Path, text: str) -> None:
    with written_whole(path, overwrite=True) as temporary:
        temporary.write_text(text, "utf-8")


def _markdown(
    measured: Measured, examples: list[Example], folders: Sequence[Path], about: dict[str, Any], said: list[str]
) -> str:
    spread = " mean over seeds (each seed)," if len(measured.seeds) > 1 else ""
    seeds = f"seed{'s' * (len(measured.seeds) > 1)} {join(map(str, measured.seeds))}"
    parts = [
        "# The forgetting curve",
        "\n".join(f"- {sentence}" for sentence in said),
        "![Late-stage accuracy against distance](forgetting.png)",
        "Lines are means over seeds, dots the seeds."
        if len(measured.seeds) > 1
        else "Bands are 95 % bootstrap intervals over prompts.",
        "## Late stage exactly right",
        f"Share of prompts,{spread} by tokens generated before the late stage (mean over systems); free-running, "
        f"length-controlled. {join(_sizes(measured))} prompts per cell, {seeds}; {join(_backbones(measured))}.",
        to_markdown(_late_table(measured, with_seeds)),
        "## In range, without length control",
        "The model decides when the late stage begins. Perplexity is over all answer tokens of reference answers.",
        to_markdown(_range_table(measured, with_seeds)),
        *_comparisons(measured),
        "## By kind of instruction",
        "Late stage exactly right, mean over seeds.",
        to_markdown(_kind_table(measured)),
        "## Distances",
        "Tokens that each system really generated before the late stage, mean over rows and seeds. For "
        '"prompt read again" the prompt that is read a second time comes on top (`extra_tokens` in results.json).',
        to_markdown(_distance_table(measured)),
        "## Training",
        *_training(about["runs"]),
        *_rates(folders),
        "## Answers",
        f"The first prompt of each kind, not chosen by outcome; seed {measured.seeds[0]}, length-controlled, the "
        "prompt's state kept.",
        examples_in_markdown(examples),
        "## How this was made",
        to_markdown([["", ""], *([name, text] for name, text in _made(about))]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _terminal(measured: Measured, examples: list[Example], out: Path, said: list[str]) -> str:
    seeds = len(measured.seeds)
    controls = [str(line) for line in measured.lines if line.is_control]
    over = f", mean over {seeds} seeds" if seeds > 1 else ""
    parts = [
        f"Late stage exactly right{over}, by tokens generated before it:",
        to_text(_late_table(measured, mean_only)),
        "In range, without length control:",
        to_text([row for row in _range_table(measured, mean_only) if row[0] not in controls]),
        "\n".join(map(_wrap, said)),
        examples_in_columns(examples),
        "\n".join(f"{out / name}" for name in ("report.md", "forgetting.png", "results.json")),
    ]
    return "\n\n".join(part for part in parts if part)


def _wrap(sentence: str) -> str:
    return textwrap.fill(re.sub("[`*]", "", sentence), 100, initial_indent="- ", subsequent_indent="  ")


def _late_table(measured: Measured, cell: Callable[[list[float]], str]) -> Table:
    heading = ["tokens", *(f"{where.tokens:,}" for where in measured.bins)]
    return [heading] + [
        [str(line), *(cell(measured.values(line, where)) for where in measured.bins)] for line in measured.lines
    ]


def _range_table(measured: Measured, cell: Callable[..., str]) -> Table:
    table = [["", "all stages right", "late stage right", "perplexity"]]
    for line in measured.lines:
        rows = [measured.free[line, seed] for seed in measured.seeds if (line, seed) in measured.free]
        if rows:
            shares = [cell([row[key] for row in rows]) for key in ("accuracy", "late_accuracy")]
            table.append([str(line), *shares, cell([row["perplexity"] for row in rows], "{:.2f}".format)])
    return table


def _kind_table(measured: Measured) -> Table:
    kinds = dict.fromkeys(row["kind"] for row in measured.rows if row["kind"] != "all")
    table = [["", "kind", *(f"{where.tokens:,}" for where in measured.bins)]]
    for line in (PHASE1, PAPER, OWN, *measured.rivals):
        for kind in kinds:
            found = [row for row in measured.rows if measured.is_cell(row, line) and row["kind"] == kind]
            by_bin = [[r["late_accuracy"] for r in found if r["sentences"] == b.sentences] for b in measured.bins]
            if found:
                table.append([str(line), kind, *map(mean_only, by_bin)])
    return table


def _distance_table(measured: Measured) -> Table:
    def cell(line: Line, where: Bin) -> str:
        return mean_only(measured.values(line, where, "distance_tokens"), "{:,.0f}".format)

    heading = ["sentences", *(str(where.sentences) for where in measured.bins)]
    return [heading, *([str(line), *(cell(line, where) for where in measured.bins)] for line in measured.lines)]


def _comparisons(measured: Measured) -> list[str]:
    others = [line for line in (PHASE1, PAPER, *measured.rivals) if line in measured.lines]
    if OWN not in measured.lines or not others:
        return []

    def cell(differences: list[Difference]) -> str:
        return "<br>".join([f"**{verdict(differences)}**", *map(_difference, differences)])

    table = [["plus, own update, minus", *(f"{where.tokens:,}" for where in measured.bins)]]
    for line in others:
        table.append([str(line), *(cell(measured.differences(OWN, line, where)) for where in measured.bins)])
    return [
        "## Paired differences",
        "Of late accuracy on the same prompts"
        + (", one line per seed" if len(measured.seeds) > 1 else "")
        + ", with 95 % bootstrap intervals over prompts, not corrected for the number of comparisons. Better or worse "
        "only where the interval of every seed excludes zero.",
        to_markdown(table),
    ]


def _difference(difference: Difference) -> str:
    def signed(value: float) -> str:
        return ("-" if value < 0 else "+" if value > 0 else "") + amount(abs(value))

    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def _convergence_warning(runs: dict[str, dict[str, Any]]) -> list[str]:
    missed = [seed for seed, found in runs.items() if found.get("phase1", {}).get("reached") is False]
    if not missed:
        return []
    return [
        f"**Phase 1 did not reach its validation criterion (seed {join(missed)}).** Everything else was trained on it "
        "as it was; low numbers of that seed need not be forgetting."
    ]


def _training(runs: dict[str, dict[str, Any]]) -> list[str]:
    reached = {None: "none set", True: "reached", False: "**not reached**"}
    table = [["run", "seed", "steps", "seconds", "skipped steps", "validation criterion"]]
    for name in dict.fromkeys(name for found in runs.values() for name in found):
        for seed, found in runs.items():
            if name in found:
                run = found[name]
                numbers = [f"{run['steps']:,}", f"{run['seconds']:.0f}", str(run["skipped"])]
                table.append([name, seed, *numbers, reached[run["reached"]]])
    return [
        "Seconds are wall-clock, beside other runs on the same machine.",
        to_markdown(table),
    ]


def _rates(folders: Sequence[Path]) -> list[str]:
    table = [["rival", "seed folder", "late accuracy on validation rows at each learning rate", "chosen"]]
    for folder in folders:
        if not (folder / "rates.json").exists():
            continue
        content = json.loads((folder / "rates.json").read_text("utf-8"))
        for name, tried in content["late_accuracy"].items():
            text = ", ".join(f"{rate}: {amount(value)}" for rate, value in tried.items())
            table.append([name, folder.name, text, f"{content['chosen'][name]:g}"])
    return ["### Learning rates of the rivals", to_markdown(table)] if len(table) > 1 else []


def _made(about: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("command", f"`{about['command']}`"),
        ("machine", about["machine"]),
        ("dtype of training", about["dtype"]),
        ("versions", ", ".join(f"{name} {number}" for name, number in about["versions"].items())),
        ("commit", about["commit"]),
        ("seconds of this call", f"{about['seconds']:,} (what was there from earlier calls is not counted)"),
        ("plan", ", ".join(f"{name} {json.dumps(value)}" for name, value in about["plan"].items())),
    ]


def _sizes(measured: Measured) -> list[str]:
    return [str(size) for size in sorted({row["n"] for row in measured.cells.values()})]


def _backbones(measured: Measured) -> list[str]:
    return sorted({row["backbone"] for row in measured.rows})
