"""Results of an evaluation: every system's values, row by row, and what they amount to.

A *value* belongs to one row (a prompt): whether all its stages are right, its late stage, its nats per token. Means
and intervals are over rows; differences are paired by row. Seeds of one label stay apart. A distance is a system's own:
the mean over tokens that it generated, never a mean over systems.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.checks import check_stages
from prosg.data.row import Row, derived_id
from prosg.evaluation.answer_cache import Answer
from prosg.evaluation.config import SystemConfig
from prosg.evaluation.ifeval.scoring import IFEvalResult, score_ifeval
from prosg.evaluation.places import Place
from prosg.evaluation.rows import as_ifeval
from prosg.evaluation.statistics import bootstrap_interval, paired_difference
from prosg.model.perplexity import RowScore, summarize

__all__ = [
    "CurveAnswer",
    "Mean",
    "ResultRow",
    "Run",
    "SystemResult",
    "compare",
    "ifeval_of",
    "mean_of",
    "result_rows",
    "system_result",
]


class Mean(NamedTuple):
    """A mean over rows with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_of(values: Mapping[str, float]) -> Mean | None:
    """The mean of values by row id; None of none."""
    if not values:
        return None
    numbers = list(values.values())
    return Mean(sum(numbers) / len(numbers), *bootstrap_interval(numbers, list(values)), len(numbers))


def compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Mean | None:
    """The mean of ours - theirs over the rows that both have; None where they share none."""
    both = [name for name in ours if name in theirs]
    if not both:
        return None
    return Mean(*paired_difference([ours[name] for name in both], [theirs[name] for name in both]), len(both))


class CurveAnswer(NamedTuple):
    """A length-controlled answer."""

    id: str
    kind: str
    place: Place
    text: str
    distance_tokens: int
    """tokens before the late stage"""
    right: tuple[bool, ...]
    """by stage"""
    read_again: int | None
    """tokens of the prompt that were read again on the way"""
    prompt_tokens: int | None
    """length of the prompt, where lengths were asked for"""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> CurveAnswer:
        """An answer as it stands in files."""
        prompt_tokens = answer.get("prompt_tokens")
        return cls(
            answer["id"],
            answer["kind"],
            Place.of({**answer, "prompt_tokens": None}),
            answer["text"],
            answer["distance_tokens"],
            tuple(answer["right"]),
            answer.get("read_again"),
            prompt_tokens,
        )


@dataclass(frozen=True)
class SystemResult:
    """One system's results. What was not measured is empty, or None.

    Attributes:
        folder: Of the evaluation.
        name: Of the system.
        config: Its options.
        backbone: Type of its backbone.
        fingerprint: Of its weights; "" for an endpoint.
        staged: Ids of rows that have a late stage.
        answers: What it wrote freely, by row.
        verdicts: By row: each stage right, wrong, or not decided (no check, no judge).
        scores: Likelihoods of the rows' own answers.
        curve: Length-controlled answers of the forgetting curve.
        capacity: Those of the capacity curve.
        overhead: Time and bytes.
        left_out: Measure -> why it was left out.
        refused: Rows that an endpoint gave no answer to, but an error or something that is no reply.
        read_again: Tokens of the prompt that were read again while an answer was written, mean over answers.
        seconds: That measuring took.
    """

    folder: Path
    name: str
    config: SystemConfig
    backbone: str = ""
    fingerprint: str = ""
    staged: frozenset[str] = frozenset()
    answers: Mapping[str, Answer] = dataclasses.field(default_factory=dict)
    verdicts: Mapping[str, tuple[bool | None, ...]] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, RowScore] = dataclasses.field(default_factory=dict)
    curve: Sequence[CurveAnswer] = ()
    capacity: Sequence[CurveAnswer] = ()
    overhead: Mapping[str, Any] | None = None
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    refused: int = 0
    read_again: float | None = None
    seconds: float = 0.0

    @property
    def label(self) -> str:
        """What reports call it."""
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
        """Rows with a late stage that is decided: 1 where it is right."""
        return {
            name: float(stages[-1])
            for name, stages in self.verdicts.items()
            if name in self.staged and stages[-1] is not None
        }

    def stage(self, number: int) -> dict[str, float]:
        """Rows whose stage of this number, from 0, is decided: 1 where it is right."""
        return {
            name: float(bool(stages[number]))
            for name, stages in self.verdicts.items()
            if len(stages) > number and stages[number] is not None
        }

    @property
    def nats(self) -> dict[str, float]:
        """Mean negative log-likelihood per token of each row's answer."""
        return {name: row.nll / row.tokens for name, row in self.scores.items()}

    @property
    def places(self) -> list[Place]:
        """The places of its curve, in the order in which they were measured."""
        return list(dict.fromkeys(answer.place for answer in self.curve))

    def at(self, place: Place, kind: str = "all") -> list[CurveAnswer]:
        """The answers at a place, of either curve."""
        here = [answer for answer in (*self.curve, *self.capacity) if answer.place == place]
        return [answer for answer in here if kind in ("all", answer.kind)]

    def distance(self, place: Place) -> int | None:
        """Tokens that it generated before the late stage, mean over rows; None where it was not measured."""
        tokens = [answer.distance_tokens for answer in self.at(place)]
        return round(sum(tokens) / len(tokens)) if tokens else None

    def late_at(self, place: Place, kind: str = "all") -> dict[str, float]:
        """By row, 1 where the late stage at a place is right."""
        return {answer.id: float(answer.right[-1]) for answer in self.at(place, kind)}

    def all_at(self, place: Place, kind: str = "all") -> dict[str, float]:
        """By row, 1 where all stages at a place are right."""
        return {answer.id: float(all(answer.right)) for answer in self.at(place, kind)}

    def read_again_at(self, place: Place) -> float | None:
        """Tokens of the prompt that were read again on the way to a place, mean over answers."""
        tokens = [answer.read_again for answer in self.at(place) if answer.read_again is not None]
        return sum(tokens) / len(tokens) if tokens else None


