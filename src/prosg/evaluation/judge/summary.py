"""Counts, shares and tables of a judge's results, read from the files that `prosg judge` wrote into a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prosg.evaluation.formatting import amount
from prosg.evaluation.judge.agreement import AgreementCounts, StepKey
from prosg.evaluation.judge.files import (
    PREFERENCES,
    answer_hashes,
    pair_hashes,
    read_judged_answers,
    read_judged_pairs,
)
from prosg.evaluation.judge.protocol import FAIL, PASS, UNPARSED
from prosg.evaluation.run_folder import read_run
from prosg.evaluation.statistics import bootstrap_interval
from prosg.utils.tables import Table, counted, to_text

__all__ = [
    "UNPARSED_HEADS",
    "agreement_text",
    "changed_text",
    "judge_summary",
    "judge_summary_text",
    "read_step_results",
    "unparsed_cells",
]

UNPARSED_HEADS = ("unparsed rows", "unparsed stages")
"""Heads of a table's columns of `unparsed_cells`."""


def read_step_results(run: str | Path) -> dict[StepKey, bool | None]:
    """Whether the judge passed each step of a run's answers; None for unparsed steps."""
    return {
        StepKey(line["id"], file.stem, stage["stage"]): {PASS: True, FAIL: False}.get(stage["result"])
        for file in sorted((Path(run) / "judge").glob("*.jsonl"))
        for line in read_judged_answers(file)
        for stage in line["stages"]
    }


def judge_summary(run: str | Path) -> dict[str, Any]:
    """Summarizes a judge's results on a run, for reports.

    Returns:
        {"systems": {NAME: SYSTEM}, "pairs": {"A--B": PAIR}}, both empty where nothing was judged. Results about answers
        that have changed since are left out; `changed` is their number, in each SYSTEM and PAIR.

        SYSTEM holds the number of rows `n`; the counts `rows`, `stages` and `last_stage` (each row's last), each as
        {"pass", "fail", "unparsed"}; and the shares `accuracy` (rows that pass as a whole), `stage_accuracy` and
        `last_accuracy`, each as {"share", "interval": [low, high]} with a 95 % bootstrap interval over rows. Shares
        leave unparsed results out, and are None where nothing else is left.

        PAIR holds the number of rows `n`, the counts "first", "second", "tie" and "unparsed", and `disagreed`: the ties
        in which the two orders disagree.

    Raises:
        ValueError: for a line that is no result, naming file, line and field.
    """
    folder = Path(run) / "judge"
    files, pair_files = sorted(folder.glob("*.jsonl")), sorted((folder / "pairs").glob("*.jsonl"))
    hashes = answer_hashes(read_run(run)) if files or pair_files else {}
    systems = {}
    for file in files:
        judged, own = read_judged_answers(file), hashes.get(file.stem, {})
        # Lines of older versions do not say which answer they are about.
        lines = [line for line in judged if line.get("answer", "") in ("", own.get(line["id"]))]
        systems[file.stem] = _summarize_system(lines) | {"changed": len(judged) - len(lines)}
    pairs = {}
    for file in pair_files:
        compared, both = read_judged_pairs(file), pair_hashes(file, hashes)
        lines = [line for line in compared if line.get("answers", []) in ([], both.get(line["id"]))]
        preferred = Counter(line["preferred"] for line in lines)
        disagreed = sum(line["preferred"] == "tie" and line["orders"] != ["tie", "tie"] for line in lines)
        counts = {outcome: preferred[outcome] for outcome in PREFERENCES}
        changed = len(compared) - len(lines)
        pairs[file.stem] = {"n": len(lines), **counts, "disagreed": disagreed, "changed": changed}
    return {"systems": systems, "pairs": pairs}


def _summarize_system(lines: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [(line["id"], line["result"]) for line in lines]
    stages = [(line["id"], stage["result"]) for line in lines for stage in line["stages"]]
    last = [(line["id"], line["stages"][-1]["result"]) for line in lines if line["stages"]]
    counts = {"n": len(lines), "rows": _counts(rows), "stages": _counts(stages), "last_stage": _counts(last)}
    return counts | {"accuracy": _share(rows), "stage_accuracy": _share(stages), "last_accuracy": _share(last)}


def _counts(results: list[tuple[str, str]]) -> dict[str, int]:
    counts = Counter(result for _, result in results)
    return {outcome: counts[outcome] for outcome in (PASS, FAIL, UNPARSED)}


def _share(results: list[tuple[str, str]]) -> dict[str, Any] | None:
    """Share of passes among (row id, result), unparsed ones left out."""
    decided = [(row, float(result == PASS)) for row, result in results if result != UNPARSED]
    if not decided:
        return None
    rows, passed = zip(*decided, strict=True)
    return {"share": sum(passed) / len(passed), "interval": list(bootstrap_interval(passed, rows))}


def judge_summary_text(run: str | Path) -> str:
    """The tables of `judge_summary` as text for a terminal."""
    summary = judge_summary(run)
    table: Table = [["", "rows", "all stages", "last stage", "each stage", *UNPARSED_HEADS]]
    for name, system in summary["systems"].items():
        shares = [_share_text(system[key]) for key in ("accuracy", "last_accuracy", "stage_accuracy")]
        table.append([name, str(system["n"]), *shares, *unparsed_cells(system)])
    text = to_text(table)
    if summary["pairs"]:
        pairs: Table = [["preferred in both orders", "rows", "first", "second", "tie", "(disagreed)", "unparsed"]]
        for name, pair in summary["pairs"].items():
            numbers = [pair[key] for key in ("n", "first", "second", "tie", "disagreed", UNPARSED)]
            pairs.append([name.replace("--", " against "), *map(str, numbers)])
        text += f"\n\n{to_text(pairs)}"
    return "\n\n".join(filter(None, [text, changed_text(summary)]))


def changed_text(summary: Mapping[str, Any]) -> str:
    """What is said of a summary's results about answers that have changed since; "" of none."""
    number = sum(one["changed"] for kind in ("systems", "pairs") for one in summary[kind].values())
    return f"{counted(number, 'result')} not counted: the answers have changed since; prosg judge asks again." * bool(
        number
    )


def unparsed_cells(system: Mapping[str, Any]) -> list[str]:
    """How many of a system's rows, and of their stages, have no result.

    A row whose steps the judge could not tell has no stage at all: it shows among the rows only.
    """
    return [f"{system[kind][UNPARSED]} of {sum(system[kind].values())}" for kind in ("rows", "stages")]


def _share_text(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "-"
    low, high = share["interval"]
    return f"{amount(share['share'])} [{amount(low)}, {amount(high)}]"


def agreement_text(counts: AgreementCounts) -> str:
    """Cohen's kappa and the counts behind it, on one line."""
    kappa = "undefined (only one of the answers occurs)" if counts.kappa is None else f"{counts.kappa:.3f}"
    same = f"{counts.yes_yes} both yes, {counts.no_no} both no"
    other = f"{counts.yes_no} judge alone yes, {counts.no_yes} person alone yes"
    left_out = f"left out: {counts.unparsed} without a verdict, {counts.not_judged} not judged"
    return f"Cohen's kappa {kappa}, {counts.n} steps: {same}, {other}; {left_out}"
