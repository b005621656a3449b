"""The measures of a system that runs here, each from a loaded model to JSON values.

accuracy    answers, written freely; checks and judges say later what is right in them
perplexity  negative log-likelihood of every row's answer
curve       late stages at controlled distances, on generated rows
capacity    late stages against the number of items that a prompt gives
overhead    time and bytes of encoding and of the update
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from prosg.checkpoints.load import require_tokenizer
from prosg.core.encoded import EncodedPrompt
from prosg.data.checks import check_stages
from prosg.data.row import Row
from prosg.data.synthetic import Difficulty, Filler, make_rows
from prosg.data.synthetic.difficulty_grid import difficulty_grid
from prosg.evaluation.answer_cache import Answer, AnswerCache, batched
from prosg.evaluation.config import EvalConfig, SystemConfig
from prosg.evaluation.curve_options import unfit_kinds
from prosg.evaluation.forgetting import ControlledAnswer, LateStages, length_controlled, read_stories
from prosg.evaluation.overhead import overhead
from prosg.evaluation.rows import kinds_of, training_rows
from prosg.evaluation.systems.local import LocalSystem
from prosg.model.prosg import ProSG
from prosg.utils.progress import Progress, part_of
from prosg.utils.store import hash_json

__all__ = ["Measured", "Measurement", "run_measures"]


@dataclass(frozen=True)
class Measurement:
    """A system, loaded, and what it is asked.

    Attributes:
        config: The evaluation.
        system: Options of the system.
        model: The system's model.
        rows: The evaluation's rows.
        cache: Answers that were written before.
        tell: Gets the progress.
        answers: What `accuracy` wrote, for whoever keeps it.
    """

    config: EvalConfig
    system: SystemConfig
    model: ProSG
    rows: Sequence[Row]
    cache: AnswerCache
    tell: Progress
    answers: list[Answer]

    def prepare(self, rows: Sequence[Row], difficulty: Difficulty | None = None) -> LocalSystem:
        """The system with these rows; `difficulty` is that of the training prompts of the mean update."""
        training = {}
        if self.system.update == "mean":
            training = training_rows(self.config, sorted({row.kind for row in rows}), difficulty)
        return LocalSystem(self.system, self.model, rows, training, self.config.data.seed)


def accuracy(measurement: Measurement) -> dict[str, Any]:
    """Writes an answer to every row."""
    config = measurement.config
    local = measurement.prepare(measurement.rows)
    answers = batched(
        [hash_json(settings) for settings in local.settings(config.generation)],
        [row.id for row in measurement.rows],
        local.at_once(config.batch_size),
        measurement.cache,
        lambda indices: local.write(indices, config.generation),
        measurement.tell,
    )
    measurement.answers[:] = answers
    longest = config.generation.max_tokens  # nothing is read after a token that is written last there
    again = [local.read_again(i, min(answer.tokens, longest - 1)) for i, answer in enumerate(answers)]
    return {"answers": len(answers), "read_again": sum(again) / len(again) if local.rereads else None}


def perplexity(measurement: Measurement) -> dict[str, Any]:
    """Scores every row's own answer, by id."""
    if measurement.system.replay_every or measurement.system.refresh_every:
        return {"left_out": "something is read again while an answer is written, and here none is"}
    if any(not row.answer for row in measurement.rows):
        return {"left_out": "the rows have no answers to score"}
    scores = measurement.prepare(measurement.rows).scores(measurement.config.batch_size)
    return {row.id: one._asdict() for row, one in zip(measurement.rows, scores, strict=True)}


