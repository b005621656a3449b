"""What a judge said of an evaluation, read from its files: counts and shares for a report, tables for a terminal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from prosg.evaluation.findings import amount
from prosg.evaluation.judge.agreement import Agreement, Label
from prosg.evaluation.judge.protocol import FAIL, PASS, UNPARSED
from prosg.evaluation.statistics import bootstrap_interval
from prosg.utils.store import read_log
from prosg.utils.tables import Table, to_text

__all__ = ["agreement_text", "judged_steps", "summary", "summary_text"]


def judged_steps(run: str | Path) -> dict[Label, bool | None]:
    """Whether the judge passed each step; None where it gave no verdict."""
    return {
        Label(line["id"], file.stem, stage["stage"]): {PASS: True, FAIL: False}.get(stage["result"])
        for file in sorted((Path(run) / "judge").glob("*.jsonl"))
        for line in read_log(file)
        for stage in line["stages"]
    }


def summary(run: str | Path) -> dict[str, Any]:
    """For a report: {"systems": {NAME: ...}, "pairs": {"A--B": ...}}; empty ones where nothing was judged.

    A system has `n` rows, the counts `rows`, `stages` and `last_stage` (the rows' last ones), each by pass, fail and
    unparsed, and three shares: `accuracy` (rows that pass whole), `stage_accuracy` and `last_accuracy`, each
    {"share", "interval": [low, high]} of what passes or fails, by bootstrap over rows, or None where nothing does.
    A pair has `n` rows, the counts of first, second, tie and unparsed, and `disagreed`: ties in which the two orders
    did not agree.
    """
    folder = Path(run) / "judge"
    systems = {file.stem: _system(read_log(file)) for file in sorted(folder.glob("*.jsonl"))}
    pairs = {}
    for file in sorted((folder / "pairs").glob("*.jsonl")):
        lines = read_log(file)
        found = Counter(line["preferred"] for line in lines)
        disagreed = sum(line["preferred"] == "tie" and line["orders"] != ["tie", "tie"] for line in lines)
        counts = {name: found[name] for name in ("first", "second", "tie", UNPARSED)}
        pairs[file.stem] = {"n": len(lines), **counts, "disagreed": disagreed}
    return {"systems": systems, "pairs": pairs}


def _system(lines: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [(line["id"], line["result"]) for line in lines]
    stages = [(line["id"], stage["result"]) for line in lines for stage in line["stages"]]
    last = [(line["id"], line["stages"][-1]["result"]) for line in lines if line["stages"]]
    counts = {"n": len(lines), "rows": _counts(rows), "stages": _counts(stages), "last_stage": _counts(last)}
    return counts | {"accuracy": _share(rows), "stage_accuracy": _share(stages), "last_accuracy": _share(last)}


def _counts(results: list[tuple[str, str]]) -> dict[str, int]:
    found = Counter(result for _, result in results)
    return {name: found[name] for name in (PASS, FAIL, UNPARSED)}


def _share(results: list[tuple[str, str]]) -> dict[str, Any] | None:
    """The share that passes, of (row, result)."""
    decided = [(row, float(result == PASS)) for row, result in results if result != UNPARSED]
    if not decided:
        return None
    rows, passed = zip(*decided, strict=True)
    return {"share": sum(passed) / len(passed), "interval": list(bootstrap_interval(passed, rows))}


def summary_text(run: str | Path) -> str:
    """The tables of `summary`, for a terminal."""
    found = summary(run)
    table: Table = [["", "rows", "all stages", "last stage", "each stage", "unparsed stages"]]
    for name, one in found["systems"].items():
        shares = [_told(one[key]) for key in ("accuracy", "last_accuracy", "stage_accuracy")]
        unparsed = f"{one['stages'][UNPARSED]} of {sum(one['stages'].values())}"
        table.append([name, str(one["n"]), *shares, unparsed])
    text = to_text(table)
    if found["pairs"]:
        pairs: Table = [["preferred in both orders", "rows", "first", "second", "tie", "(disagreed)", "unparsed"]]
        for name, one in found["pairs"].items():
            numbers = [one[key] for key in ("n", "first", "second", "tie", "disagreed", UNPARSED)]
            pairs.append([name.replace("--", " against "), *map(str, numbers)])
        text += f"\n\n{to_text(pairs)}"
    return text


def _told(share: dict[str, Any] | None) -> str:
    if share is None:
        return "-"
    low, high = share["interval"]
    return f"{amount(share['share'])} [{amount(low)}, {amount(high)}]"


def agreement_text(found: Agreement) -> str:
    """Cohen's kappa and what it was counted from, on one line."""
    kappa = "undefined (only one of the answers occurs)" if found.kappa is None else f"{found.kappa:.3f}"
    same = f"{found.yes_yes} both yes, {found.no_no} both no"
    other = f"{found.yes_no} judge alone yes, {found.no_yes} person alone yes"
    out = f"left out: {found.unparsed} without a verdict, {found.not_judged} not judged"
    return f"Cohen's kappa {kappa}, {found.n} steps: {same}, {other}; {out}"
