"""Rows: an instruction with its answer, stages and checks, and JSON lines files of them.

    {"id", "kind", "prompt", "answer", "stages": [{"instruction", "check", "start", "marker"}], "distance_words"}

Only `prompt` and `answer` are required; a missing id is derived from them. A row without them may be a conversation,
{"messages"} or {"text"} (see `chat`), or have another program's form (see `other_forms`). Unknown fields are preserved.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from prosg.data.chat import as_messages, from_messages, from_text
from prosg.data.checks import Check, validate_check
from prosg.data.other_forms import as_own_form
from prosg.data.templates import Turn
from prosg.utils.io import iter_jsonl, write_lines
from prosg.utils.values import shortened, shown

__all__ = ["Row", "Stage", "derived_id", "read_rows", "row_from_dict", "row_to_dict", "write_rows"]

FIELDS = ("id", "kind", "prompt", "answer", "stages", "distance_words", "leaks", "open")
STAGE_FIELDS = ("instruction", "check", "start", "marker")
MOST_WORDS = 10**9
LONGEST_REASON = 300
"""Characters of an error that quotes a row."""
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """One stage of an answer.

    Attributes:
        instruction: What the prompt asks for in this stage.
        check: Check that the stage's text has to pass (see `checks`).
        start: Character offset of the stage in the answer.
        marker: Text that opens the stage there; "" for the first stage.
        given: The stage is input that the model reads (another turn's words) and does not write; its tokens have no
            weight in training.
    """

    instruction: str
    check: Check
    start: int
    marker: str
    given: bool = False


@dataclass(frozen=True)
class Row:
    """A prompt with its answer.

    Attributes:
        id: Unique within a file.
        prompt: The instruction; of a conversation, the turns' texts without cues (`encode.frame_row` adds them).
        answer: The reply that is learned, or the reference answer.
        kind: Name of the grammar or category; "" where there is none.
        stages: Stages of the answer; empty for plain pairs.
        distance_words: Words of the answer before the stage that needs the prompt.
        leaks: The answer restates, before its last stage, what that stage needs.
        open: The answer is running text that goes on: it has no end to learn, and no chat template.
        extra: Unknown fields of the file.
        turns: Turns before the answer, where the row is a conversation.
        framing: Name of the template that a {"text"} row was written in; else "".
        cuts: Of a prompt that a chat template wrote; see `templates.FramedPrompt`.
    """

    id: str
    prompt: str
    answer: str
    kind: str = ""
    stages: tuple[Stage, ...] = ()
    distance_words: int = 0
    leaks: bool = False
    open: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    framing: str = ""
    cuts: tuple[int, ...] | None = None


def derived_id(prompt: str, answer: str) -> str:
    """Id for a row without one: the first 16 hex digits of sha256 over prompt and answer."""
    return hashlib.sha256(f"{prompt}\0{answer}".encode()).hexdigest()[:16]


def _typed(data: Mapping[str, Any], key: str, default: T) -> T:
    """The value of a key, which must have the type of `default`."""
    value, wanted = data.get(key, default), type(default)
    # bool is an int in Python, but `"start": true` is a mistake.
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{key!r} must be of type {wanted.__name__}, not {type(value).__name__}")
    return value


def _stage(data: object, answer: str, previous: Stage | None, number: int) -> Stage:
    if not isinstance(data, Mapping):
        raise ValueError(f"a stage is an object, not {type(data).__name__}")
    if set(data) - {"given"} != set(STAGE_FIELDS):
        wrong = sorted((set(data) - {"given"}) ^ set(STAGE_FIELDS))
        raise ValueError(
            f"a stage has exactly the fields {', '.join(STAGE_FIELDS)} and optionally given; wrong: {', '.join(wrong)}"
        )
    validate_check(data["check"])
    for repeated in _repeated_stages(data["check"]):
        if repeated >= number:
            raise ValueError(f"a check 'repeats' stage {repeated}; it must be before its own, which is {number}")
    stage = Stage(
        _typed(data, "instruction", ""),
        data["check"],
        _typed(data, "start", 0),
        _typed(data, "marker", ""),
        _typed(data, "given", False),
    )
    if previous is None:
        if stage.start != 0 or stage.marker:
            raise ValueError(f"the first stage has start 0 and marker '', not {stage.start} and {stage.marker!r}")
        return stage
    if not stage.marker:
        raise ValueError("only the first stage may have an empty marker")
    if not previous.start < stage.start < len(answer):
        raise ValueError(f"stage start {stage.start} must lie between {previous.start + 1} and {len(answer) - 1}")
    if not answer.startswith(stage.marker, stage.start):
        raise ValueError(f"the answer does not have the marker {stage.marker!r} at {stage.start}")
    return stage


def _repeated_stages(check: Check) -> Iterator[int]:
    """The stages that a check, or one within it, compares with."""
    if check["type"] == "repeats":
        yield check["stage"]
    for part in check.get("checks", ()) if check["type"] == "all_of" else ():
        yield from _repeated_stages(part)


def row_from_dict(data: object, *, need_answer: bool = True) -> Row:
    """Validates a decoded JSON object and turns it into a row.

    Args:
        data: The object, with {"prompt", "answer"}, {"messages"} or {"text"}, or as `other_forms` knows it.
        need_answer: Whether a row must have an answer; else a missing one is "", and messages may end with the user's.

    Raises:
        ValueError: Naming the field, what is wrong with it and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"a row is a JSON object, not {type(data).__name__}")
    data = as_own_form(data)
    source, turns, framing = "", tuple[Turn, ...](), ""
    if "prompt" not in data and "answer" not in data:
        source = next((key for key in ("messages", "text") if key in data), "")
    if source == "messages":
        turns = from_messages(data[source], need_answer)
    elif source == "text":
        framing, turns = from_text(data[source])
    if turns:
        answer = turns[-1].text if turns[-1].role == "assistant" else ""
        turns = turns[:-1] if answer else turns
        prompt = "\n\n".join(turn.text for turn in turns)
    else:
        has_answer = need_answer or data.get("answer")
        needs = "'prompt' and 'answer'" if need_answer else "'prompt'"
        prompt, answer = _text(data, "prompt", needs), _text(data, "answer", needs) if has_answer else ""
    row_id = _typed(data, "id", derived_id(prompt, answer))
    if not row_id:
        raise ValueError("'id' is empty; leave it out to have one derived")
    stages: list[Stage] = []
    for stage in _typed(data, "stages", list[object]()):
        stages.append(_stage(stage, answer, stages[-1] if stages else None, len(stages)))
    if stages and stages[-1].given:
        raise ValueError("the last stage is given; it is what the model writes, so only those before it may be")
    distance = _typed(data, "distance_words", 0)
    if not 0 <= distance <= MOST_WORDS:
        raise ValueError(f"'distance_words' is {shown(distance)}; it must be 0 or more, at most {MOST_WORDS}")
    return Row(
        id=row_id,
        prompt=prompt,
        answer=answer,
        kind=_typed(data, "kind", ""),
        stages=tuple(stages),
        distance_words=distance,
        leaks=_typed(data, "leaks", False),
        open=_typed(data, "open", False),
        extra={key: value for key, value in data.items() if key not in (*FIELDS, source)},
        turns=turns,
        framing=framing,
    )


