"""The row: one instruction with its answer, stages and checks; reading and writing files of them (JSON lines).

    {"id", "kind", "prompt", "answer", "stages": [{"instruction", "check", "start", "marker"}], "distance_words"}

`start` is the character offset of a stage in the answer, `marker` the text that opens it there ("" for the first
stage), `distance_words` the words of the answer before the stage that needs the prompt. `leaks` says that the answer
restates, before its last stage, what that stage needs. A stage with "given": true holds words of another turn, which
are read and not written: they carry no weight in training. Other fields are kept as they are. A row of only a prompt
and an answer is fine for training; its id is derived from the two.

Instead of the two a row may have {"messages"} or, if it has not those either, {"text"}: see `chat`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prosg.data.chat import as_messages, from_messages, from_text
from prosg.data.checks import validate_check
from prosg.data.templates import Turn
from prosg.utils.io import iter_jsonl, write_lines

__all__ = ["Row", "Stage", "derived_id", "read_rows", "row_from_dict", "row_to_dict", "write_rows"]

FIELDS = ("id", "kind", "prompt", "answer", "stages", "distance_words", "leaks")
STAGE_FIELDS = ("instruction", "check", "start", "marker")


@dataclass(frozen=True)
class Stage:
    """One stage of an answer: what was asked, how it is checked, where it starts and which text opens it.

    given: its text is another turn's, read and not written: no part of what is learned or scored.
    """

    instruction: str
    check: Mapping[str, Any]
    start: int
    marker: str
    given: bool = False


@dataclass(frozen=True)
class Row:
    """One prompt with its answer. `stages` is empty for plain training pairs; `extra` holds fields we do not know.

    turns: what comes before the answer, where the row is a conversation; `prompt` is then their bare text, and
        `templates.frame_row` makes of them what a model reads.
    framing: the template that the row's text was written in; "" for the other kinds of rows.
    """

    id: str
    prompt: str
    answer: str
    kind: str = ""
    stages: tuple[Stage, ...] = ()
    distance_words: int = 0
    leaks: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    framing: str = ""


def derived_id(prompt: str, answer: str) -> str:
    """The id of a row that came without one: the first 16 hex digits of sha256 over prompt and answer."""
    return hashlib.sha256(f"{prompt}\0{answer}".encode()).hexdigest()[:16]


def _typed(data: Mapping[str, Any], key: str, wanted: type, default: Any) -> Any:
    value = data.get(key, default)
    # bool is an int in Python, but `"start": true` is a mistake.
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{key!r} must be of type {wanted.__name__}, not {type(value).__name__}")
    return value


def _stage(data: object, answer: str, previous: Stage | None) -> Stage:
    if not isinstance(data, Mapping):
        raise ValueError(f"a stage is an object, not {type(data).__name__}")
    if set(data) - {"given"} != set(STAGE_FIELDS):
        wrong = sorted((set(data) - {"given"}) ^ set(STAGE_FIELDS))
        raise ValueError(
            f"a stage has exactly the fields {', '.join(STAGE_FIELDS)}, and may have given; not so: {', '.join(wrong)}"
        )
    validate_check(data["check"])
    stage = Stage(
        _typed(data, "instruction", str, ""),
        data["check"],
        _typed(data, "start", int, 0),
        _typed(data, "marker", str, ""),
        _typed(data, "given", bool, False),
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


def row_from_dict(data: object, *, need_answer: bool = True) -> Row:
    """Check one decoded JSON object and make a Row of it. Raises ValueError saying what was wrong.

    need_answer: without it a row may be a prompt alone: its answer is "".
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"a row is a JSON object, not {type(data).__name__}")
    source, turns, framing = "", tuple[Turn, ...](), ""
    if "prompt" not in data and "answer" not in data:
        source = next((key for key in ("messages", "text") if key in data), "")
    if source == "messages":
        turns = from_messages(data[source])
    elif source == "text":
        framing, turns = from_text(data[source])
    if turns:
        prompt, answer = "\n\n".join(turn.text for turn in turns[:-1]), turns[-1].text
    else:
        given = need_answer or data.get("answer")
        prompt, answer = _text(data, "prompt"), _text(data, "answer") if given else ""
    row_id = _typed(data, "id", str, derived_id(prompt, answer))
    if not row_id:
        raise ValueError("'id' is empty; leave it out to have one derived")
    stages: list[Stage] = []
    for stage in _typed(data, "stages", list, []):
        stages.append(_stage(stage, answer, stages[-1] if stages else None))
    distance = _typed(data, "distance_words", int, 0)
    if distance < 0:
        raise ValueError(f"'distance_words' is {distance}; it must be 0 or more")
    return Row(
        id=row_id,
        prompt=prompt,
        answer=answer,
        kind=_typed(data, "kind", str, ""),
        stages=tuple(stages),
        distance_words=distance,
        leaks=_typed(data, "leaks", bool, False),
        extra={key: value for key, value in data.items() if key not in (*FIELDS, source)},
        turns=turns[:-1],
        framing=framing,
    )


def _text(data: Mapping[str, Any], key: str) -> str:
    if key not in data:
        raise ValueError(f"{key!r} is missing; a row needs at least 'prompt' and 'answer', or 'messages', or 'text'")
    text: str = _typed(data, key, str, "")
    if not text.strip():
        raise ValueError(f"{key!r} is empty; it must hold some text")
    return text


def row_to_dict(row: Row) -> dict[str, Any]:
    """The row as it stands in a file; flags only where they are true. Conversations of both kinds have messages."""
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
    if row.leaks:
        data["leaks"] = True
    return data | dict(row.extra)


def read_rows(path: str | os.PathLike[str], *, need_answers: bool = True) -> list[Row]:
    """All rows of a file; need_answers as `row_from_dict`'s.

    Raises ValueError `FILE:LINE: what was wrong` for bad rows, twice used ids and no rows.
    """
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for number, data in iter_jsonl(path):
        try:
            row = row_from_dict(data, need_answer=need_answers)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        if row.id in lines:
            if "id" in data:
                raise ValueError(f"{path}:{number}: id {row.id!r} is taken by line {lines[row.id]}; ids are unique")
            # The same pair twice is a legitimate way to weight it; its second id says where it stood.
            row = replace(row, id=f"{row.id}-{number}")
        lines[row.id] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: holds no rows; at least one is needed")
    return rows


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row]) -> int:
    """Write rows to a JSON lines file, whole or not at all; returns how many."""
    return write_lines(path, (json.dumps(row_to_dict(row), ensure_ascii=False) for row in rows))
