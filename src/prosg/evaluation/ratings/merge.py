"""`prosg rate --merge`: what all annotators said: means, agreement, paired differences between systems."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from prosg.evaluation.ratings.alpha import ordinal_alpha
from prosg.evaluation.ratings.items import SCALES, read_items
from prosg.evaluation.ratings.store import annotators, current, stale
from prosg.evaluation.statistics import bootstrap_interval
from prosg.utils.tables import Table, to_text

__all__ = ["merge", "merge_text"]


def merge(runs: Sequence[str | Path]) -> dict[str, Any]:
    """All ratings of the runs, for a report.

    {"annotators": names, "ratings": how many count, "ignored": lines about answers that are others by now,
     "scales": {SCALE: {"systems": {NAME: MEAN}, "alpha", "units", "differences": [{"ours", "theirs"} | MEAN]}}}

    MEAN: {"mean", "interval": [low, high], "n": ratings, "prompts"}, of systems points from 0 to 5, of differences ours
    minus theirs where one annotator rated both on one prompt. Intervals by bootstrap over prompts. alpha:
    Krippendorff's for ordinal data, None where it is undefined; units: answers that at least two annotators rated.
    ValueError where nothing is rated.
    """
    items, _ = read_items(runs)
    people = annotators(items)
    found = {(who, *key): value for who in people for key, value in current(items, who).items()}
    if not found:
        raise ValueError(f"{runs[0]}: has no ratings yet; start with prosg rate {runs[0]}")
    names = list(dict.fromkeys(candidate.name for item in items for candidate in item.candidates))
    scales = {}
    for scale in SCALES:
        values = {(who, row, name): value for (who, row, name, which), value in found.items() if which == scale}
        units: dict[tuple[str, str], list[int]] = {}
        for (_, row, name), value in values.items():
            units.setdefault((row, name), []).append(value)
        systems = {}
        for name in names:
            if own := [(row, float(value)) for (_, row, which), value in values.items() if which == name]:
                systems[name] = _mean(own)
        differences = []
        for ours, theirs in combinations(systems, 2):
            both = [
                (row, float(value - values[who, row, theirs]))
                for (who, row, name), value in values.items()
                if name == ours and (who, row, theirs) in values
            ]
            if both:
                differences.append({"ours": ours, "theirs": theirs, **_mean(both)})
        scales[scale] = {
            "systems": systems,
            "alpha": ordinal_alpha(list(units.values())),
            "units": sum(len(rated) > 1 for rated in units.values()),
            "differences": differences,
        }
    ignored = sum(stale(items, who) for who in people)
    return {"annotators": people, "ratings": len(found), "ignored": ignored, "scales": scales}


def _mean(values: Sequence[tuple[str, float]]) -> dict[str, Any]:
    rows, numbers = [row for row, _ in values], [number for _, number in values]
    low, high = bootstrap_interval(numbers, rows)
    mean = sum(numbers) / len(numbers)
    return {"mean": mean, "interval": [low, high], "n": len(numbers), "prompts": len(set(rows))}


def merge_text(found: dict[str, Any]) -> str:
    """The tables of `merge`, for a terminal."""
    scales = found["scales"]
    names = list(dict.fromkeys(name for scale in scales.values() for name in scale["systems"]))
    means: Table = [["0 to 5, mean [95 %]", *scales, "ratings"]]
    for name in names:
        of = [scale["systems"].get(name) for scale in scales.values()]
        means.append([name, *(_told(one, "") for one in of), str(sum(one["n"] for one in of if one))])
    agreement: Table = [["agreement of annotators", *scales]]
    agreement.append(
        ["Krippendorff's alpha", *("-" if s["alpha"] is None else f"{s['alpha']:.3f}" for s in scales.values())]
    )
    agreement.append(["answers rated by two or more", *(str(scale["units"]) for scale in scales.values())])
    pairs: Table = [["paired differences", *scales]]
    for ours, theirs in combinations(names, 2):
        cells = []
        for scale in scales.values():
            one = [d for d in scale["differences"] if (d["ours"], d["theirs"]) == (ours, theirs)]
            cells.append(_told(one[0] if one else None, "+"))
        pairs.append([f"{ours} - {theirs}", *cells])
    head = f"{len(found['annotators'])} annotators ({', '.join(found['annotators'])}), {found['ratings']} ratings"
    if found["ignored"]:
        head += f"; {found['ignored']} more are of answers that are others by now"
    tables = [means, agreement, *([pairs] if len(pairs) > 1 else [])]
    return "\n\n".join([head, *map(to_text, tables)])


def _told(one: dict[str, Any] | None, sign: str) -> str:
    if one is None:
        return "-"
    low, high = one["interval"]
    return f"{one['mean']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
