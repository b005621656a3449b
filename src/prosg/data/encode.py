"""Rows as token ids: chat templates applied, text tokenized, stages located among the tokens."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

from prosg.data.row import Row, Stage
from prosg.data.templates import (
    NONE,
    OWN,
    TEMPLATES,
    ChatTemplate,
    FramedPrompt,
    OwnTemplate,
    Turn,
    without_blank_lines,
)
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.special import RWKV_SPECIAL, SpecialTokens

__all__ = [
    "EncodedRow",
    "encode_row",
    "encode_rows",
    "frame_row",
    "replay_prompt",
    "row_number",
    "template_of",
    "truncate_row",
]


class EncodedRow(NamedTuple):
    """A row as token ids.

    Attributes:
        row_id: `row_number` of the id.
        id: Id of the row.
        prompt: Token ids of the prompt.
        answer: Token ids of the answer, end token included.
        late_start: Answer token at which the last stage begins; without stages 80 % of the answer.
        has_stages: Whether the row has stages.
        late_text: First answer token after the last stage's marker, from which the model must know the contents.
        first_end: Answer token after the one that the second stage begins with; 0 where there is no second stage or
            there are turns. Up to there an answer says how long its first stage is, not what comes next.
        unscored: Spans [first, last) of answer tokens without weight: other turns' words, a replayed prompt.
        has_turns: Whether the answer contains other turns.
        template: Name of the template that the row was written in; "" for a text that is no prompt and answer.
        kind: As in `Row`.
        open: As in `Row`.
    """

    row_id: int
    id: str
    prompt: list[int]
    answer: list[int]
    late_start: int
    has_stages: bool
    late_text: int
    first_end: int = 0
    unscored: tuple[tuple[int, int], ...] = ()
    has_turns: bool = False
    template: str = NONE.name
    kind: str = ""
    open: bool = False

    @property
    def tokens(self) -> int:
        """Number of tokens, prompt and answer together."""
        return len(self.prompt) + len(self.answer)


UNKNOWN = OwnTemplate()
"""Of a model whose files and training name no template."""


def row_number(row_id: str) -> int:
    """63-bit hash of a row's id, equal in every process: it seeds the row's random draws in training."""
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big") >> 1


LONGEST_TOKEN = 256
"""Characters of a token at most. The longest of published vocabularies, runs of blanks, have half as many."""


def encode_row(
    row: Row, tokenizer: Tokenizer, special: SpecialTokens = RWKV_SPECIAL, *, most: int | None = None
) -> EncodedRow:
    """Tokenizes prompt and answer separately and appends the end token to the answer, unless it is open.

    A token across the boundary of two stages belongs to the later one.

    Args:
        row: A row without conversation turns (see `frame_row`).
        tokenizer: The model's tokenizer.
        special: What stands before the prompt, and what ends the answer, under the row's template.
        most: Tokens of which no more than the last of the prompt and the first of the answer are wanted: of longer
            texts the rest is not tokenized, and an answer that is cut has no end token.
    """
    longest = None if most is None else most * LONGEST_TOKEN
    cut = longest is not None and len(row.answer) > longest
    framed = FramedPrompt(row.prompt, row.cuts).after(0 if longest is None else max(len(row.prompt) - longest, 0))
    answer, offsets = tokenizer.encode_offsets(row.answer[:longest])
    ends_at = list(accumulate((end for _, end in offsets), max))

    def token_at(character: int) -> int:
        return bisect_right(ends_at, character)

    given_spans: list[tuple[int, int]] = []
    first_end = 0
    if row.stages:
        last = row.stages[-1]
        late, text = token_at(last.start), token_at(last.start + len(last.marker))
        ends = [stage.start for stage in row.stages[1:]] + [len(row.answer)]
        spans = [(stage.start, end) for stage, end in zip(row.stages, ends, strict=True) if stage.given]
        given_spans = [(token_at(start), token_at(end)) for start, end in spans]
        if len(row.stages) > 1 and not given_spans:
            first_end = token_at(row.stages[1].start) + 1
    else:
        late = text = len(answer) * 4 // 5
    return EncodedRow(
        row_id=row_number(row.id),
        id=row.id,
        prompt=framed.prompt_ids(tokenizer, special),
        answer=answer if cut or row.open else [*answer, special.end[0]],
        late_start=late,
        has_stages=bool(row.stages) and not (cut and text == len(answer)),
        late_text=text,
        first_end=first_end,
        unscored=tuple(given_spans),
        has_turns=bool(given_spans),
        kind=row.kind,
        open=row.open,
    )


def template_of(row: Row, template: str, tokenizer: Tokenizer, own: OwnTemplate = UNKNOWN) -> ChatTemplate:
    """The template that `frame_row` applies to a row.

    Args:
        row: A row of any form.
        template: A name in `TEMPLATES`, or `OWN`. "" chooses by row: the template of a {"text"} row; the model's own
            for {"messages"}; and for a plain prompt the one that the model was trained with, or none. An open row,
            running text, has none whatever it says.
        tokenizer: The model's tokenizer, by which World's models are known.
        own: The model's own template.

    Raises:
        ValueError: for an unknown name, and for a model without a template where its own is wanted.
    """
    if row.open:
        return NONE
    if not template and row.framing:
        return TEMPLATES[row.framing]
    if template or row.turns or own.trained is not None:
        return own.choose(template, tokenizer)
    return NONE


def frame_row(row: Row, template: str, tokenizer: Tokenizer, own: OwnTemplate = UNKNOWN) -> Row:
    """Applies a chat template: writes the prompt and the answer as it does, and relocates the stages.

    Args:
        row: A row of any form.
        template: As in `template_of`.
        tokenizer: The model's tokenizer.
        own: The model's own template.

    Returns:
        A row without turns; the row itself where no template applies.

    Raises:
        ValueError: For a conversation that the template cannot write, and if removing blank lines destroys a stage's
            marker.
    """
    chosen = template_of(row, template, tokenizer, own)
    turns = row.turns or (Turn("user", row.prompt),)
    if chosen == NONE:
        if len(row.turns) > 1 or (row.turns and own.trained is None):
            names = ", ".join([*(name for name in TEMPLATES if name != NONE.name), OWN])
            raise ValueError(
                f"chat rows need a template; allowed: --template {names} (with World's tokenizer, world is the default)"
            )
        return replace(row, turns=(), framing="") if row.turns else row
    prompt = chosen.frame(turns)
    if not chosen.reshapes:
        return replace(row, prompt=prompt.text, cuts=prompt.cuts, turns=(), framing="")
    parts, size, stages = list[str](), 0, list[Stage]()
    starts = [stage.start for stage in row.stages] or [0]
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(row.answer)], strict=True)):
        part = without_blank_lines(row.answer[start:end])
        if index == 0:
            part = " " + part.lstrip()
        else:
            while part.startswith("\n") and parts and (not parts[-1] or parts[-1].endswith("\n")):
                before = parts.pop()  # else a blank line would separate the stages
                size -= len(before) - len(before.rstrip("\n"))
                if before.rstrip("\n"):
                    parts.append(before.rstrip("\n"))
            marker = without_blank_lines(row.stages[index].marker)
            if not part.startswith(marker):
                raise ValueError(
                    f"row {row.id}: template {chosen.name!r} removes blank lines of the marker of stage {index + 1}"
                )
            stages.append(replace(row.stages[index], start=size, marker=marker))
        parts.append(part)
        size += len(part)
    if row.stages:
        stages.insert(0, row.stages[0])
    answer = "".join(parts).rstrip()
    return replace(row, prompt=prompt.text, answer=answer, stages=tuple(stages), turns=(), framing="")


def replay_prompt(row: EncodedRow) -> EncodedRow:
    """Inserts the prompt's tokens again, unscored, before the last stage."""
    start, size = row.late_start, len(row.prompt)
    answer = [*row.answer[:start], *row.prompt, *row.answer[start:]]
    end = start + size
    unscored = (*row.unscored, (start, end))
    first_end = row.first_end + size * (row.first_end > start)
    return row._replace(
        answer=answer, late_start=end, late_text=row.late_text + size, first_end=first_end, unscored=unscored
    )