def curve(measurement: Measurement) -> dict[str, Any]:
    """Late stages at every place of the curve, on generated rows."""
    config, options = measurement.config, measurement.config.curve
    if options.filler and (measurement.system.replay_every or measurement.system.refresh_every):
        return {"left_out": "the story is given, and nothing is read again while none is written"}
    kinds = kinds_of(config)
    if unfit := unfit_kinds(kinds):
        return {"left_out": f"kinds that restate what they ask for, or have no late stage: {', '.join(unfit)}"}
    difficulties = difficulty_grid(
        require_tokenizer(measurement.model, measurement.system.model),
        kinds,
        config.data.seed,
        config.data.split,
        prompt_tokens=options.prompt_tokens,
        turns=options.turns,
        items=options.items,
        filler=Filler.read(options.filler) if options.filler else None,
    )
    lengths: Sequence[int | None] = options.prompt_tokens or [None]
    others = len(difficulties) // len(lengths)
    answers: list[dict[str, Any]] = []
    for number, difficulty in enumerate(difficulties):
        asked = {
            "prompt_tokens": lengths[number // others],
            "turns": _only(difficulty.turns),
            "items": _only(difficulty.items),
        }
        here = replace(measurement, tell=part_of(measurement.tell, number, len(difficulties)))
        answers += _late_answers(here, kinds, options.rows, options.sentences, difficulty, asked)
    return {"answers": answers}


def capacity(measurement: Measurement) -> dict[str, Any]:
    """Late stages against the number of items."""
    options = measurement.config.capacity
    if unfit_kinds([options.kind]):
        return {"left_out": f"kind {options.kind} restates what it asks for, or has no late stage"}
    answers: list[dict[str, Any]] = []
    for number, items in enumerate(options.items):
        difficulty, asked = Difficulty(items=(items, items)), {"items": items}
        here = replace(measurement, tell=part_of(measurement.tell, number, len(options.items)))
        answers += _late_answers(here, [options.kind], options.rows, [options.sentences], difficulty, asked)
    return {"answers": answers}


def _only(pair: tuple[int, int] | None) -> int | None:
    return None if pair is None else pair[0]


def _late_answers(
    measurement: Measurement,
    kinds: Sequence[str],
    size: int,
    sentences: Sequence[int],
    difficulty: Difficulty,
    asked: Mapping[str, int | None],
) -> list[dict[str, Any]]:
    """Length-controlled answers to generated rows, one per row and length, and which of their stages are right.

    Args:
        measurement: Who answers.
        kinds: Kinds of instruction in turn.
        size: Rows.
        sentences: Lengths of the story; the first is in range.
        difficulty: What makes instructions harder. With a filler the story is read from it, not sampled.
        asked: The other coordinates of the place.
    """
    data = measurement.config.data

    def generate(length: int) -> list[Row]:
        return make_rows(kinds, size, data.seed, data.split, sentences=(length, length), difficulty=difficulty)

    rows = generate(sentences[0])
    # A filler's parts differ by split, and stories have no part in what a prompt gives.
    local = measurement.prepare(rows, replace(difficulty, filler=None))
    stories: list[list[str]] = []
    turns = [row.answer[row.stages[1].start : row.stages[-1].start] for row in local.rows] if difficulty.turns else []
    if difficulty.filler is not None:
        for n in sorted(sentences):  # the same contents, and stories that begin alike
            stories.append([row.answer[: row.stages[1].start] for row in generate(n)])
    parts = _cut(range(len(rows)), local.at_once(len(rows)))
    cells: list[list[ControlledAnswer]] = [[] for _ in sentences]
    for number, part in enumerate(parts):
        tell = part_of(measurement.tell, number, len(parts))
        for cell, more in zip(cells, _cells(measurement, local, part, sentences, stories, turns, tell), strict=True):
            cell += more
    place = {name: number for name, number in asked.items() if number is not None and name != "prompt_tokens"}
    answers = []
    for length, cell in zip(sentences if difficulty.filler is None else sorted(sentences), cells, strict=True):
        for number, (row, written) in enumerate(zip(local.rows, cell, strict=True)):
            answer: dict[str, Any] = {**place, "id": row.id, "kind": row.kind, "sentences": length}
            answer |= {"text": written.text, "distance_tokens": written.distance_tokens}
            right = check_stages(row, written.text, length_controlled=True)
            answer["right"] = [stage and written.finite for stage in right]
            if not written.finite:
                answer["finite"] = False
            if local.rereads:
                answer["read_again"] = local.read_again(number, written.distance_tokens, late=True)
            if asked.get("prompt_tokens") is not None:
                answer["prompt_tokens"] = len(local.encoded_rows[number].prompt)
                answer["prompt_tokens_asked"] = asked["prompt_tokens"]
            answers.append(answer)
    return answers


def _cut(indices: range, most: int) -> list[range]:
    return [indices[start : start + most] for start in range(0, len(indices), most)]


def _cells(
    measurement: Measurement,
    local: LocalSystem,
    part: range,
    sentences: Sequence[int],
    stories: Sequence[Sequence[str]],
    turns: Sequence[str],
    tell: Callable[[float], None],
) -> list[list[ControlledAnswer]]:
    """The answers of some rows for each length, after the stories and turns that are given, or else their own."""
    system, config = measurement.system, measurement.config
    rows = [local.rows[i] for i in part]
    encoded = EncodedPrompt.join([local.encode(batch) for batch in _cut(part, config.batch_size)])
    late = LateStages(
        measurement.model.backbone,
        local.tokenizer,
        [local.encoded_rows[i] for i in part],
        [row.stages[-1].marker for row in rows],
        turns=[turns[i] for i in part] if turns else (),
        replay=system.late_replay,
        refresh=system.refresh_keep if system.late_refresh else None,
        ends=[local.ends[i] for i in part],
    )
    if stories:
        return read_stories(late, encoded, [[texts[i] for i in part] for texts in stories], tell=tell)
    return length_controlled(
        late,
        encoded,
        sentences,
        config.data.seed,
        replay=local.replay(part),
        refresh_every=system.refresh_every,
        refresh_keep=system.refresh_keep,
        tokens_per_sentence=config.curve.tokens_per_sentence,
        tell=tell,
    )


def costs(measurement: Measurement) -> dict[str, Any]:
    """Time and bytes of encoding and of the update."""
    return overhead(measurement.model, measurement.config.overhead)


MEASURE_FUNCTIONS: dict[str, Callable[[Measurement], dict[str, Any]]] = {
    "accuracy": accuracy,
    "perplexity": perplexity,
    "curve": curve,
    "capacity": capacity,
    "overhead": costs,
}
"""By the name that configurations use."""


class Measured(NamedTuple):
    """What one measure gave for a system."""

    measure: str
    result: dict[str, Any]
    """JSON values; {"left_out": why} for what the system cannot be measured by"""
    seconds: float
    answers: Sequence[Answer]
    """that `accuracy` wrote; else empty"""


def run_measures(
    config: EvalConfig,
    system: SystemConfig,
    model: ProSG,
    rows: Sequence[Row],
    measures: Sequence[str],
    cache: AnswerCache,
    tell: Progress,
) -> Iterator[Measured]:
    """Takes a system's measures, one after the other.

    Args:
        config: The evaluation.
        system: Options of the system.
        model: The system's model.
        rows: The evaluation's rows.
        measures: Names in `MEASURE_FUNCTIONS`.
        cache: Answers that were written before; gets the new ones.
        tell: Gets the progress of all of them.
    """
    for number, measure in enumerate(measures):
        tell_measure = part_of(tell, number, len(measures), measure)
        tell_measure(0.0)
        start = time.perf_counter()
        measurement = Measurement(config, system, model, rows, cache, tell_measure, [])
        result = MEASURE_FUNCTIONS[measure](measurement)
        yield Measured(measure, result, time.perf_counter() - start, measurement.answers)
