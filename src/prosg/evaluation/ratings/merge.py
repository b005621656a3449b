"""`prosg rate --merge`: mean ratings over all annotators, their agreement, and paired differences between systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from prosg.evaluation.ratings.alpha import ordinal_alpha
from prosg.evaluation.ratings.items import SCALES, left_out_text, read_items
from prosg.evaluation.ratings.store import count_stale_ratings, current_ratings, find_annotators
from prosg.evaluation.statistics import LEAST_CLAIMED, bootstrap_interval
from prosg.utils.tables import Table, counted, to_text

__all__ = ["merge_ratings", "merged_ratings_text"]

AnswerRatings = Mapping[tuple[str, str, str], int]
"""Values of one scale by (annotator, row id, system's name in reports)."""


def merge_ratings(runs: Sequence[str | Path]) -> dict[str, Any]:
    """Merges all annotators' ratings of some evaluations.

    Returns:
        {"annotators": names, "ratings": number that count, "ignored": number of ratings whose answer has changed or
        whose row is left out, "left_out": number of rows left out since a system has no answer to them, "files": {NAME:
        name of the system's file of answers}, "scales": {SCALE: {"systems": {NAME: MEAN}, "alpha", "units",
        "differences": [{"ours": NAME, "theirs": NAME} | MEAN]}}}. NAME is a system's name in reports.

        MEAN is {"mean", "interval": [low, high], "n": ratings, "prompts"} with a 95 % bootstrap interval over prompts.
        Systems' means are in points from 0 to 5. Differences are ours minus theirs, wherever one annotator rated both
        on one prompt. `alpha` is Krippendorff's alpha for ordinal data, None where it is undefined, and `units` the
        number of answers with two or more ratings.

    Raises:
        ValueError: For runs that cannot be read, and where nothing is rated.
    """
    items, left_out = read_items(runs)
    annotators = find_annotators(items)
    ratings = {(who, *key): value for who in annotators for key, value in current_ratings(items, who).items()}
    ignored = sum(count_stale_ratings(items, who) for who in annotators)
    if not ratings:
        if ignored:
            raise ValueError(f"{runs[0]}: has no rating that counts; {_ignored_text(ignored)}")
        raise ValueError(f"{runs[0]}: has no ratings yet; start with prosg rate {runs[0]}")
    files = {candidate.name: candidate.system for item in items for candidate in item.candidates}
    scales = {}
    for scale in SCALES:
        values = {(who, row, name): value for (who, row, name, which), value in ratings.items() if which == scale}
        scales[scale] = _merge_scale([*files], values)
    counts = {"ratings": len(ratings), "ignored": ignored, "left_out": left_out}
    return {"annotators": annotators, **counts, "files": files, "scales": scales}


def _merge_scale(names: Sequence[str], values: AnswerRatings) -> dict[str, Any]:
    units: dict[tuple[str, str], list[int]] = {}
    for (_, row, name), value in values.items():
        units.setdefault((row, name), []).append(value)
    systems = {}
    for name in names:
        if own_values := [(row, float(value)) for (_, row, which), value in values.items() if which == name]:
            systems[name] = _mean(own_values)
    differences = []
    for ours, theirs in combinations(systems, 2):
        paired = [
            (row, float(value - values[who, row, theirs]))
            for (who, row, name), value in values.items()
            if name == ours and (who, row, theirs) in values
        ]
        if paired:
            differences.append({"ours": ours, "theirs": theirs, **_mean(paired)})
    return {
        "systems": systems,
        "alpha": ordinal_alpha(list(units.values())),
        "units": sum(len(unit) > 1 for unit in units.values()),
        "differences": differences,
    }


def _mean(values: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Mean of (row id, value) with an interval over rows."""
    rows, numbers = [row for row, _ in values], [number for _, number in values]
    low, high = bootstrap_interval(numbers, rows)
    mean = sum(numbers) / len(numbers)
    return {"mean": mean, "interval": [low, high], "n": len(numbers), "prompts": len(set(rows))}


def merged_ratings_text(merged: Mapping[str, Any]) -> str:
    """The result of `merge_ratings` as tables for a terminal."""
    scales = merged["scales"]
    names = list(dict.fromkeys(name for scale in scales.values() for name in scale["systems"]))
    means: Table = [["0 to 5, mean [95 %]", *scales, "ratings"]]
    for name in names:
        per_scale = [scale["systems"].get(name) for scale in scales.values()]
        ratings = sum(mean["n"] for mean in per_scale if mean)
        means.append([name, *(_mean_text(mean) for mean in per_scale), str(ratings)])
    agreement: Table = [["agreement of annotators", *scales]]
    agreement.append(
        ["Krippendorff's alpha", *("-" if s["alpha"] is None else f"{s['alpha']:.3f}" for s in scales.values())]
    )
    agreement.append(["answers rated by two or more", *(str(scale["units"]) for scale in scales.values())])
    pairs: Table = [["paired differences", *scales, "prompts"]]
    fewest = LEAST_CLAIMED
    for ours, theirs in combinations(names, 2):
        cells, prompts = [], []
        for scale in scales.values():
            of_pair = [d for d in scale["differences"] if (d["ours"], d["theirs"]) == (ours, theirs)]
            cells.append(_mean_text(of_pair[0] if of_pair else None, "+"))
            prompts += [difference["prompts"] for difference in of_pair]
        fewest = min([fewest, *prompts])
        pairs.append([f"{ours} - {theirs}", *cells, str(min(prompts, default=0))])
    annotators = merged["annotators"]
    head = f"{counted(len(annotators), 'annotator')} ({', '.join(annotators)}), {counted(merged['ratings'], 'rating')}"
    if merged["ignored"]:
        head += f"; {_ignored_text(merged['ignored'])}"
    if merged["left_out"]:
        head += f"\n{left_out_text(merged['left_out'])}"
    tables = [means, agreement, *([pairs] if len(pairs) > 1 else [])]
    note = [f"Of fewer than {LEAST_CLAIMED} prompts no difference is claimed."] if fewest < LEAST_CLAIMED else []
    return "\n\n".join([head, *map(to_text, tables), *note])


def _ignored_text(number: int) -> str:
    return f"{number} more do not count, since answers have changed or rows are left out"


def _mean_text(mean: Mapping[str, Any] | None, sign: str = "") -> str:
    if mean is None:
        return "-"
    low, high = mean["interval"]
    return f"{mean['mean']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
