"""Answers at controlled distances: how often the late stage is exactly right, against the distance to the prompt.

Free-running and length-controlled: each row samples one long story (`decode` holds its marker and its end); at every
wanted number of sentences the row is forked, the late stage's marker forced, and the late stage written greedily.
Distances are tokens really generated before the late stage.

Where the story is a text that is given (`read_stories`), it is read instead of written, and nothing is drawn. Other
turns are read in both, after the story, and count in the distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import replace_rows, take_rows
from prosg.core.tensors import pad
from prosg.data.encode import EncodedRow
from prosg.generation.decode import Replay, advance, decode, limited
from prosg.generation.length_control import sentence_ends
from prosg.generation.sampling import Sampling
from prosg.tokenizers.base import Tokenizer

__all__ = ["LATE_TOKENS", "ControlledAnswer", "LateStages", "late_tokens", "length_controlled", "read_stories"]

TEMPERATURE = 0.8
LATE_TOKENS = 48
"""Longest late stage, unless a row's own is longer."""


class ControlledAnswer(NamedTuple):
    """One row's answer at one distance."""

    text: str
    distance_tokens: int
    """tokens generated, or given, before the late stage"""
    finite: bool
    """whether the model's logits were numbers all along"""


def late_tokens(rows: Sequence[EncodedRow]) -> int:
    """Room for a late stage: that of every row fits, its end token included."""
    return max(LATE_TOKENS, *(len(row.answer) - row.late_text for row in rows))