def encode_rows(
    rows: Iterable[Row],
    tokenizer: Tokenizer,
    special: SpecialTokens = RWKV_SPECIAL,
    *,
    max_tokens: int | None = None,
    template: str = "",
    own: OwnTemplate = UNKNOWN,
    truncate: bool = False,
) -> tuple[list[EncodedRow], list[str]]:
    """Frames and tokenizes rows.

    Args:
        rows: Rows of any form.
        tokenizer: The model's tokenizer.
        special: What stands before prompts, and what ends answers.
        max_tokens: Most tokens of a row, prompt and answer together; None: no limit. A text of more than
            `LONGEST_TOKEN` characters for each of them is too long before it is tokenized.
        template: As in `template_of`.
        own: The model's own template.
        truncate: Truncate rows that are too long (see `truncate_row`) instead of leaving them out.

    Returns:
        The encoded rows, and the ids of those that were too long.

    Raises:
        ValueError: As `template_of` and `frame_row`.
    """
    encoded_rows, too_long = [], []
    for row in rows:
        chosen = template_of(row, template, tokenizer, own)
        framed = frame_row(row, template, tokenizer, own)
        ends = chosen.special(special, tokenizer)
        beyond = max_tokens is not None and len(framed.prompt) + len(framed.answer) > max_tokens * LONGEST_TOKEN
        encoded = None if beyond and not truncate else encode_row(framed, tokenizer, ends, most=max_tokens)
        if max_tokens is not None and (beyond or encoded is None or encoded.tokens > max_tokens):
            too_long.append(row.id)
            if encoded is None or not truncate:
                continue
            encoded = truncate_row(encoded, max_tokens, ends)
        assert encoded is not None
        encoded_rows.append(encoded._replace(template=chosen.name))
    return encoded_rows, too_long


def truncate_row(row: EncodedRow, max_tokens: int, special: SpecialTokens = RWKV_SPECIAL) -> EncodedRow:
    """Truncates a row to `max_tokens` tokens, at least 2.

    The prompt loses its beginning, since the question and the cue to answer are at its end; what has to stand before
    every prompt stays. If the answer alone is too
    long, the prompt keeps up to half of the tokens and the answer loses its end, end token included, so that the model
    does not learn to stop in the middle. If the last stage's text is cut off, the row counts as one without stages.
    """
    if len(row.answer) < max_tokens:
        return row._replace(prompt=_end_of(row.prompt, max_tokens - len(row.answer), special))
    prompt = _end_of(row.prompt, max_tokens // 2, special)
    answer = row.answer[: max_tokens - len(prompt)]
    if row.late_text < len(answer):
        return row._replace(prompt=prompt, answer=answer)
    late = len(answer) * 4 // 5
    return row._replace(prompt=prompt, answer=answer, late_start=late, late_text=late, first_end=0, has_stages=False)


def _end_of(prompt: list[int], tokens: int, special: SpecialTokens) -> list[int]:
    """The last `tokens` ids of a prompt, of which the first is again what stands before every prompt."""
    end = prompt[-tokens:]
    if special.begin is None or len(end) == len(prompt):
        return end
    return [special.begin, *end[1:]] if tokens > 1 else end