@dataclass(frozen=True)
class Run:
    """One evaluation, or several of the same rows side by side.

    Attributes:
        folder: Of the (first) evaluation.
        config: Its options.
        rows: What was asked, by id.
        systems: In the order of tables.
        missing: "SYSTEM: MEASURE" that should be there and is not.
        notes: Sections that whoever ran it adds: {"title", "blocks": [text, or {"table", "caption"}]}.
    """

    folder: Path
    config: Mapping[str, Any]
    rows: Mapping[str, Row]
    systems: Sequence[SystemResult]
    missing: Sequence[str] = ()
    notes: Sequence[Mapping[str, Any]] = ()

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
        """Of the systems, each once."""
        return list(dict.fromkeys(system.label for system in self.systems))

    def of(self, label: str) -> list[SystemResult]:
        """The seeds of a label."""
        return [system for system in self.systems if system.label == label]

    @property
    def places(self) -> list[Place]:
        """Places of any system's curve."""
        return list(dict.fromkeys(place for system in self.systems for place in system.places))


def system_result(
    folder: Path,
    name: str,
    config: SystemConfig,
    rows: Mapping[str, Row],
    parts: Mapping[str, Mapping[str, Any] | None],
    answers: Sequence[Answer],
    judged: Mapping[str, Mapping[str, Any]],
) -> SystemResult:
    """Puts together what the measures of a system gave.

    Args:
        folder: Of the evaluation.
        name: Of the system.
        config: Its options.
        rows: What was asked, by id.
        parts: What each measure gave; None where it is missing.
        answers: What the system wrote.
        judged: What a judge said, by row.
    """
    results = {measure: part["result"] for measure, part in parts.items() if part is not None}
    left_out = {measure: str(result["left_out"]) for measure, result in results.items() if "left_out" in result}
    results = {measure: result for measure, result in results.items() if measure not in left_out}
    by_row = {answer.id: answer for answer in answers if answer.id in rows} if "accuracy" in results else {}
    verdicts = {key: _verdicts(rows[key], answer.text, judged.get(key)) for key, answer in by_row.items()}
    about: Mapping[str, Any] = next((part for part in parts.values() if part is not None), {})
    return SystemResult(
        folder=folder,
        name=name,
        config=config,
        backbone=str(about.get("backbone", "")),
        fingerprint=str(about.get("fingerprint", "")),
        staged=frozenset(key for key, stages in verdicts.items() if len(stages) > 1 and as_ifeval(rows[key]) is None),
        answers=by_row,
        verdicts=verdicts,
        scores={key: RowScore(**values) for key, values in results.get("perplexity", {}).items()},
        curve=[CurveAnswer.of(answer) for answer in results.get("curve", {}).get("answers", [])],
        capacity=[CurveAnswer.of(answer) for answer in results.get("capacity", {}).get("answers", [])],
        overhead=results.get("overhead"),
        left_out=left_out,
        refused=results.get("accuracy", {}).get("refused", 0),
        read_again=results.get("accuracy", {}).get("read_again"),
        seconds=sum((part["seconds"] for part in parts.values() if part is not None), 0.0),
    )


def _verdicts(row: Row, text: str, judged: Mapping[str, Any] | None) -> tuple[bool | None, ...]:
    """By programmatic checks where the row has them, else by the judge, unless what it judged was another answer.

    IFEval's instructions are checked strictly.
    """
    if (asked := as_ifeval(row)) is not None:
        return tuple(instruction.followed_by(text) for instruction in asked.instructions)
    if row.stages:
        return tuple(check_stages(row, text))
    known = judged is not None and judged.get("answer", "") in ("", derived_id(row.prompt, text))
    stages = judged["stages"] if judged is not None and known else []
    return tuple({"pass": True, "fail": False}.get(stage["result"]) for stage in stages) or (None,)


