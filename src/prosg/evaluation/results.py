"""A finished evaluation, read back: every system's values, row by row, and what they amount to.

A *value* belongs to one row (a prompt): whether all its stages are right, its late stage, its nats per token. Means
and intervals are over rows; differences are paired by row. Seeds of one label stay apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.checks import score
from prosg.data.row import Row, derived_id, read_rows
from prosg.evaluation.answer_cache import Answer
from prosg.evaluation.config import MEASURES, SystemConfig
from prosg.evaluation.ifeval.scoring import IFEvalResult, score_ifeval
from prosg.evaluation.rows import as_ifeval
from prosg.evaluation.statistics import bootstrap_interval, paired_difference
from prosg.model.perplexity import RowScore, summarize
from prosg.utils.io import read_json
from prosg.utils.options import build
from prosg.utils.store import read_log

__all__ = ["Mean", "Run", "System", "compare", "ifeval_of", "mean_of", "read_results", "result_rows"]


class Mean(NamedTuple):
    """Over rows, with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_of(values: Mapping[str, float]) -> Mean | None:
    """Of values by row id; None of none."""
    if not values:
        return None
    numbers = list(values.values())
    return Mean(sum(numbers) / len(numbers), *bootstrap_interval(numbers, list(values)), len(numbers))


def compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Mean | None:
    """Ours - theirs on the rows that both have; None where they share none."""
    both = [name for name in ours if name in theirs]
    if not both:
        return None
    return Mean(*paired_difference([ours[name] for name in both], [theirs[name] for name in both]), len(both))


@dataclass(frozen=True)
class System:
    """One system's results. What was not measured is empty, or None."""

    folder: Path
    name: str
    config: SystemConfig
    backbone: str
    fingerprint: str
    """of its weights; "" for an endpoint"""
    staged: frozenset[str]
    """rows that have a late stage"""
    answers: Mapping[str, Answer]
    verdicts: Mapping[str, tuple[bool | None, ...]]
    """by row: each stage right, wrong, or not decided (no check, no judge)"""
    scores: Mapping[str, RowScore]
    curve: Sequence[Mapping[str, Any]]
    capacity: Sequence[Mapping[str, Any]]
    overhead: Mapping[str, Any] | None
    left_out: Mapping[str, str]
    """measure -> why"""
    refused: int
    """rows that an endpoint gave no answer to, but an error or something that is no reply"""
    read_again: float | None
    """tokens of the prompt that were read again while an answer was written, mean over answers"""
    seconds: float

    @property
    def label(self) -> str:
        return self.config.label

    @property
    def right(self) -> dict[str, float]:
        """Rows of which every stage is decided: 1 where all are right."""
        return {
            name: float(all(stages))
            for name, stages in self.verdicts.items()
            if stages and all(stage is not None for stage in stages)
        }

    @property
    def late(self) -> dict[str, float]:
        """Rows with a late stage that is decided."""
        return {
            name: float(stages[-1])
            for name, stages in self.verdicts.items()
            if name in self.staged and stages[-1] is not None
        }

    def stage(self, number: int) -> dict[str, float]:
        """The same of the stage with this number, from 0."""
        return {
            name: float(bool(stages[number]))
            for name, stages in self.verdicts.items()
            if len(stages) > number and stages[number] is not None
        }

    @property
    def nats(self) -> dict[str, float]:
        """Each answer's mean negative log-likelihood per token."""
        return {name: one.nll / one.tokens for name, one in self.scores.items()}

    @property
    def distances(self) -> dict[int, int]:
        """Sentences of the curve's stories -> mean distance in tokens."""
        return _distances(self.curve)

    def read_again_at(self, sentences: int) -> float | None:
        """Tokens of the prompt that were read again in the curve's answers at one length, mean over answers."""
        found = [one["read_again"] for one in self.curve if one["sentences"] == sentences and "read_again" in one]
        return sum(found) / len(found) if found else None

    def late_at(self, sentences: int, kind: str = "all") -> dict[str, float]:
        """The curve's late stages at one length."""
        chosen = (one for one in self.curve if one["sentences"] == sentences and kind in ("all", one["kind"]))
        return {one["id"]: float(one["right"][-1]) for one in chosen}

    def all_at(self, sentences: int, kind: str = "all") -> dict[str, float]:
        """The curve's answers of which all stages are right."""
        chosen = (one for one in self.curve if one["sentences"] == sentences and kind in ("all", one["kind"]))
        return {one["id"]: float(all(one["right"])) for one in chosen}

    @property
    def items(self) -> list[int]:
        """Numbers of items of the capacity curve."""
        return sorted({one["items"] for one in self.capacity})

    def late_with(self, items: int) -> dict[str, float]:
        """The late stages with so many items."""
        return {one["id"]: float(one["right"][-1]) for one in self.capacity if one["items"] == items}


