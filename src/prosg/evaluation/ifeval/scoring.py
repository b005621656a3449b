"""Scoring answers to rows of IFEval, and the published measures.

Each instruction is checked in two ways:

strict   on the answer itself
loose    on eight variants, of which one has to follow it: the answer; without its first line, its last, both; and
         each of these without asterisks

prompt-level accuracy        share of answers that follow all of their instructions
instruction-level accuracy   share of all instructions that are followed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prosg.evaluation.ifeval.rows import IFEvalRow
from prosg.evaluation.ifeval.rules import RULES
from prosg.evaluation.statistics import bootstrap_interval

__all__ = ["IFEvalResult", "IFEvalVerdict", "loose_variants", "score_ifeval"]


class IFEvalVerdict(NamedTuple):
    """Whether one answer follows each of its row's instructions."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


@dataclass(frozen=True)
class IFEvalResult:
    """The verdicts on the answers to some rows, in the order of the rows."""

    rows: tuple[IFEvalRow, ...]
    verdicts: tuple[IFEvalVerdict, ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """The measures in long form: prompt level, instruction level, then each instruction id that occurs.

        Returns:
            Rows {"measure": "ifeval", "level", "kind", "n", "strict", "loose", "strict_interval", "loose_interval"}:
            `n` counts prompts or instructions, `strict` and `loose` are shares of them, and the intervals are 95 %
            bootstrap intervals over prompts.
        """
        verdicts = list(enumerate(self.verdicts))
        rows = [_measure_row("prompt", "all", [(i, all(v.strict), all(v.loose)) for i, v in verdicts])]
        checked = [
            (instruction.id, (i, strict, loose))
            for (i, verdict), row in zip(verdicts, self.rows, strict=True)
            for instruction, strict, loose in zip(row.instructions, verdict.strict, verdict.loose, strict=True)
        ]
        rows.append(_measure_row("instruction", "all", [outcome for _, outcome in checked]))
        for kind in RULES:
            if outcomes := [outcome for instruction_id, outcome in checked if instruction_id == kind]:
                rows.append(_measure_row("instruction", kind, outcomes))
        return rows

    def verdict_rows(self) -> list[dict[str, Any]]:
        """Per answer {"key", "instruction_id_list", "strict", "loose"}, the last two with a boolean per instruction."""
        return [
            {
                "key": row.key,
                "instruction_id_list": [instruction.id for instruction in row.instructions],
                "strict": list(verdict.strict),
                "loose": list(verdict.loose),
            }
            for row, verdict in zip(self.rows, self.verdicts, strict=True)
        ]


def _measure_row(level: str, kind: str, outcomes: Sequence[tuple[int, bool, bool]]) -> dict[str, Any]:
    """A row of measures from (index of the prompt, strict, loose)."""
    prompts = [str(prompt) for prompt, _, _ in outcomes]
    values = {
        "strict": [float(strict) for _, strict, _ in outcomes],
        "loose": [float(loose) for _, _, loose in outcomes],
    }
    shares = {name: sum(column) / len(column) for name, column in values.items()}
    intervals = {f"{name}_interval": list(bootstrap_interval(column, prompts)) for name, column in values.items()}
    return {"measure": "ifeval", "level": level, "kind": kind, "n": len(outcomes), **shares, **intervals}


def loose_variants(response: str) -> list[str]:
    """The eight variants of a response for loose checking, the response itself first."""
    lines = response.split("\n")
    variants = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return variants + [text.replace("*", "") for text in variants]


def score_ifeval(rows: Sequence[IFEvalRow], answers: Sequence[str]) -> IFEvalResult:
    """Scores one answer per row.

    Args:
        rows: Prompts with their instructions.
        answers: Texts in the order of the rows.

    Raises:
        ValueError: For no rows, for another number of answers than rows, and for a rule on languages where langdetect
            is not installed.
    """
    if not rows:
        raise ValueError("IFEval needs at least one row")
    if len(rows) != len(answers):
        raise ValueError(f"{len(answers)} answers for {len(rows)} rows; IFEval needs one for each")
    verdicts = []
    for row, answer in zip(rows, answers, strict=True):
        variants = loose_variants(answer)
        verdicts.append(
            IFEvalVerdict(
                tuple(instruction.followed_by(answer) for instruction in row.instructions),
                tuple(any(map(instruction.followed_by, variants)) for instruction in row.instructions),
            )
        )
    return IFEvalResult(tuple(rows), tuple(verdicts))