def ifeval_of(run: Run, system: SystemResult) -> IFEvalResult | None:
    """IFEval's published measures of a system's answers; None for rows of another suite, and without answers."""
    asked = {name: row for name, answer in run.rows.items() if (row := as_ifeval(answer)) and name in system.answers}
    if not asked:
        return None
    return score_ifeval(list(asked.values()), [system.answers[name].text for name in asked])


@dataclass(frozen=True)
class ResultRow:
    """One cell of results, long-form: a system, a measure, a kind of instruction and a place.

    Attributes:
        backbone: Type of the backbone.
        system: Label of the system.
        seed: Of its training.
        split: Of the rows.
        update: Whose update acts: own, other, mean or none.
        state: kept or wiped.
        measure: "free" for answers of free length, "curve", "capacity".
        kind: Kind of instruction, or "all".
        n: Rows.
        accuracy: Share of rows of which all stages are right.
        late_accuracy: Share of rows whose late stage is right.
        late_interval: 95 % bootstrap interval of `late_accuracy` over rows.
        distance_tokens: Tokens generated before the late stage, mean over rows.
        in_range: Whether the story is of the first length of the curve.
        sentences: Length of the story that was asked for.
        prompt_tokens: Length of the prompts, mean over rows, where lengths were asked for.
        turns: Other turns in between.
        items: Items that a prompt gives.
        interval: 95 % interval of `accuracy`, of answers of free length.
        perplexity: Over all answer tokens of the rows' own answers.
        sample_perplexity: Mean over rows of each row's own.
        late_perplexity: Over the tokens of last stages.
        undecided: Answers with a stage that is neither right nor wrong.
    """

    backbone: str
    system: str
    seed: int
    split: str
    update: str
    state: str
    measure: str
    kind: str
    n: int
    accuracy: float | None = None
    late_accuracy: float | None = None
    late_interval: tuple[float, float] | None = None
    distance_tokens: int | None = None
    in_range: bool | None = None
    sentences: int | None = None
    prompt_tokens: int | None = None
    turns: int | None = None
    items: int | None = None
    interval: tuple[float, float] | None = None
    perplexity: float | None = None
    sample_perplexity: float | None = None
    late_perplexity: float | None = None
    undecided: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without what does not apply."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def result_rows(run: Run) -> Iterator[ResultRow]:
    """A run's results, long-form: per system, kind and place."""
    for system in run.systems:
        common: dict[str, Any] = {
            "backbone": system.backbone,
            "system": system.label,
            "seed": system.config.seed,
            "split": run.config["data"]["split"],
            "update": "none" if system.config.endpoint else system.config.update,
            "state": system.config.state,
        }
        if system.answers or system.scores:
            yield _free_row(system, common)
        for place in system.places:
            first = min(other.sentences for other in system.places)
            for kind in ("all", *sorted({answer.kind for answer in system.curve})):
                if system.at(place, kind):
                    yield _place_row(system, place, kind, {**common, "in_range": place.sentences == first}, "curve")
        for place in dict.fromkeys(answer.place for answer in system.capacity):
            yield _place_row(system, place, run.config["capacity"]["kind"], common, "capacity")


def _free_row(system: SystemResult, common: Mapping[str, Any]) -> ResultRow:
    right, late = mean_of(system.right), mean_of(system.late)
    scores = summarize(list(system.scores.values())) if system.scores else None
    return ResultRow(
        **common,
        measure="free",
        kind="all",
        n=len(system.answers or system.scores),
        accuracy=None if right is None else right.mean,
        interval=None if right is None else (right.low, right.high),
        late_accuracy=None if late is None else late.mean,
        late_interval=None if late is None else (late.low, late.high),
        perplexity=scores.perplexity if scores else None,
        sample_perplexity=scores.sample_perplexity if scores else None,
        late_perplexity=scores.late_perplexity if scores else None,
        undecided=sum(None in stages for stages in system.verdicts.values()),
    )


def _place_row(system: SystemResult, place: Place, kind: str, common: Mapping[str, Any], measure: str) -> ResultRow:
    answers = system.at(place, kind)
    late, whole = mean_of(system.late_at(place, kind)), mean_of(system.all_at(place, kind))
    assert late is not None and whole is not None
    prompts = [answer.prompt_tokens for answer in answers if answer.prompt_tokens is not None]
    return ResultRow(
        **common,
        measure=measure,
        kind=kind,
        n=late.n,
        accuracy=whole.mean,
        late_accuracy=late.mean,
        late_interval=(late.low, late.high),
        distance_tokens=round(sum(answer.distance_tokens for answer in answers) / len(answers)),
        sentences=place.sentences,
        prompt_tokens=round(sum(prompts) / len(prompts)) if prompts else None,
        turns=place.turns,
        items=place.items,
    )
