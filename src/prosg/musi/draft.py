"""A drafted instruction as a model writes it: the prompt, its sub-instructions, and checks of the answer's stages.

{"prompt": text, "sub_instructions": [text, ...], "domain_knowledge": 0 to 3,
 "checks": [{"stage": number from 1, "type": name, ...parameters of the check}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prosg.data.checks import CHECKS, validate_check
from prosg.llm.structured import find_json, strict_object
from prosg.musi.text import plain

__all__ = ["DRAFT_FIELDS", "Draft", "check_types", "draft_from_dict", "drafts_schema", "parse_drafts"]

DRAFT_FIELDS = ("prompt", "sub_instructions", "domain_knowledge", "checks")
WRITABLE = ("contains", "ends_with", "sentences", "words")
"""Checks that a model may write: those that need no markers in the text."""


@dataclass(frozen=True)
class Draft:
    """One instruction.

    Attributes:
        prompt: Its text.
        sub_instructions: Its steps, in the order in which an answer follows them.
        checks: The check of a step by its index from 0, for steps that a program can check.
        domain_knowledge: What the model says the answer needs: 0 none, 1 a little, 2 some, 3 an expert's.
    """

    prompt: str
    sub_instructions: tuple[str, ...]
    checks: Mapping[int, Mapping[str, Any]]
    domain_knowledge: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the instruction in the form of this module's first lines."""
        checks = [{"stage": stage + 1, **check} for stage, check in sorted(self.checks.items())]
        data: dict[str, Any] = {"prompt": self.prompt, "sub_instructions": list(self.sub_instructions)}
        return data | {"domain_knowledge": self.domain_knowledge, "checks": checks}


def check_types() -> str:
    """Returns the checks that a model may write and their parameters, as a request lists them."""
    return ", ".join(f"{name} ({', '.join(CHECKS[name].parameters)})" for name in WRITABLE)


def drafts_schema(per_request: int) -> dict[str, Any]:
    """Returns the JSON schema of a reply: {"prompts": [draft, ...]}, with null for parameters that do not apply."""
    nullable = [{"type": "integer"}, {"type": "null"}]
    check = {
        "stage": {"type": "integer", "minimum": 1},
        "type": {"type": "string", "enum": [*WRITABLE]},
        "text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "items": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "min": {"anyOf": nullable},
        "max": {"anyOf": nullable},
    }
    draft = {
        "prompt": {"type": "string"},
        "sub_instructions": {"type": "array", "minItems": 2, "items": {"type": "string"}},
        "domain_knowledge": {"type": "integer", "minimum": 0, "maximum": 3},
        "checks": {"type": "array", "items": strict_object(**check)},
    }
    many = {"type": "array", "minItems": 1, "maxItems": per_request, "items": strict_object(**draft)}
    return strict_object(prompts=many)


def draft_from_dict(data: object) -> Draft:
    """Checks and converts one decoded object. Raises ValueError for the first field that does not fit the schema."""
    if not isinstance(data, Mapping):
        raise ValueError(f"an instruction is an object, not {type(data).__name__}")
    if unknown := [str(key) for key in data if key not in DRAFT_FIELDS]:
        raise ValueError(f"unknown field {unknown[0]}; allowed: {', '.join(DRAFT_FIELDS)}")
    prompt, steps = data.get("prompt"), data.get("sub_instructions")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("prompt is missing, empty or no text")
    if not isinstance(steps, list) or not all(isinstance(step, str) and step.strip() for step in steps):
        raise ValueError("sub_instructions is no list of texts")
    if len({plain(step) for step in steps}) < len(steps):
        raise ValueError("sub_instructions says the same twice")
    knowledge = data.get("domain_knowledge")
    if knowledge is not None and type(knowledge) is not int:
        raise ValueError("domain_knowledge is no whole number")
    listed = data.get("checks")
    if not isinstance(listed if listed is not None else [], list):
        raise ValueError("checks is no list")
    by_stage: dict[int, list[dict[str, Any]]] = {}
    for item in listed or ():
        stage, check = _check(item, len(steps))
        by_stage.setdefault(stage, []).append(check)
    checks = {
        stage: some[0] if len(some) == 1 else {"type": "all_of", "checks": some} for stage, some in by_stage.items()
    }
    return Draft(prompt.strip(), tuple(step.strip() for step in steps), checks, knowledge or 0)


def _check(data: object, stages: int) -> tuple[int, dict[str, Any]]:
    if not isinstance(data, Mapping):
        raise ValueError(f"a check is an object, not {type(data).__name__}")
    stage = data.get("stage")
    if type(stage) is not int or not 1 <= stage <= stages:
        raise ValueError(f"a check is for stage {stage!r}; allowed: 1 to {stages}")
    # A strict schema makes a model name every parameter: null where it does not apply.
    check = {key: value for key, value in data.items() if key != "stage" and value is not None}
    validate_check(check)
    return stage - 1, check


def parse_drafts(text: str) -> list[Draft | str]:
    """Parses a reply into instructions, with a text in place of each faulty one, or of all, that says what is wrong."""
    try:
        content = find_json(text)
    except ValueError as error:
        return [str(error)]
    listed = content.get("prompts") if isinstance(content, Mapping) else content
    if not isinstance(listed, list) or not listed:
        return ["schema: no list of prompts"]
    drafts: list[Draft | str] = []
    for data in listed:
        try:
            drafts.append(draft_from_dict(data))
        except ValueError as error:
            drafts.append(f"schema: {error}")
    return drafts
