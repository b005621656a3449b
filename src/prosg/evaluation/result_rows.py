"""Results as typed rows: one for each system, measure, kind of instruction and place, as results.json has them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prosg.evaluation.places import Place
from prosg.evaluation.results import Run, SystemResult
from prosg.evaluation.statistics import mean_of
from prosg.generation.text import NOT_FINITE
from prosg.model.perplexity import summarize

__all__ = ["ResultRow", "result_rows"]


@dataclass(frozen=True)
class ResultRow:
    """One cell of results, long-form: a system, a measure, a kind of instruction and a place.

    Attributes:
        backbone: Type of the backbone.
        system: Label of the system.
        seed: Of its training.
        split: Of the rows.
        memory: What holds the prompt: none, anchor, update or both.
        update: Whose: own, other, mean or none.
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
        cost: Tokens read and written before the late stage, for each one that was written.
        not_finite: Answers in which the model's logits were no numbers any more; they count as wrong, and where they
            were scored there is no perplexity.
    """

    backbone: str
    system: str
    seed: int
    split: str
    memory: str
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
    cost: float | None = None
    not_finite: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without what does not apply, and without what is not finite, which JSON cannot say."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value is not None and not (isinstance(value, float) and not math.isfinite(value))
        }


def result_rows(run: Run) -> Iterator[ResultRow]:
    """A run's results, long-form: per system, kind and place."""
    for system in run.systems:
        common: dict[str, Any] = {
            "backbone": system.backbone,
            "system": system.label,
            "seed": system.config.seed,
            "split": run.config["data"]["split"],
            "memory": system.memory,
            "update": "none" if system.config.endpoint else system.config.update,
            "state": system.config.state,
        }
        if system.answers or system.scores:
            yield _free_row(system, common)
        first = min((place.sentences for place in system.places), default=0)
        for place in system.places:
            for kind in ("all", *sorted({answer.kind for answer in system.curve})):
                if system.at(place, kind):
                    yield _place_row(system, place, kind, {**common, "in_range": place.sentences == first}, "curve")
        for place in dict.fromkeys(answer.place for answer in system.capacity):
            yield _place_row(system, place, run.config["capacity"]["kind"], common, "capacity")


def _free_row(system: SystemResult, common: Mapping[str, Any]) -> ResultRow:
    right, late = mean_of(system.right), mean_of(system.late)
    scores = summarize(list(system.scores.values())) if system.scores else None
    broken = {name for name, answer in system.answers.items() if answer.reason == NOT_FINITE}
    broken |= {name for name, score in system.scores.items() if not math.isfinite(score.nll)}
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
        not_finite=len(broken) or None,
    )


def _place_row(system: SystemResult, place: Place, kind: str, common: Mapping[str, Any], measure: str) -> ResultRow:
    answers = system.at(place, kind)
    late, whole = mean_of(system.late_at(place, kind)), mean_of(system.all_at(place, kind))
    assert late is not None and whole is not None
    written = sum(answer.distance_tokens for answer in answers)
    prompts = [answer.prompt_tokens for answer in answers if answer.prompt_tokens is not None]
    return ResultRow(
        **common,
        measure=measure,
        kind=kind,
        n=late.n,
        accuracy=whole.mean,
        late_accuracy=late.mean,
        late_interval=(late.low, late.high),
        distance_tokens=round(written / len(answers)),
        sentences=place.sentences,
        prompt_tokens=round(sum(prompts) / len(prompts)) if prompts else None,
        turns=place.turns,
        items=place.items,
        cost=round(1 + sum(answer.read_again or 0 for answer in answers) / max(written, 1), 3),
        not_finite=sum(not answer.finite for answer in answers) or None,
    )
