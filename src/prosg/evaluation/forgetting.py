"""The forgetting curve: how often the late stage is exactly right, against the distance to the prompt.

Free-running and length-controlled: each row samples one long story; at every wanted number of sentences the state is
forked, the late stage's marker forced, and the late stage written greedily. While the story lasts, the marker's first
token and the end cannot be drawn. Distances are tokens really generated before the late stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.data.collate import EncodedRow, pad
from prosg.encoded import EncodedPrompt
from prosg.generate import TOKENS_PER_SENTENCE, Sampling, decode, pick, sentence_ends
from prosg.perturb import uniforms
from prosg.state import State, map_state, replace_rows, take_rows
from prosg.tokenizer import AnyTokenizer

__all__ = ["Written", "free_running", "length_controlled"]

TEMPERATURE = 0.8
LATE_TOKENS = 48
"""Longest late stage."""


class Written(NamedTuple):
    """One row's answer at one distance."""

    text: str
    distance_tokens: int
    """tokens generated, or read again, before the late stage"""


class _Fork(NamedTuple):
    state: State
    tokens: Tensor
    """(B,) story tokens read at the fork; 0 where it has not come"""


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
    replay: bool = False,
    tell: Callable[[float], None] | None = None,
) -> list[list[Written]]:
    """For each number of `sentences`, every row's answer. `markers` opens each row's late stage.

    replay: the prompt is read again before the marker (a rival that needs no module). `tell` gets the share done.
    """
    marker_ids = [tokenizer.encode(marker) for marker in markers]
    device = encoded.logits.device
    first = torch.tensor([ids[0] for ids in marker_ids], device=device).unsqueeze(1)
    end = torch.tensor([Sampling.end_token], device=device)
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
        output = backbone(token.unsqueeze(1), state, update=encoded.update, logits="last")
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
        forced = [(row.prompt if replay else []) + ids for row, ids in zip(rows, marker_ids, strict=True)]
        late = _late_stage(backbone, forks[n].state, encoded, forced)
        at = forks[n].tokens.tolist()
        answers.append(
            [Written(tokenizer.decode(table[i][: at[i]] + marker_ids[i] + late[i]), at[i]) for i in range(batch)]
        )
    return answers


def _late_stage(
    backbone: Backbone, state: State, encoded: EncodedPrompt, forced: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Read the forced tokens, then write greedily until the end token."""
    device = encoded.logits.device
    lengths = torch.tensor([len(ids) for ids in forced], device=device)
    output = backbone(pad(forced).to(device), state, update=encoded.update, lengths=lengths, logits="last")
    written: list[list[int]] = [[] for _ in forced]
    running = torch.ones(len(forced), dtype=torch.bool, device=device)
    for _ in range(LATE_TOKENS):
        assert output.logits is not None
        token = output.logits.argmax(1)
        running &= token != Sampling.end_token
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
