"""The measures of one system that runs here, each from its model to what its file holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from prosg.core.encoded import EncodedPrompt
from prosg.data.checks import score
from prosg.data.row import Row
from prosg.data.synthetic import KINDS, Setting, make_rows
from prosg.evaluation.answer_cache import Answer, Answers, answer_key, batched
from prosg.evaluation.config import EvalConfig, SystemConfig
from prosg.evaluation.forgetting import LateStages, length_controlled
from prosg.evaluation.overhead import overhead
from prosg.evaluation.rows import kinds_of, training_rows
from prosg.evaluation.systems.local import LocalSystem
from prosg.model.prosg import ProSG
from prosg.utils.io import write_lines

__all__ = ["PARTS", "Subject", "write_answers"]


@runtime_checkable
class Tell(Protocol):
    """Gets the share done, and what is being done."""

    def __call__(self, share: float, note: str = "") -> None: ...


@dataclass(frozen=True)
class Subject:
    """A system, loaded, and what it is asked."""

    config: EvalConfig
    name: str
    system: SystemConfig
    model: ProSG
    rows: Sequence[Row]
    kept: Answers
    tell: Tell

    def asked(self, rows: Sequence[Row]) -> LocalSystem:
        """The system before these rows."""
        training = {}
        if self.system.update == "mean":
            training = training_rows(self.config, sorted({row.kind for row in rows}))
        end = self.config.generation.end_token
        return LocalSystem(self.system, self.model, rows, training, self.config.data.seed, end)


def write_answers(config: EvalConfig, name: str, answers: Sequence[Answer]) -> None:
    """answers/NAME.jsonl, whole."""
    lines = (json.dumps(answer._asdict(), ensure_ascii=False) for answer in answers)
    write_lines(config.folder / "answers" / f"{name}.jsonl", lines)


def accuracy(subject: Subject) -> Any:
    """Answers, written freely; what is right in them the report says, by checks and judge."""
    config = subject.config
    asked = subject.asked(subject.rows)
    keys = [answer_key(settings) for settings in asked.settings(config.generation)]
    answers = batched(
        keys,
        [row.id for row in subject.rows],
        config.batch_size,
        subject.kept,
        lambda indices: asked.write(indices, config.generation),
        subject.tell,
    )
    write_answers(config, subject.name, answers)
    return {"answers": len(answers), "read_again": _read_again(subject, asked, answers)}


def _read_again(subject: Subject, asked: LocalSystem, answers: Sequence[Answer]) -> float | None:
    """Tokens of the prompt that were read again, mean over answers; None where none are."""
    every = subject.system.replay_every
    if not every:
        return None
    longest = subject.config.generation.max_tokens  # what is written last there, nothing is read after
    times = (min(answer.tokens, longest - 1) // every for answer in answers)
    return sum(n * len(row.prompt) for n, row in zip(times, asked.encoded_rows, strict=True)) / len(answers)


def perplexity(subject: Subject) -> Any:
    """Every row's negative log-likelihood, by id."""
    if subject.system.replay_every:
        return {"left_out": "the prompt is read again while an answer is written, and here none is"}
    if any(not row.answer for row in subject.rows):
        return {"left_out": "the rows have no answers to score"}
    scores = subject.asked(subject.rows).scores(subject.config.batch_size)
    return {row.id: one._asdict() for row, one in zip(subject.rows, scores, strict=True)}


def curve(subject: Subject) -> Any:
    """Late-stage accuracy at every distance, on made rows."""
    data, options = subject.config.data, subject.config.curve
    if leaking := [kind for kind in kinds_of(subject.config) if KINDS[kind].leaks or not KINDS[kind].staged]:
        return {"left_out": f"kinds that restate what they ask for, or have no late stage: {', '.join(leaking)}"}
    first = options.sentences[0]
    rows = make_rows(kinds_of(subject.config), options.rows, data.seed, data.split, sentences=(first, first))
    return _controlled(subject, rows, options.sentences, {})


def capacity(subject: Subject) -> Any:
    """Late-stage accuracy against the number of items."""
    data, options = subject.config.data, subject.config.capacity
    if KINDS[options.kind].leaks or not KINDS[options.kind].staged:
        return {"left_out": f"kind {options.kind} restates what it asks for, or has no late stage"}
    found: list[dict[str, Any]] = []
    for number, items in enumerate(options.items):
        rows = make_rows(
            (options.kind,),
            options.rows,
            data.seed,
            data.split,
            sentences=(options.sentences, options.sentences),
            setting=Setting(items=(items, items)),
        )

        def tell(share: float, note: str = "", number: int = number) -> None:
            subject.tell((number + share) / len(options.items), note)

        result = _controlled(subject, rows, [options.sentences], {"items": items}, tell)
        found += result["answers"]
    return {"answers": found}


def _controlled(
    subject: Subject,
    rows: Sequence[Row],
    sentences: Sequence[int],
    labels: dict[str, Any],
    tell: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Length-controlled answers to rows, and which stages of each are right."""
    asked = subject.asked(rows)
    size = subject.config.batch_size
    parts = [asked.encode(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]
    late_stages = LateStages(
        subject.model.backbone,
        subject.model.tokenizer,
        asked.encoded_rows,
        [row.stages[-1].marker for row in asked.rows],
        replay=subject.system.late_replay,
        end_token=subject.config.generation.end_token,
    )
    cells = length_controlled(
        late_stages,
        EncodedPrompt.join(parts),
        sentences,
        subject.config.data.seed,
        replay=asked.again(range(len(rows))),
        tell=tell or subject.tell,
    )
    answers = []
    every, late = subject.system.replay_every, subject.system.late_replay
    for length, cell in zip(sentences, cells, strict=True):
        for row, encoded, written in zip(asked.rows, asked.encoded_rows, cell, strict=True):
            right = score(row, written.text, length_controlled=True)
            times = (written.distance_tokens // every if every else 0) + late
            answers.append(
                {**labels, "id": row.id, "kind": row.kind, "sentences": length, "text": written.text}
                | {"distance_tokens": written.distance_tokens, "right": right}
                | ({"read_again": times * len(encoded.prompt)} if every or late else {})
            )
    return {"answers": answers}


def costs(subject: Subject) -> Any:
    """Time and bytes."""
    return overhead(subject.model, subject.config.overhead)


PARTS: dict[str, Callable[[Subject], Any]] = {
    "accuracy": accuracy,
    "perplexity": perplexity,
    "curve": curve,
    "capacity": capacity,
    "overhead": costs,
}
