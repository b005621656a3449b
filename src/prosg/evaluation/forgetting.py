"""The forgetting curve: how often the late stage is exactly right, against the distance to the prompt.

Free-running and length-controlled: each row samples one long story; at every wanted number of sentences the state is
forked, the late stage's marker forced, and the late stage written greedily. While the story lasts, the marker's first
token and the end cannot be drawn. Distances are tokens really generated before the late stage.

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
from prosg.core.rng import uniforms
from prosg.core.state import State, map_state, replace_rows, take_rows
from prosg.core.tensors import pad
from prosg.data.encode import EncodedRow
from prosg.generation.decode import Again, decode, sentence_ends, to_read
from prosg.generation.sampling import TOKENS_PER_SENTENCE, Sampling, pick
from prosg.tokenizers.bpe import AnyTokenizer

__all__ = ["LATE_TOKENS", "Written", "free_running", "late_tokens", "length_controlled", "read_stories"]

TEMPERATURE = 0.8
LATE_TOKENS = 48
"""Longest late stage, unless a row's own is longer."""
CHUNK = 512
"""Tokens of a given story that are read in one call."""


class Written(NamedTuple):
    """One row's answer at one distance."""

    text: str
    distance_tokens: int
    """tokens generated, or given, before the late stage"""


class _Fork(NamedTuple):
    state: State
    tokens: Tensor
    """(B,) story tokens read at the fork; 0 where it has not come"""


def late_tokens(rows: Sequence[EncodedRow]) -> int:
    """Room for a late stage: that of every row fits, its end token included."""
    return max(LATE_TOKENS, *(len(row.answer) - row.late_text for row in rows))


@torch.no_grad()
def length_controlled(
    backbone: Backbone,
    encoded: EncodedPrompt,
    tokenizer: AnyTokenizer,
    rows: Sequence[EncodedRow],
    markers: Sequence[str],
    sentences: Sequence[int],
    seed: int,
    *,
    turns: Sequence[str] = (),
    replay: bool = False,
    again: Again | None = None,
    end_token: int = Sampling.end_token,
    tell: Callable[[float], None] | None = None,
) -> list[list[Written]]:
    """For each number of `sentences`, every row's answer. `markers` opens each row's late stage.

    turns: other turns of each row, read after the story. replay: the prompt is read again before the marker (a rival
    that needs no module); again: while the story is written, too. `tell` gets the share done.
    """
    marker_ids = [tokenizer.encode(marker) for marker in markers]
    device = encoded.logits.device
    first = torch.tensor([ids[0] for ids in marker_ids], device=device).unsqueeze(1)
    end = torch.tensor([end_token], device=device)
    ends = sentence_ends(tokenizer, encoded.logits.shape[1]).to(device)
    numbers = np.array([row.row_id for row in rows], dtype=np.uint64)
    batch, longest = len(rows), max(sentences)
    state, logits = encoded.state, encoded.logits
    forks = {
        n: _Fork(map_state(torch.clone, state), torch.zeros(batch, dtype=torch.int64, device=device)) for n in sentences
    }
    count = torch.zeros(batch, dtype=torch.int64, device=device)
    story: list[Tensor] = []
    temperature = torch.full((batch,), TEMPERATURE, device=device)
    limit = longest * TOKENS_PER_SENTENCE  # a row that has not ended its sentences by then is judged where it stands
    for step in range(limit):
        logits = logits.index_fill(1, end, -torch.inf).scatter(1, first, -torch.inf)
        uniform = torch.from_numpy(uniforms(seed, step, numbers, 1)[:, 0]).float().to(device)
        token = pick(logits, temperature, uniform)
        story.append(token)
        read, lengths = to_read(token, step, again)
        output = backbone(read, state, update=encoded.update, lengths=lengths, logits="last")
        assert output.logits is not None
        state, logits = output.state, output.logits
        ended = ends[token]
        count += ended
        for n, fork in forks.items():
            arrived = ended & (count == n)
            if step + 1 == limit:
                arrived = fork.tokens == 0
            if bool(arrived.any()):
                here = arrived.nonzero().squeeze(1)
                replaced = replace_rows(fork.state, here, take_rows(state, here))
                forks[n] = _Fork(replaced, fork.tokens.masked_fill(arrived, step + 1))
        if tell is not None and step % 50 == 0:
            tell(float(count.min()) / longest)
        if bool((count >= longest).all()):
            break
    table = torch.stack(story, 1).tolist()
    answers = []
    for n in sentences:
        written = [row[:at] for row, at in zip(table, forks[n].tokens.tolist(), strict=True)]
        state = forks[n].state
        answers.append(_answers(backbone, state, encoded, tokenizer, rows, written, markers, turns, replay, end_token))
    return answers