class LateStages:
    """Writes the late stages of rows whose stories have been written or read.

    Attributes:
        backbone: What writes.
        tokenizer: Of the model.
        rows: The rows; their own late stages say how much room there is.
        markers: The text that opens each row's late stage.
        turns: Other turns of each row, read after the story; empty for none.
        replay: Whether the prompt is read again before the marker (a rival that needs no module).
        refresh: Begin the late stage from the prompt's end, with so many tokens of the story's end read once more; None
            goes on from the story's.
        ends: Ids of the tokens that end each row's answer; those of `Sampling` by default.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: Tokenizer,
        rows: Sequence[EncodedRow],
        markers: Sequence[str],
        *,
        turns: Sequence[str] = (),
        replay: bool = False,
        refresh: int | None = None,
        ends: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.backbone, self.tokenizer, self.rows = backbone, tokenizer, rows
        self.markers = [tokenizer.encode(marker) for marker in markers]
        self.turns = [tokenizer.encode(text) for text in turns] if turns else [[] for _ in rows]
        self.prompts = [row.prompt if replay else [] for row in rows]
        self.refresh = refresh
        self.ends = [Sampling().ends] * len(rows) if ends is None else ends

    def write(self, begin: EncodedPrompt, place: EncodedPrompt, stories: Sequence[list[int]]) -> list[ControlledAnswer]:
        """Writes every row's late stage, after its turns and its marker.

        Args:
            begin: The rows' prompts, for states that are begun anew.
            place: After the rows' stories.
            stories: Their token ids.
        """
        before = [story + turn for story, turn in zip(stories, self.turns, strict=True)]
        read = self.turns
        if self.refresh is not None:
            place = begin
            read = [ids[len(ids) - min(self.refresh, len(ids)) :] for ids in before]
        forced = [a + b + c for a, b, c in zip(read, self.prompts, self.markers, strict=True)]
        lengths = torch.tensor([len(ids) for ids in forced], device=place.logits.device)
        place = advance(self.backbone, place, pad(forced).to(place.logits.device), lengths)
        sampling = Sampling(max_tokens=late_tokens(self.rows), temperature=0.0)
        late: list[list[int]] = [[] for _ in forced]
        finite = [True] * len(forced)
        for step in decode(self.backbone, place, sampling, ends=self.ends):
            for row, (token, running) in enumerate(zip(step.tokens, step.running, strict=True)):
                if running:
                    finite[row] &= step.finite[row]
                    if token not in self.ends[row]:
                        late[row].append(token)
        return [
            ControlledAnswer(self.tokenizer.decode(ids + marker + end), len(ids), numbers)
            for ids, marker, end, numbers in zip(before, self.markers, late, finite, strict=True)
        ]


def length_controlled(
    late: LateStages,
    encoded: EncodedPrompt,
    sentences: Sequence[int],
    seed: int,
    *,
    replay: Replay | None = None,
    refresh_every: int = 0,
    refresh_keep: int = Sampling.refresh_keep,
    tokens_per_sentence: int = Sampling.tokens_per_sentence,
    tell: Callable[[float], None] | None = None,
) -> list[list[ControlledAnswer]]:
    """Samples one story per row and forks it at every length.

    Args:
        late: Writes the late stages.
        encoded: The rows' prompts, under whatever condition.
        sentences: Lengths of the stories.
        seed: Of the stories.
        replay: Prompts that are read again while the story is written.
        refresh_every, refresh_keep: As in `Sampling`, while the story is written.
        tokens_per_sentence: A story that has not ended its sentences after so many tokens each is judged where it is.
        tell: Gets the share done.

    Returns:
        For each of `sentences`, every row's answer.
    """
    device, longest = encoded.logits.device, max(sentences)
    forks = dict.fromkeys(sentences, encoded)
    lengths = {n: [0] * encoded.batch for n in sentences}
    sampling = Sampling(
        temperature=TEMPERATURE,
        seed=seed,
        hold_until=longest,
        force_marker=["held"] * encoded.batch,  # the tokens are given below
        tokens_per_sentence=tokens_per_sentence,
        refresh_every=refresh_every,
        refresh_keep=refresh_keep,
    )
    steps = decode(
        late.backbone,
        encoded,
        sampling,
        markers=late.markers,
        ends_sentence=sentence_ends(late.tokenizer, encoded.logits.shape[1]),
        numbers=np.array([row.row_id for row in late.rows], dtype=np.uint64),
        replay=replay,
        ends=late.ends,
    )
    story: list[Sequence[int]] = []
    written: Sequence[int] = [0] * encoded.batch
    for step in steps:  # the place before a step is the one after the token of the step before
        last = len(story) == sampling.longest_story
        ended = [last or not finite for finite in step.finite]
        for n in sentences if story else ():
            arrived = [row for row, length in enumerate(lengths[n]) if not length and (written[row] >= n or ended[row])]
            if arrived:
                forks[n] = _fork(forks[n], step.before, torch.tensor(arrived, device=device))
                for row in arrived:
                    lengths[n][row] = len(story)
        if all(map(all, lengths.values())):
            break
        story.append(step.tokens)
        written = step.sentences
        if tell is not None and len(story) % 50 == 1:
            under_way = [count for count, over in zip(written, ended, strict=True) if not over]
            tell(max(min(under_way, default=longest) / longest, (len(story) - 1) / sampling.longest_story))
    table = [*zip(*story, strict=True)]
    return [
        late.write(encoded, forks[n], [[*row[:end]] for row, end in zip(table, lengths[n], strict=True)])
        for n in sentences
    ]


def _fork(fork: EncodedPrompt, place: EncodedPrompt, rows: Tensor) -> EncodedPrompt:
    """The fork with `rows` (N,) as they are at this place; updates are the same everywhere."""
    state = replace_rows(fork.state, rows, take_rows(place.state, rows))
    return fork.replace(state=state, logits=fork.logits.index_copy(0, rows, place.logits[rows]))


def read_stories(
    late: LateStages,
    encoded: EncodedPrompt,
    stories: Sequence[Sequence[str]],
    *,
    tell: Callable[[float], None] | None = None,
) -> list[list[ControlledAnswer]]:
    """Reads given stories instead of sampling them.

    Args:
        late: Writes the late stages.
        encoded: The rows' prompts, under whatever condition.
        stories: For each length every row's story; a row's stories begin with one another, shorter ones first, so
            that the longest is read once.
        tell: Gets the share done.

    Returns:
        For each of `stories`, every row's answer.

    Raises:
        ValueError: for stories that do not begin with one another.
    """
    begin = encoded
    read, ids = [""] * encoded.batch, [list[int]() for _ in late.rows]
    answers = []
    for number, texts in enumerate(stories, 1):
        if not all(text.startswith(before) for text, before in zip(texts, read, strict=True)):
            raise ValueError("a row's longer story has to begin with its shorter one")
        more = [late.tokenizer.encode(text[len(before) :]) for text, before in zip(texts, read, strict=True)]
        lengths = torch.tensor([len(row) for row in more], device=encoded.logits.device)
        encoded = limited(advance(late.backbone, encoded, pad(more).to(encoded.logits.device), lengths))
        ids, read = [a + b for a, b in zip(ids, more, strict=True)], list(texts)
        answers.append(late.write(begin, encoded, ids))
        if tell is not None:
            tell(number / len(stories))
    return answers
