"""From what measures gave to a system's result: answers get their verdicts, values their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prosg.data.checks import check_stages
from prosg.data.row import Row, derived_id
from prosg.evaluation.answer_cache import Answer
from prosg.evaluation.config import SystemConfig
from prosg.evaluation.ifeval.scoring import IFEvalResult, score_ifeval
from prosg.evaluation.results import CurveAnswer, Run, SystemResult
from prosg.evaluation.rows import as_ifeval
from prosg.generation.text import NOT_FINITE
from prosg.model.perplexity import RowScore

__all__ = ["ifeval_of", "system_result"]


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
    verdicts = {key: _verdicts(rows[key], answer, judged.get(key)) for key, answer in by_row.items()}
    about: Mapping[str, Any] = next((part for part in parts.values() if part is not None), {})
    return SystemResult(
        folder=folder,
        name=name,
        config=config,
        backbone=str(about.get("backbone", "")),
        fingerprint=str(about.get("fingerprint", "")),
        memory=str(about.get("memory", "")),
        staged=frozenset(key for key, stages in verdicts.items() if len(stages) > 1 and as_ifeval(rows[key]) is None),
        answers=by_row,
        verdicts=verdicts,
        scores={key: RowScore(**values) for key, values in results.get("perplexity", {}).items()},
        curve=[CurveAnswer.of(answer) for answer in results.get("curve", {}).get("answers", [])],
        capacity=[CurveAnswer.of(one, of_capacity=True) for one in results.get("capacity", {}).get("answers", [])],
        overhead=results.get("overhead"),
        left_out=left_out,
        refused=results.get("accuracy", {}).get("refused", 0),
        read_again=results.get("accuracy", {}).get("read_again"),
        seconds=sum((part["seconds"] for part in parts.values() if part is not None), 0.0),
    )


def _verdicts(row: Row, answer: Answer, judged: Mapping[str, Any] | None) -> tuple[bool | None, ...]:
    """By programmatic checks where the row has them, else by the judge, unless what it judged was another answer.

    IFEval's instructions are checked strictly. In an answer that ended because logits were not finite all is wrong.
    """
    text = answer.text
    if answer.reason == NOT_FINITE:
        return (False,) * (len(row.stages) or 1)
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
