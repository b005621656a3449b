"""How good answers are: the paper's Table 2, stages, IFEval, what people and judges said."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prosg.evaluation.formatting import join
from prosg.evaluation.judge.protocol import UNPARSED
from prosg.evaluation.judge.summary import UNPARSED_HEADS, changed_text, judge_summary, unparsed_cells
from prosg.evaluation.ratings.merge import merge_ratings
from prosg.evaluation.report.blocks import Block, TableBlock
from prosg.evaluation.report.cells import late_perplexity_of, numbers, of_seeds, perplexity_of, share
from prosg.evaluation.results import Run
from prosg.evaluation.statistics import LEAST_CLAIMED, Mean, mean_of
from prosg.evaluation.system_result import ifeval_of
from prosg.utils.tables import Table, counted

__all__ = ["has_ratings", "ifeval", "judge", "main_table", "rated_in", "ratings", "stages"]


def main_table(run: Run) -> Iterator[Block]:
    """The columns of the paper's Table 2."""
    rated = {folder: found for folder in run.folders if (found := rated_in(folder))}
    scales = list(dict.fromkeys(scale for found in rated.values() for scale in found))
    table: Table = [["system", "perplexity", "accuracy", *(f"{scale}, people" for scale in scales)]]
    for label in run.labels:
        systems = run.of(label)
        if not any(system.answers or system.scores for system in systems):
            continue
        people = []
        for scale in scales:
            of = (rated[s.folder][scale]["systems"].get(s.name) for s in systems if s.folder in rated)
            points = [one["mean"] for one in of if one]
            people.append(f"{sum(points) / len(points):.2f}" if points else "-")
        table.append([label, numbers(systems, perplexity_of), of_seeds(systems, lambda s: mean_of(s.right)), *people])
    if len(table) > 1:
        yield TableBlock(
            table,
            "Perplexity over all answer tokens, end tokens included (lower is better); accuracy: every stage right, in "
            f"answers written freely, {counted(len(run.rows), 'row')} [95 % interval over prompts]; ratings 0 to 5: "
            "the columns of the paper's Table 2.",
        )
    undecided = [(s.label, sum(None in verdicts for verdicts in s.verdicts.values())) for s in run.systems]
    if any(number for _, number in undecided):
        each = join(f"{label} {number}" for label, number in undecided if number)
        yield f"Answers without a verdict (no programmatic check, none by a judge, or unparsed), not counted: {each}."
    if refused := [f"{s.label} {s.refused}" for s in run.systems if s.refused]:
        yield f"Prompts to which a server gave an error or no reply at all, not counted: {join(refused)}."


def has_ratings(folder: Path) -> bool:
    """Whether people rated answers of a run, whatever became of them."""
    return any((folder / "ratings").glob("*.jsonl"))


def rated_in(folder: Path) -> Mapping[str, Any]:
    """What people rated, by scale, with systems under the names of their files, since several may share a label.

    {} where none of it counts: answers may be others by now.
    """
    if not has_ratings(folder):
        return {}
    try:
        merged = merge_ratings([folder])
    except ValueError as error:
        print(f"ratings are left out: {error}", file=sys.stderr)
        return {}
    files = merged["files"]
    return {
        scale: {
            **found,
            "systems": {files[name]: mean for name, mean in found["systems"].items()},
            "differences": [
                one | {side: files[one[side]] for side in ("ours", "theirs")} for one in found["differences"]
            ],
        }
        for scale, found in merged["scales"].items()
    }


def stages(run: Run) -> Iterator[Block]:
    """How often each stage is right."""
    most = max((len(s.verdicts[name]) for s in run.systems for name in s.staged), default=0)
    if most < 2:
        return
    table: Table = [["system", "late perplexity", "late stage", *(f"stage {number + 1}" for number in range(most))]]
    for label in run.labels:
        systems = run.of(label)
        if not any(system.verdicts for system in systems):
            continue
        each = [of_seeds(systems, lambda s, n=number: mean_of(s.stage(n))) for number in range(most)]  # type: ignore[misc]
        late = of_seeds(systems, lambda s: mean_of(s.late))
        table.append([label, numbers(systems, late_perplexity_of), late, *each])
    yield TableBlock(
        table,
        "Answers of free length, a stage's share of rows in which it is right; the late stage is a row's last. Late "
        "perplexity is over the tokens of the last stage, teacher-forced.",
    )