def _text(data: Mapping[str, Any], key: str, needs: str) -> str:
    if key not in data:
        raise ValueError(f"{key!r} is missing; a row needs at least {needs}, or 'messages', or 'text'")
    text = _typed(data, key, "")
    if not text.strip():
        raise ValueError(f"{key!r} is empty; it must hold some text")
    return text


def row_to_dict(row: Row) -> dict[str, Any]:
    """The JSON object of a row. Flags are written only where true; every conversation is written as {"messages"}."""
    stages = [
        {name: getattr(stage, name) for name in STAGE_FIELDS} | ({"given": True} if stage.given else {})
        for stage in row.stages
    ]
    data: dict[str, Any] = {"id": row.id, "kind": row.kind}
    if row.turns:
        data["messages"] = as_messages(row.turns, row.answer)
    else:
        data |= {"prompt": row.prompt, "answer": row.answer}
    data |= {"stages": stages, "distance_words": row.distance_words}
    data |= {name: True for name in ("leaks", "open") if getattr(row, name)}
    return data | dict(row.extra)


def read_rows(path: str | os.PathLike[str], *, need_answers: bool = True) -> list[Row]:
    """Reads all rows of a JSON lines file.

    Args:
        path: The file.
        need_answers: Whether rows must have an answer (see `row_from_dict`).

    Raises:
        ValueError: `FILE:LINE: what is wrong`, for invalid rows, duplicate ids and a file without rows.
    """
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for number, data in iter_jsonl(path):
        try:
            row = row_from_dict(data, need_answer=need_answers)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {shortened(str(error), LONGEST_REASON)}") from error
        if row.id in lines:
            if "id" in data:
                taken = f"id {shown(row.id)} is taken by line {lines[row.id]}; ids are unique"
                raise ValueError(f"{path}:{number}: {taken}")
            # Repeating a pair is a legitimate way to weight it; the line number makes its id unique.
            row = replace(row, id=f"{row.id}-{number}")
        lines[row.id] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: holds no rows; at least one is needed")
    return rows


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row], *, overwrite: bool = True) -> int:
    """Writes rows to a JSON lines file, atomically; returns how many."""
    return write_lines(path, (json.dumps(row_to_dict(row), ensure_ascii=False) for row in rows), overwrite=overwrite)
