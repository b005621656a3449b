"""Rows as token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

from prosg.data.row import Row, Stage
from prosg.data.templates import TEMPLATES, Turn, closed_up, frame
from prosg.tokenizers.world import WORLD_FINGERPRINT

__all__ = [
    "EncodedRow",
    "OffsetTokenizer",
    "cut",
    "encode_row",
    "encode_rows",
    "frame_row",
    "row_number",
    "template_of",
]


@runtime_checkable
class OffsetTokenizer(Protocol):
    """All that is asked of a tokenizer here; those of `prosg.tokenizer` are some."""

    def encode(self, text: str) -> list[int]: ...

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...


class EncodedRow(NamedTuple):
    """A row as ids. `answer` ends with the end token; `late_start` is the answer token where its last stage begins.

    `late_text` is the first token after that stage's marker: what the model has to know, not where it chose to begin.
    """

    row_id: int
    id: str
    prompt: list[int]
    answer: list[int]
    late_start: int
    has_stages: bool
    late_text: int
    unscored: tuple[tuple[int, int], ...] = ()
    """answer tokens [first, last) that carry no weight: other turns' words, a prompt that is read again"""
    has_turns: bool = False
    """whether other turns stand in the answer: what they give comes after the prompt, so nothing is lost on the way"""

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.answer)


def row_number(row_id: str) -> int:
    """A 63-bit number for an id, the same in every process: seed of a row's random draws in training."""
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big") >> 1


def encode_row(row: Row, tokenizer: OffsetTokenizer, end_id: int = 0) -> EncodedRow:
    """Prompt and answer are tokenised apart, the end token is added to the answer.

    `late_start` is the first token that holds a character of the last stage's marker or text; without stages, 80 % of
    the answer's tokens stand before it.
    """
    answer, offsets = tokenizer.encode_offsets(row.answer)

    def first_after(place: int) -> int:
        return next((index for index, (_, end) in enumerate(offsets) if end > place), len(answer))

    given: list[tuple[int, int]] = []
    if row.stages:
        last = row.stages[-1]
        late, text = first_after(last.start), first_after(last.start + len(last.marker))
        ends = [stage.start for stage in row.stages[1:]] + [len(row.answer)]
        spans = [(stage.start, end) for stage, end in zip(row.stages, ends, strict=True) if stage.given]
        given = [(first_after(start), first_after(end)) for start, end in spans]
    else:
        late = text = len(answer) * 4 // 5
    return EncodedRow(
        row_id=row_number(row.id),
        id=row.id,
        prompt=tokenizer.encode(row.prompt),
        answer=[*answer, end_id],
        late_start=late,
        has_stages=bool(row.stages),
        late_text=text,
        unscored=tuple(given),
        has_turns=bool(given),
    )


def template_of(row: Row, template: str, tokenizer: OffsetTokenizer) -> str:
    """The template that a row is framed by; "" where it needs none, or has none that fits. See `frame_row`."""
    name = template or row.framing
    if not name and row.turns and getattr(tokenizer, "fingerprint", "") == WORLD_FINGERPRINT:
        name = "world"
    return name


def frame_row(row: Row, template: str, tokenizer: OffsetTokenizer) -> Row:
    """The row as its model is to see it: prompt with the cues, answer as the reply to them, stages where they then are.

    template: a name of `TEMPLATES`; "" takes what a row came in (text rows), the tokenizer's (chat rows: world where it
    is World's), and none for rows of a prompt and an answer.

    Raises ValueError for chat rows without a template, and where a stage's marker is lost between closed-up lines.
    """
    name = template_of(row, template, tokenizer)
    turns = row.turns or (Turn("user", row.prompt),)
    if name in ("", "none"):
        if row.turns:
            named = ", ".join(list(TEMPLATES)[1:])
            raise ValueError(
                f"chat rows need a template that says who speaks; allowed: --template {named} (World's tokenizer has "
                "its own)"
            )
        return row
    answer, stages = "", list[Stage]()
    starts = [stage.start for stage in row.stages] or [0]
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(row.answer)], strict=True)):
        part = closed_up(row.answer[start:end])
        if index == 0:
            part = " " + part.lstrip()
        else:
            if part.startswith("\n"):
                answer = answer.rstrip("\n")  # or a blank line would be where the stages meet
            marker = closed_up(row.stages[index].marker)
            if not part.startswith(marker):
                raise ValueError(f"row {row.id}: template {name!r} closes up the marker of stage {index + 1}")
            stages.append(replace(row.stages[index], start=len(answer), marker=marker))
        answer += part
    if row.stages:
        stages.insert(0, row.stages[0])
    return replace(row, prompt=frame(turns, name), answer=answer.rstrip(), stages=tuple(stages), turns=(), framing="")


def replay_prompt(row: EncodedRow) -> EncodedRow:
    """The row with its prompt read again, unscored, right before the last stage."""
    start, size = row.late_start, len(row.prompt)
    answer = [*row.answer[:start], *row.prompt, *row.answer[start:]]
    end = start + size
    unscored = (*row.unscored, (start, end))
    return row._replace(answer=answer, late_start=end, late_text=row.late_text + size, unscored=unscored)


def encode_rows(
    rows: Iterable[Row],
    tokenizer: OffsetTokenizer,
    end_id: int = 0,
    *,
    max_tokens: int | None = None,
    template: str = "",
    truncate: bool = False,
) -> tuple[list[EncodedRow], list[str]]:
    """Encode rows, framed by `template` (see `frame_row`).

    Returns them, and the ids of those of more than `max_tokens`, prompt and answer together, which are left out; with
    `truncate` they are cut instead (see `cut`).
    """
    kept, too_long = [], []
    for row in rows:
        encoded = encode_row(frame_row(row, template, tokenizer), tokenizer, end_id)
        if max_tokens is not None and encoded.tokens > max_tokens:
            too_long.append(row.id)
            if not truncate:
                continue
            encoded = cut(encoded, max_tokens)
        kept.append(encoded)
    return kept, too_long


def cut(row: EncodedRow, max_tokens: int) -> EncodedRow:
    """The row with `max_tokens` tokens, at least 2.

    The prompt loses its beginning: what is asked, and the cue to answer, stand at its end. An answer that is too long
    even so loses its end, the end token with it, so that no end is learned where there is none; its prompt keeps up to
    half of the tokens. A last stage that is cut off is none any more.
    """
    if len(row.answer) < max_tokens:
        return row._replace(prompt=row.prompt[len(row.answer) - max_tokens :])
    prompt = row.prompt[-(max_tokens // 2) :]
    answer = row.answer[: max_tokens - len(prompt)]
    if row.late_text < len(answer):
        return row._replace(prompt=prompt, answer=answer)
    late = len(answer) * 4 // 5
    return row._replace(prompt=prompt, answer=answer, late_start=late, late_text=late, has_stages=False)