def _distances(answers: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    found: dict[int, list[int]] = defaultdict(list)
    for one in answers:
        found[one["sentences"]].append(one["distance_tokens"])
    return {sentences: round(sum(tokens) / len(tokens)) for sentences, tokens in sorted(found.items())}


@dataclass(frozen=True)
class Run:
    """One evaluation."""

    folder: Path
    config: Mapping[str, Any]
    rows: Mapping[str, Row]
    systems: Sequence[System]
    missing: Sequence[str]
    """"SYSTEM: MEASURE" that should be there and is not"""

    @property
    def reference(self) -> str:
        """The label that the others are compared with."""
        return str(self.config["reference"]) or self.systems[0].label

    @property
    def folders(self) -> list[Path]:
        """Of this run, or of those that stand side by side in it."""
        return list(dict.fromkeys(system.folder for system in self.systems))

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(system.label for system in self.systems))

    def of(self, label: str) -> list[System]:
        """The seeds of a label."""
        return [system for system in self.systems if system.label == label]


def read_results(path: str | Path) -> Run:
    """Read a folder. ValueError for one that is no evaluation's, or holds what does not fit together."""
    folder = Path(path)
    for name in ("config.json", "rows.jsonl", "systems.json", "plan.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: has no {name}; name the folder of an evaluation (prosg eval)")
    config = read_json(folder / "config.json")
    rows = {row.id: row for row in read_rows(folder / "rows.jsonl", need_answers=False)}
    plan = read_json(folder / "plan.json")
    systems, missing = [], []
    for name, options in read_json(folder / "systems.json").items():
        wanted = [measure for measure in MEASURES if measure in config["measures"]]
        parts = {measure: _part(folder / "parts" / name / f"{measure}.json", plan[name][measure]) for measure in wanted}
        missing += [f"{name}: {measure}" for measure, part in parts.items() if part is None]
        systems.append(_system(folder, name, build(SystemConfig, options), rows, parts))
    return Run(folder, config, rows, systems, missing)


