"""A model's forgetting curve with its controls, as rows of results.

rows -> prompts encoded once -> each condition: stories, forks, late stages -> checks -> long-form rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from prosg.data.checks import score
from prosg.data.encode import encode_rows
from prosg.data.row import Row
from prosg.data.synthetic import DEMO_KINDS, KINDS, PLAIN, Setting, make_rows
from prosg.evaluation.controls import MEAN_PROMPTS, Condition, Conditions
from prosg.evaluation.forgetting import (
    LATE_TOKENS,
    TEMPERATURE,
    ControlledAnswer,
    LateStages,
    late_tokens,
    length_controlled,
    read_stories,
)
from prosg.evaluation.statistics import bootstrap_interval
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts
from prosg.model.perplexity import Perplexity, score_rows, summarize
from prosg.model.prosg import ProSG

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
"""Room for a late stage of the usual length where the model decides on the length itself."""


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
    setting: Setting = PLAIN,
    window: int | None = None,
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
        free: Also write answers of free length; not where a story or turns are given, which nobody could wait for.
        setting: What makes the instructions harder. With a filler the story is read from it instead of being sampled,
            and rows have length "filler"; other turns are read. Rows say what was set, and how many `prompt_tokens`
            that makes.
        window: Encode prompts in windows of so many tokens; see `ProSG.encode`.
        tell: Gets the share done and what is being done.

    Raises:
        ValueError: for an unknown kind, for one that restates what its late stage needs, and for a setting that a kind
            cannot have.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; allowed: {', '.join(KINDS)}")
        if KINDS[kind].leaks:
            raise ValueError(f"kind {kind!r} restates its contents in the answer: it says nothing about forgetting")
    if not sentences or min(sentences) < 1:
        raise ValueError(f"sentences are {', '.join(map(str, sentences)) or 'none'}; each story has at least one")
    tokenizer = model.tokenizer
    rows = make_rows(kinds, size, seed, split, sentences=(sentences[0], sentences[0]), setting=setting)
    for row in rows:
        if len(row.stages) - 2 * len(row.extra.get("turns", ())) != 2:
            raise ValueError(
                f"kind {row.kind!r} has {len(row.stages)} stages; a curve needs a story and one late stage after it"
            )
    encoded_rows, _ = encode_rows(rows, tokenizer)
    markers = [row.stages[-1].marker for row in rows]
    turns = [row.answer[row.stages[1].start : row.stages[-1].start] for row in rows]
    distances = sorted(set(sentences))
    stories = []
    if setting.filler is not None:
        for n in distances:  # the same contents, and stories that begin alike
            told = make_rows(kinds, size, seed, split, sentences=(n, n), setting=setting)
            stories.append([row.answer[: row.stages[1].start] for row in told])
    # Stories have no part in what a prompt gives; a filler's parts differ by split, so training prompts do without it.
    alike = replace(setting, filler=None)
    training = {
        kind: [tokenizer.encode(row.prompt) for row in make_rows((kind,), MEAN_PROMPTS, seed, "train", setting=alike)]
        for kind in kinds
    }
    prompts = Conditions(model, encoded_rows, [row.kind for row in rows], training, seed, window)
    harder = _named(setting, window)
    results: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for number, condition in enumerate(conditions):
        encoded = prompts.encoded(condition)
        common = {**labels, "split": split, "update": condition.update, "state": condition.state, **harder}
        if replay:
            common["extra_tokens"] = round(sum(len(row.prompt) for row in encoded_rows) / len(encoded_rows))

        def tell_part(share: float, number: int = number, condition: Condition = condition) -> None:
            if tell is not None:
                tell((number + share) / len(conditions), str(condition))

        tell_part(0.0)
        scores = None
        if not replay:
            taken = lambda i, encoded=encoded: encoded.take(torch.tensor(i))  # noqa: E731
            scores = summarize(score_rows(model, encoded_rows, encode=taken))
        late_stages = LateStages(model.backbone, tokenizer, encoded_rows, markers, turns=turns, replay=replay)
        if stories:
            cells = read_stories(late_stages, encoded, stories, tell=tell_part)
        else:
            cells = length_controlled(late_stages, encoded, distances, seed, tell=tell_part)
        how = "filler" if stories else "controlled"
        at = dict(zip(distances, cells, strict=True))
        measured = [(n, how, at[n]) for n in sentences]
        if free and not replay and not stories and not any(turns):
            story = sentences[0] * Sampling.tokens_per_sentence
            longest = FREE_TOKENS + late_tokens(encoded_rows) - LATE_TOKENS + story
            texts = generate_texts(
                model.backbone,
                encoded,
                tokenizer,
                Sampling(max_tokens=longest, temperature=TEMPERATURE, seed=seed, force_marker=markers),
                numbers=np.array([row.row_id for row in encoded_rows], dtype=np.uint64),
            )
            cell = [
                ControlledAnswer(one.text, len(tokenizer.encode(one.text.partition(marker)[0])))
                for one, marker in zip(texts, markers, strict=True)
            ]
            measured.append((sentences[0], "free", cell))
        for n, length, cell in measured:
            right = [
                score(row, written.text, length_controlled=length != "free")
                for row, written in zip(rows, cell, strict=True)
            ]
            results += _cells(
                rows,
                [len(row.prompt) for row in encoded_rows] if harder else [],
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


def _named(setting: Setting, window: int | None) -> dict[str, Any]:
    """What a row of results says of a setting; nothing of what is not set."""
    told: dict[str, Any] = {}
    for name in ("distractors", "turns", "items"):
        if (pair := getattr(setting, name)) is not None:
            told[name] = pair[0] if pair[0] == pair[1] else list(pair)
    if setting.filler is not None:
        told["filler"] = Path(setting.filler.name).name
    if window is not None:
        told["window"] = window
    return told


def _cells(
    rows: Sequence[Row],
    prompts: Sequence[int],
    written: Sequence[ControlledAnswer],
    right: Sequence[Sequence[bool]],
    common: dict[str, Any],
    scores: Perplexity | None,
) -> list[dict[str, Any]]:
    """One row of results for all kinds together, and one for each.

    prompts: their lengths, tokens, where rows say them.
    """
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
                **({"prompt_tokens": round(sum(prompts[i] for i in chosen) / len(chosen))} if prompts else {}),
                "n": len(chosen),
                **{name: getattr(scores, name) if scores and kind == "all" else None for name in PERPLEXITIES},
                "accuracy": sum(all(right[i]) for i in chosen) / len(chosen),
                "late_accuracy": sum(late) / len(late),
                "late_interval": [low, high],
            }
        )
    return cells
