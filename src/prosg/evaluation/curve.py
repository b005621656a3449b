"""A model's forgetting curve with its controls, as rows of results.

rows -> prompts encoded once -> each condition: stories, forks, late stages -> checks -> long-form rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from prosg.data.checks import score
from prosg.data.collate import encode_rows
from prosg.data.kinds import DEMO_KINDS, KINDS, make_rows
from prosg.data.record import Row
from prosg.evaluation.conditions import MEAN_PROMPTS, Condition, Conditions
from prosg.evaluation.forgetting import Written, free_running, length_controlled
from prosg.evaluation.perplexity import Perplexity, perplexity
from prosg.evaluation.statistics import bootstrap_interval
from prosg.generate import TOKENS_PER_SENTENCE
from prosg.prosg import ProSG

__all__ = ["ALL_CONDITIONS", "SENTENCES", "CurveResult", "forgetting_curve"]

SENTENCES = (5, 20, 60, 125, 250)
"""Stories of the curve; the first is the longest that training has seen."""
ALL_CONDITIONS = (
    Condition("own"),
    Condition("other"),
    Condition("mean"),
    Condition("own", "wiped"),
)


PERPLEXITIES = ("perplexity", "sample_perplexity", "late_perplexity")
"""Over reference answers, in range; see `prosg.evaluation.perplexity`."""
FREE_TOKENS = 40
"""Room for a late stage where the model decides on the length itself."""


class CurveResult(NamedTuple):
    """Rows for results.json, and every answer, for reading and for paired comparisons."""

    rows: list[dict[str, Any]]
    answers: list[dict[str, Any]]


def forgetting_curve(
    model: ProSG,
    *,
    labels: dict[str, Any],
    conditions: Sequence[Condition],
    kinds: Sequence[str] = DEMO_KINDS,
    size: int = 64,
    sentences: Sequence[int] = SENTENCES,
    seed: int = 0,
    split: str = "test",
    replay: bool = False,
    free: bool = True,
    tell: Callable[[float, str], None] | None = None,
) -> CurveResult:
    """Late-stage accuracy at every distance, under every condition; in range also perplexity and free length.

    Args:
        model: A backbone or a backbone with its module; it needs its tokenizer.
        labels: What every row of results begins with: backbone, system, seed.
        conditions: Which update and which state; a model without a module knows update "none" only.
        kinds: Kinds of instruction in turn; those that leak are refused.
        size: Prompts.
        sentences: Lengths of the story; the first is in range.
        seed: Of the prompts, the stories and the derangement.
        split: Of the prompts.
        replay: Read the prompt again before the late stage; rows then say how many `extra_tokens` that takes. Only
            length-controlled: where nobody says when the late stage comes, nobody can read the prompt before it.
        free: Also write answers of free length.
        tell: Gets the share done and what is being done.

    Raises:
        ValueError: for an unknown kind, and for one that restates what its late stage needs.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; allowed: {', '.join(KINDS)}")
        if KINDS[kind].leaks:
            raise ValueError(f"kind {kind!r} restates its contents in the answer: it says nothing about forgetting")
    if not sentences or min(sentences) < 1:
        raise ValueError(f"sentences are {', '.join(map(str, sentences)) or 'none'}; each story has at least one")
    tokenizer = model.tokenizer
    rows = make_rows(kinds, size, seed, split, sentences=(sentences[0], sentences[0]))
    for row in rows:
        if len(row.stages) != 2:
            raise ValueError(
                f"kind {row.kind!r} has {len(row.stages)} stages; a curve needs a story and one late stage after it"
            )
    encoded_rows, _ = encode_rows(rows, tokenizer)
    markers = [row.stages[-1].marker for row in rows]
    training = {
        kind: [tokenizer.encode(row.prompt) for row in make_rows((kind,), MEAN_PROMPTS, seed, "train")]
        for kind in kinds
    }
    prompts = Conditions(model, encoded_rows, [row.kind for row in rows], training, seed)
    results: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for number, condition in enumerate(conditions):
        encoded = prompts.encoded(condition)
        common = {**labels, "split": split, "update": condition.update, "state": condition.state}
        if replay:
            common["extra_tokens"] = round(sum(len(row.prompt) for row in encoded_rows) / len(encoded_rows))

        def tell_part(share: float, number: int = number, condition: Condition = condition) -> None:
            if tell is not None:
                tell((number + share) / len(conditions), str(condition))

        tell_part(0.0)
        scores = None if replay else perplexity(model, encoded_rows, encoded=encoded)
        cells = length_controlled(
            model.backbone,
            encoded,
            tokenizer,
            encoded_rows,
            markers,
            sentences,
            seed,
            replay=replay,
            tell=tell_part,
        )
        measured = [(n, "controlled", cell) for n, cell in zip(sentences, cells, strict=True)]
        if free and not replay:
            longest = FREE_TOKENS + sentences[0] * TOKENS_PER_SENTENCE
            cell = free_running(model.backbone, encoded, tokenizer, encoded_rows, markers, seed, longest)
            measured.append((sentences[0], "free", cell))
        for n, length, cell in measured:
            right = [
                score(row, written.text, length_controlled=length == "controlled")
                for row, written in zip(rows, cell, strict=True)
            ]
            results += _cells(
                rows,
                cell,
                right,
                {**common, "sentences": n, "length": length, "in_range": n == sentences[0]},
                scores if n == sentences[0] else None,
            )
            answers += [
                {**common, "sentences": n, "length": length, "id": row.id, "kind": row.kind, "prompt": row.prompt}
                | {"text": written.text, "expected": row.answer[row.stages[-1].start :].strip()}
                | {"distance_tokens": written.distance_tokens, "late": right_here[-1]}
                for row, written, right_here in zip(rows, cell, right, strict=True)
            ]
    return CurveResult(results, answers)


def _cells(
    rows: Sequence[Row],
    written: Sequence[Written],
    right: Sequence[Sequence[bool]],
    common: dict[str, Any],
    scores: Perplexity | None,
) -> list[dict[str, Any]]:
    """One row of results for all kinds together, and one for each."""
    cells = []
    for kind in ("all", *dict.fromkeys(row.kind for row in rows)):
        chosen = [i for i, row in enumerate(rows) if kind in ("all", row.kind)]
        late = [float(right[i][-1]) for i in chosen]
        low, high = bootstrap_interval(late, [rows[i].id for i in chosen])
        cells.append(
            {
                **common,
                "kind": kind,
                "distance_tokens": round(sum(written[i].distance_tokens for i in chosen) / len(chosen)),
                "n": len(chosen),
                **{name: getattr(scores, name) if scores and kind == "all" else None for name in PERPLEXITIES},
                "accuracy": sum(all(right[i]) for i in chosen) / len(chosen),
                "late_accuracy": sum(late) / len(late),
                "late_interval": [low, high],
            }
        )
    return cells