def ifeval(run: Run) -> Iterator[Block]:
    """IFEval's published measures."""
    table: Table = [["system", "prompts, strict", "prompts, loose", "instructions, strict", "instructions, loose"]]
    for system in run.systems:
        found = ifeval_of(run, system)
        if found is None:
            continue
        prompts, instructions, *_ = found.to_rows()
        cells = [
            share(Mean(row[way], row[f"{way}_interval"][0], row[f"{way}_interval"][1], row["n"]))
            for row in (prompts, instructions)
            for way in ("strict", "loose")
        ]
        table.append([system.label, *cells])
    if len(table) > 1:
        yield TableBlock(
            table,
            "Share of prompts of which every instruction is followed, and of instructions; loose forgives a first or "
            "last line, and asterisks [95 % interval over prompts].",
        )


def ratings(run: Run) -> Iterator[Block]:
    """What people said."""
    for folder in run.folders:
        if scales := rated_in(folder):
            yield from _ratings_of({s.name: s.label for s in run.systems if s.folder == folder}, scales)


def _ratings_of(labels: Mapping[str, str], scales: Mapping[str, Any]) -> Iterator[Block]:
    means: Table = [["system", *scales, "ratings"]]
    for name in labels:
        of = [scale["systems"].get(name) for scale in scales.values()]
        if any(of):
            means.append([labels[name], *map(_points, of), str(sum(one["n"] for one in of if one))])
    yield TableBlock(means, "Points from 0 to 5, mean over annotators and prompts [95 % interval over prompts].")
    agreement: Table = [["", *scales]]
    agreement.append(["alpha", *("-" if s["alpha"] is None else f"{s['alpha']:.3f}" for s in scales.values())])
    agreement.append(["answers rated by two or more", *(str(s["units"]) for s in scales.values())])
    yield TableBlock(agreement, "Agreement of annotators: Krippendorff's alpha for ordinal data.")
    pairs: Table = [["difference", *scales, "prompts"]]
    found = dict.fromkeys((one["ours"], one["theirs"]) for scale in scales.values() for one in scale["differences"])
    for ours, theirs in found:
        cells, prompts = [], []
        for scale in scales.values():
            one = [d for d in scale["differences"] if (d["ours"], d["theirs"]) == (ours, theirs)]
            cells.append(_points(one[0] if one else None, "+"))
            prompts += [d["prompts"] for d in one]
        pairs.append([f"{labels.get(ours, ours)} - {labels.get(theirs, theirs)}", *cells, str(min(prompts))])
    if len(pairs) > 1:
        yield TableBlock(
            pairs, f"Paired by annotator and prompt; of fewer than {LEAST_CLAIMED} prompts nothing is claimed."
        )


def _points(one: Mapping[str, Any] | None, sign: str = "") -> str:
    if one is None:
        return "-"
    low, high = one["interval"]
    return f"{one['mean']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def judge(run: Run) -> Iterator[Block]:
    """What a model that judges said."""
    for folder in run.folders:
        labels = {system.name: system.label for system in run.systems if system.folder == folder}
        yield from _judge_of(labels, judge_summary(folder))


def _judge_of(labels: Mapping[str, str], found: Mapping[str, Any]) -> Iterator[Block]:
    table: Table = [["system", "rows", "all stages", "last stage", "each stage", *UNPARSED_HEADS]]
    for name, one in found["systems"].items():
        shares = [_judged(one[key]) for key in ("accuracy", "last_accuracy", "stage_accuracy")]
        table.append([labels.get(name, name), str(one["n"]), *shares, *unparsed_cells(one)])
    if len(table) > 1:
        said = "What a model that judges said; unparsed replies are no failures and are not counted."
        yield TableBlock(table, f"{said} {changed_text(found)}".rstrip())
    pairs: Table = [["pair", "rows", "first", "second", "tie", "orders disagree", "unparsed"]]
    for name, one in found["pairs"].items():
        both = [labels.get(part, part) for part in name.split("--")]
        counts = [one[key] for key in ("n", "first", "second", "tie", "disagreed", UNPARSED)]
        pairs.append([" against ".join(both), *map(str, counts)])
    if len(pairs) > 1:
        yield TableBlock(pairs, "Preferred in both orders of showing.")


def _judged(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else share(Mean(found["share"], found["interval"][0], found["interval"][1], 0))