@torch.no_grad()
def read_stories(
    backbone: Backbone,
    encoded: EncodedPrompt,
    tokenizer: AnyTokenizer,
    rows: Sequence[EncodedRow],
    markers: Sequence[str],
    stories: Sequence[Sequence[str]],
    *,
    turns: Sequence[str] = (),
    replay: bool = False,
    tell: Callable[[float], None] | None = None,
) -> list[list[Written]]:
    """For each of `stories`, which are every row's story at one distance, every row's answer after reading it.

    A row's stories begin with one another, shorter ones first: the longest is read once. Other options as
    `length_controlled`'s. Raises ValueError for stories that do not begin so.
    """
    state, told = encoded.state, [""] * len(rows)
    ids: list[list[int]] = [[] for _ in rows]
    answers = []
    for number, texts in enumerate(stories):
        if not all(text.startswith(before) for text, before in zip(texts, told, strict=True)):
            raise ValueError("a row's longer story has to begin with its shorter one")
        more = [tokenizer.encode(text[len(before) :]) for text, before in zip(texts, told, strict=True)]
        state = _read(backbone, state, encoded, more)
        ids, told = [a + b for a, b in zip(ids, more, strict=True)], list(texts)
        answers.append(_answers(backbone, state, encoded, tokenizer, rows, ids, markers, turns, replay))
        if tell is not None:
            tell((number + 1) / len(stories))
    return answers


def _read(backbone: Backbone, state: State, encoded: EncodedPrompt, ids: Sequence[Sequence[int]]) -> State:
    """The state after these tokens of each row, read chunk by chunk under the update."""
    device = encoded.logits.device
    for start in range(0, max(map(len, ids)), CHUNK):
        piece = [row[start : start + CHUNK] for row in ids]
        lengths = torch.tensor([len(row) for row in piece], device=device)
        output = backbone(pad(piece).to(device), state, update=encoded.update, lengths=lengths, logits="none")
        state = output.state
    return state


def _answers(
    backbone: Backbone,
    state: State,
    encoded: EncodedPrompt,
    tokenizer: AnyTokenizer,
    rows: Sequence[EncodedRow],
    stories: Sequence[list[int]],
    markers: Sequence[str],
    turns: Sequence[str],
    replay: bool,
    end_token: int = Sampling.end_token,
) -> list[Written]:
    """Every row's answer from the state after its story: turns and marker are read, the late stage is written."""
    marker_ids = [tokenizer.encode(marker) for marker in markers]
    between = [tokenizer.encode(text) for text in turns] if turns else [[] for _ in rows]
    again = [row.prompt if replay else [] for row in rows]
    forced = [a + b + c for a, b, c in zip(between, again, marker_ids, strict=True)]
    late = _late_stage(backbone, state, encoded, forced, late_tokens(rows), end_token)
    before = [story + turn for story, turn in zip(stories, between, strict=True)]
    return [Written(tokenizer.decode(before[i] + marker_ids[i] + late[i]), len(before[i])) for i in range(len(rows))]


def _late_stage(
    backbone: Backbone,
    state: State,
    encoded: EncodedPrompt,
    forced: Sequence[Sequence[int]],
    room: int,
    end_token: int,
) -> list[list[int]]:
    """Read the forced tokens, then write greedily until the end token, at most `room` tokens."""
    device = encoded.logits.device
    lengths = torch.tensor([len(ids) for ids in forced], device=device)
    output = backbone(pad(forced).to(device), state, update=encoded.update, lengths=lengths, logits="last")
    written: list[list[int]] = [[] for _ in forced]
    running = torch.ones(len(forced), dtype=torch.bool, device=device)
    for _ in range(room):
        assert output.logits is not None
        token = output.logits.argmax(1)
        running &= token != end_token
        if not bool(running.any()):
            break
        for row, value, alive in zip(written, token.tolist(), running.tolist(), strict=True):
            if alive:
                row.append(value)
        output = backbone(token.unsqueeze(1), output.state, update=encoded.update, logits="last")
    return written


@torch.no_grad()
def free_running(
    backbone: Backbone,
    encoded: EncodedPrompt,
    tokenizer: AnyTokenizer,
    rows: Sequence[EncodedRow],
    markers: Sequence[str],
    seed: int,
    max_tokens: int,
) -> list[Written]:
    """Every row's answer without length control: the model decides when the late stage begins.

    The distance is that of the text before the marker, which the tokenizer cuts at the same place as the whole.
    """
    ids: list[list[int]] = [[] for _ in rows]
    sampling = Sampling(max_tokens=max_tokens, temperature=TEMPERATURE, seed=seed)
    numbers = np.array([row.row_id for row in rows], dtype=np.uint64)
    marker_ids = [tokenizer.encode(marker) for marker in markers]
    for token, running in decode(backbone, encoded, sampling, markers=marker_ids, rows=numbers):
        for row, value, alive in zip(ids, token.tolist(), running.tolist(), strict=True):
            if alive and value != sampling.end_token:
                row.append(value)
    texts = [tokenizer.decode(row) for row in ids]
    return [
        Written(text, len(tokenizer.encode(text.partition(marker)[0])))
        for text, marker in zip(texts, markers, strict=True)
    ]