def _part(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A part, if it is there and was made under these settings: what is left of others counts as missing."""
    part = read_json(path) if path.exists() else None
    return part if part is not None and part.get("settings") == settings else None


def _system(
    folder: Path, name: str, config: SystemConfig, rows: Mapping[str, Row], parts: Mapping[str, dict[str, Any] | None]
) -> System:
    found = {measure: part["result"] for measure, part in parts.items() if part is not None}
    left_out = {measure: str(result["left_out"]) for measure, result in found.items() if "left_out" in result}
    found = {measure: result for measure, result in found.items() if measure not in left_out}
    file = folder / "answers" / f"{name}.jsonl"
    answers = {line["id"]: Answer(**line) for line in read_log(file)} if "accuracy" in found else {}
    judged = {line["id"]: line for line in read_log(folder / "judge" / f"{name}.jsonl")}
    answers = {key: answer for key, answer in answers.items() if key in rows}
    verdicts = {key: _verdicts(rows[key], answer.text, judged.get(key)) for key, answer in answers.items()}
    about: Mapping[str, Any] = next((part for part in parts.values() if part is not None), {})
    return System(
        folder,
        name,
        config,
        str(about.get("backbone", "")),
        str(about.get("fingerprint", "")),
        frozenset(name for name, stages in verdicts.items() if len(stages) > 1 and as_ifeval(rows[name]) is None),
        answers,
        verdicts,
        {key: RowScore(**one) for key, one in found.get("perplexity", {}).items()},
        found.get("curve", {}).get("answers", []),
        found.get("capacity", {}).get("answers", []),
        found.get("overhead"),
        left_out,
        found.get("accuracy", {}).get("refused", 0),
        found.get("accuracy", {}).get("read_again"),
        sum((part["seconds"] for part in parts.values() if part is not None), 0.0),
    )


def _verdicts(row: Row, text: str, judged: Mapping[str, Any] | None) -> tuple[bool | None, ...]:
    """By programmatic checks where the row has them, else by the judge, unless what it judged was another answer.

    IFEval's instructions are checked strictly.
    """
    if (asked := as_ifeval(row)) is not None:
        return tuple(instruction.followed_by(text) for instruction in asked.instructions)
    if row.stages:
        return tuple(score(row, text))
    known = judged is not None and judged.get("answer", "") in ("", derived_id(row.prompt, text))
    stages = judged["stages"] if judged is not None and known else []
    return tuple({"pass": True, "fail": False}.get(stage["result"]) for stage in stages) or (None,)


def result_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Long-form rows: one per system, kind of instruction and distance (or number of items)."""
    for system in run.systems:
        update = "none" if system.config.endpoint else system.config.update
        common: dict[str, Any] = {
            "backbone": system.backbone,
            "system": system.label,
            "seed": system.config.seed,
            "split": run.config["data"]["split"],
            "update": update,
            "state": system.config.state,
        }
        if (found := ifeval_of(run, system)) is not None:
            yield from ({**common, **row} for row in found.to_rows())
        if system.answers or system.scores:
            yield {**common, "measure": "free", "kind": "all", **_free(system)}
        for sentences, tokens in system.distances.items():
            for kind in ("all", *sorted({one["kind"] for one in system.curve})):
                late = mean_of(system.late_at(sentences, kind))
                whole = mean_of(system.all_at(sentences, kind))
                assert late is not None and whole is not None
                yield {
                    **common,
                    "measure": "curve",
                    "kind": kind,
                    "sentences": sentences,
                    "distance_tokens": tokens,
                    "in_range": sentences == min(system.distances),
                    "n": late.n,
                    "accuracy": whole.mean,
                    "late_accuracy": late.mean,
                    "late_interval": [late.low, late.high],
                }
        for items in system.items:
            late = mean_of(system.late_with(items))
            assert late is not None
            yield {
                **common,
                "measure": "capacity",
                "kind": run.config["capacity"]["kind"],
                "items": items,
                "n": late.n,
                "late_accuracy": late.mean,
                "late_interval": [late.low, late.high],
            }


def ifeval_of(run: Run, system: System) -> IFEvalResult | None:
    """The published measures of a system's answers; None for rows of another suite, and before there are answers."""
    asked = {name: row for name, answer in run.rows.items() if (row := as_ifeval(answer)) and name in system.answers}
    if not asked:
        return None
    return score_ifeval(list(asked.values()), [system.answers[name].text for name in asked])


def _free(system: System) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(system.answers or system.scores)}
    for key, values in (("accuracy", system.right), ("late_accuracy", system.late)):
        mean = mean_of(values)
        found[key] = None if mean is None else mean.mean
        found[key.replace("accuracy", "interval")] = None if mean is None else [mean.low, mean.high]
    scores = summarize(list(system.scores.values())) if system.scores else None
    found["perplexity"] = scores.perplexity if scores else None
    found["sample_perplexity"] = scores.sample_perplexity if scores else None
    found["late_perplexity"] = scores.late_perplexity if scores else None
    found["undecided"] = sum(None in stages for stages in system.verdicts.values())
    return found
