"""Rows of IFEval: prompts with instructions that a program can check.

A row is `{"key", "prompt", "instruction_id_list": [ID, ...], "kwargs": [{...}, ...]}`, with one object of kwargs per
id.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from prosg.evaluation.ifeval.rules import RULES
from prosg.utils.io import iter_jsonl

__all__ = ["IFEvalInstruction", "IFEvalRow", "parse_ifeval_row", "read_ifeval", "validate_instruction"]

ARGUMENT_NAMES = frozenset(name for rule in RULES.values() for name in rule.arguments)


class IFEvalInstruction(NamedTuple):
    """An instruction id and its keyword arguments."""

    id: str
    kwargs: Mapping[str, Any]

    def followed_by(self, response: str) -> bool:
        """Whether a response follows the instruction; an empty one never does."""
        return response.strip() != "" and RULES[self.id].follows(self.kwargs, response)


class IFEvalRow(NamedTuple):
    """A prompt with its instructions."""

    key: str
    prompt: str
    instructions: tuple[IFEvalInstruction, ...]


def read_ifeval(path: str | os.PathLike[str]) -> list[IFEvalRow]:
    """Reads a jsonl file in the published format, ignoring other fields.

    Raises:
        ValueError: `FILE:LINE: ...` for an invalid row, an unknown instruction or argument and a key that occurs twice;
            `FILE: ...` for a file without rows.
    """
    rows: list[IFEvalRow] = []
    lines: dict[str, int] = {}
    for number, data in iter_jsonl(path):
        try:
            row = parse_ifeval_row(data)
            if row.key in lines:
                raise ValueError(f"key {row.key} is taken by line {lines[row.key]}; keys are unique")
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        lines[row.key] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: holds no rows; at least one is needed")
    return rows


def parse_ifeval_row(data: Any) -> IFEvalRow:
    """Builds a row from a decoded JSON object.

    Raises:
        ValueError: For an object that is not a row; the message names the field and what is allowed.
    """
    if not isinstance(data, dict):
        raise ValueError(f"a row is a JSON object, not {type(data).__name__}")
    for name, types, allowed in (
        ("key", (int, str), "a whole number or a text"),
        ("prompt", (str,), "a text"),
        ("instruction_id_list", (list,), "a list"),
        ("kwargs", (list,), "a list"),
    ):
        if name not in data:
            raise ValueError(f"{name!r} is missing; a row has key, prompt, instruction_id_list and kwargs")
        if not isinstance(data[name], types) or isinstance(data[name], bool):
            raise ValueError(f"{name!r} must be {allowed}, not {type(data[name]).__name__}")
    if not data["prompt"].strip():
        raise ValueError("'prompt' is empty; it must hold some text")
    ids, kwargs = data["instruction_id_list"], data["kwargs"]
    if not ids:
        raise ValueError("'instruction_id_list' is empty; a row needs at least one instruction")
    if len(ids) != len(kwargs):
        raise ValueError(f"{len(ids)} instructions, but {len(kwargs)} kwargs; each instruction has its own")
    instructions = tuple(
        IFEvalInstruction(id_, validate_instruction(id_, arguments)) for id_, arguments in zip(ids, kwargs, strict=True)
    )
    return IFEvalRow(str(data["key"]), data["prompt"], instructions)


def validate_instruction(instruction: Any, kwargs: Any) -> dict[str, Any]:
    """Checks one instruction of a row.

    Args:
        instruction: An instruction id.
        kwargs: Its keyword arguments. A null counts as absent: some copies of the data give every instruction the
            arguments of all, most of them null.

    Returns:
        The keyword arguments without nulls.

    Raises:
        ValueError: For an unknown id and for arguments that do not fit its rule; the message names what is allowed.
    """
    if not isinstance(instruction, str) or instruction not in RULES:
        raise ValueError(f"unknown instruction {instruction!r}; allowed: {', '.join(RULES)}")
    if not isinstance(kwargs, Mapping):
        raise ValueError(f"{instruction}: kwargs must be an object, not {type(kwargs).__name__}")
    arguments = RULES[instruction].arguments
    for name, value in kwargs.items():
        if name not in arguments and (value is not None or name not in ARGUMENT_NAMES):
            raise ValueError(f"{instruction} has no argument {name!r}; allowed: {', '.join(arguments) or 'none'}")
    values = {name: value for name, value in kwargs.items() if value is not None}
    for name, argument in arguments.items():
        if name not in values:
            raise ValueError(f"{instruction} needs the argument {name!r}: {argument.allowed}")
        if not argument.is_valid(values[name]):
            raise ValueError(f"{instruction}: {name!r} is {values[name]!r}, must be {argument.allowed}")
    return values
