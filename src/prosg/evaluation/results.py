"""Results of an evaluation: every system's values, row by row, and what they amount to.

A *value* belongs to one row (a prompt): whether all its stages are right, its late stage, its nats per token. Means
and intervals are over rows; differences are paired by row. Seeds of one label stay apart. A distance is a system's own:
the mean over tokens that it generated, never a mean over systems.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.row import Row
from prosg.evaluation.answer_cache import Answer
from prosg.evaluation.config import SystemConfig
from prosg.evaluation.places import Place
from prosg.generation.text import NOT_FINITE
from prosg.model.perplexity import RowScore

__all__ = ["CurveAnswer", "Run", "SystemResult"]


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
    """tokens of prompt and answer that were read again on the way"""
    finite: bool
    """whether the model's logits were numbers all along; where not, every stage counts as wrong"""
    prompt_tokens: int | None
    """length of the prompt, where lengths were asked for"""

    @classmethod
    def of(cls, answer: Mapping[str, Any], *, of_capacity: bool = False) -> CurveAnswer:
        """An answer as it stands in files."""
        prompt_tokens = answer.get("prompt_tokens")
        return cls(
            answer["id"],
            answer["kind"],
            Place.of({**answer, "prompt_tokens": None})._replace(of_capacity=of_capacity),
            answer["text"],
            answer["distance_tokens"],
            tuple(answer["right"]),
            answer.get("read_again"),
            answer.get("finite", True),
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
        memory: What held its prompts: none, anchor, update or both; "" for an endpoint.
        staged: Ids of rows that have a late stage.
        answers: What it wrote freely, by row.
        verdicts: By row: each stage right, wrong, or not decided (no check, no judge).
        scores: Likelihoods of the rows' own answers.
        curve: Length-controlled answers of the forgetting curve.
        capacity: Those of the capacity curve.
        overhead: Time and bytes.
        left_out: Measure -> why it was left out.
        refused: Rows that an endpoint gave no answer to, but an error or something that is no reply.
        read_again: Tokens of prompt and answer that were read again while an answer was written, mean over answers.
        seconds: That measuring took.
    """

    folder: Path
    name: str
    config: SystemConfig
    backbone: str = ""
    fingerprint: str = ""
    memory: str = ""
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
    def held_by(self) -> str:
        """What sentences call what holds its prompts."""
        return {"anchor": "anchor", "both": "update and anchor", "auto": "update or anchor"}.get(self.memory, "update")

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
        """Tokens of prompt and answer that were read again on the way to a place, mean over answers."""
        tokens = [answer.read_again for answer in self.at(place) if answer.read_again is not None]
        return sum(tokens) / len(tokens) if tokens else None

    @property
    def not_finite(self) -> int:
        """Answers in which the model's logits were no numbers any more."""
        return sum(not answer.finite for answer in (*self.curve, *self.capacity)) + sum(
            answer.reason == NOT_FINITE for answer in self.answers.values()
        )


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
