"""Reading rows of IFEval, judging answers to them, and the published measures.

A row is `{"key", "prompt", "instruction_id_list": [ID, ...], "kwargs": [{...}, ...]}`, one object of kwargs for each
id. An answer is judged twice:

strict   the answer as it is
loose    followed if any of eight variants follows: the answer; without its first line, its last, both; and each of
         these without asterisks
prompt-level accuracy        share of answers that follow all of their instructions
instruction-level accuracy   share of all instructions that are followed
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prosg.evaluation.ifeval.rules import RULES, validate_instruction
from prosg.evaluation.statistics import bootstrap_interval
from prosg.utils.io import iter_jsonl

__all__ = [
    "IFEvalResult",
    "IFEvalRow",
    "Instruction",
    "Verdict",
    "ifeval_row",
    "loose_variants",
    "read_ifeval",
    "score_ifeval",
]


class Instruction(NamedTuple):
    """One checkable instruction of a prompt."""

    id: str
    kwargs: Mapping[str, Any]

    def followed_by(self, response: str) -> bool:
        """Whether a response follows it; an empty one never does."""
        return response.strip() != "" and RULES[self.id].follows(self.kwargs, response)


class IFEvalRow(NamedTuple):
    """A prompt with its instructions."""

    key: str
    prompt: str
    instructions: tuple[Instruction, ...]


class Verdict(NamedTuple):
    """What was found about one answer: a boolean per instruction."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


@dataclass(frozen=True)
class IFEvalResult:
    """The verdicts on all answers, in the order of the rows."""

    rows: tuple[IFEvalRow, ...]
    verdicts: tuple[Verdict, ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """Long-form rows of results: prompt level, instruction level, then each type of instruction that occurs.

        {"measure": "ifeval", "level", "kind", "n", "strict", "loose", "strict_interval", "loose_interval"}: n counts
        prompts or instructions, strict and loose are shares of them, the intervals (95 %) are over resampled prompts.
        """
        rows = [self._row("prompt", "all", [(i, all(v.strict), all(v.loose)) for i, v in enumerate(self.verdicts)])]
        found = [
            (instruction.id, i, strict, loose)
            for i, (row, verdict) in enumerate(zip(self.rows, self.verdicts, strict=True))
            for instruction, strict, loose in zip(row.instructions, verdict.strict, verdict.loose, strict=True)
        ]
        rows.append(self._row("instruction", "all", [values for _, *values in found]))
        for kind in RULES:
            if some := [values for name, *values in found if name == kind]:
                rows.append(self._row("instruction", kind, some))
        return rows

    def verdict_rows(self) -> list[dict[str, Any]]:
        """Per answer {"key", "instruction_id_list", "strict", "loose"}; the last two have a boolean per instruction."""
        return [
            {
                "key": row.key,
                "instruction_id_list": [instruction.id for instruction in row.instructions],
                "strict": list(verdict.strict),
                "loose": list(verdict.loose),
            }
            for row, verdict in zip(self.rows, self.verdicts, strict=True)
        ]

    @staticmethod
    def _row(level: str, kind: str, values: Sequence[Sequence[Any]]) -> dict[str, Any]:
        prompts = [str(prompt) for prompt, _, _ in values]
        measured = {
            "strict": [float(strict) for _, strict, _ in values],
            "loose": [float(loose) for _, _, loose in values],
        }
        shares = {name: sum(some) / len(some) for name, some in measured.items()}
        intervals = {f"{name}_interval": list(bootstrap_interval(some, prompts)) for name, some in measured.items()}
        return {"measure": "ifeval", "level": level, "kind": kind, "n": len(values), **shares, **intervals}


def loose_variants(response: str) -> list[str]:
    """The eight texts of which one has to follow an instruction, the response itself first."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [text.replace("*", "") for text in cut]


def score_ifeval(rows: Sequence[IFEvalRow], answers: Sequence[str]) -> IFEvalResult:
    """Judge one answer per row, in the rows' order.

    Raises ValueError for no rows, for another number of answers, and where a rule on languages is met and langdetect
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
            Verdict(
                tuple(instruction.followed_by(answer) for instruction in row.instructions),
                tuple(any(map(instruction.followed_by, variants)) for instruction in row.instructions),
            )
        )
    return IFEvalResult(tuple(rows), tuple(verdicts))


def read_ifeval(path: str | os.PathLike[str]) -> list[IFEvalRow]:
    """All rows of a jsonl file in the published format; fields beyond its four are passed over.

    Raises ValueError `FILE:LINE: what was wrong` for a bad row, an unknown instruction or argument, a key that is used
    twice, and for a file without rows.
    """
    rows: list[IFEvalRow] = []
    lines: dict[str, int] = {}
    for number, data in iter_jsonl(path):
        try:
            row = ifeval_row(data)
            if row.key in lines:
                raise ValueError(f"key {row.key} is taken by line {lines[row.key]}; keys are unique")
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        lines[row.key] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: holds no rows; at least one is needed")
    return rows


def ifeval_row(data: Any) -> IFEvalRow:
    """A row of one decoded object. ValueError says what was wrong."""
    if not isinstance(data, dict):
        raise ValueError(f"a row is a JSON object, not {type(data).__name__}")
    for name, kinds, what in (
        ("key", (int, str), "a whole number or a text"),
        ("prompt", (str,), "a text"),
        ("instruction_id_list", (list,), "a list"),
        ("kwargs", (list,), "a list"),
    ):
        if name not in data:
            raise ValueError(f"{name!r} is missing; a row has key, prompt, instruction_id_list and kwargs")
        if not isinstance(data[name], kinds) or isinstance(data[name], bool):
            raise ValueError(f"{name!r} must be {what}, not {type(data[name]).__name__}")
    if not data["prompt"].strip():
        raise ValueError("'prompt' is empty; it must hold some text")
    names, kwargs = data["instruction_id_list"], data["kwargs"]
    if not names:
        raise ValueError("'instruction_id_list' is empty; a row needs at least one instruction")
    if len(names) != len(kwargs):
        raise ValueError(f"{len(names)} instructions, but {len(kwargs)} kwargs; each instruction has its own")
    instructions = tuple(
        Instruction(name, validate_instruction(name, given)) for name, given in zip(names, kwargs, strict=True)
    )
    return IFEvalRow(str(data["key"]), data["prompt"], instructions)
