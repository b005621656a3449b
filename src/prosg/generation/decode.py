"""Writing an answer, token by token: sampling, length control, stop strings, streaming.

The first token comes from the prompt's own last logits; from then on every step runs under the update (figure 3).

Length control (`hold_until`, `force_marker`): while a row is *held*, neither the end of the text nor the marker's first
token can be drawn; after `hold_until` sentences the marker is *forced*, token by token; from the marker on, forced or
written freely, the row is *late* and `late_temperature` applies. Random numbers are a function of (seed, step, row), so
what is drawn for a row does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.core.encoded import EncodedPrompt
from prosg.core.rng import uniforms
from prosg.core.tensors import pad
from prosg.generation.sampling import TOKENS_PER_SENTENCE, Sampling, pick

__all__ = ["Again", "decode", "sentence_ends", "to_read"]


class Again(NamedTuple):
    """Prompts that are read again while the answer is written, each time before the token written last."""

    prompts: Sequence[Sequence[int]]
    every: int
    """tokens of the answer from one reading to the next"""


def sentence_ends(tokenizer: Any, vocab_size: int) -> Tensor:
    """(V,) bool: tokens whose text ends a sentence; a model's ids beyond its tokenizer's end none."""
    texts = (tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
    ends = [text.rstrip().endswith((".", "!", "?")) for text in texts]
    return torch.tensor(ends + [False] * (vocab_size - len(ends)))


def to_read(token: Int[Tensor, " B"], step: int, again: Again | None) -> tuple[Tensor, Tensor | None]:
    """What is read after the token of a step, from 0: (B, T), and its lengths (B,) where the prompts come first."""
    if again is None or (step + 1) % again.every:
        return token.unsqueeze(1), None
    texts = [[*prompt, last] for prompt, last in zip(again.prompts, token.tolist(), strict=True)]
    lengths = torch.tensor([len(text) for text in texts], device=token.device)
    return pad(texts).to(token.device), lengths


class Markers:
    """The markers of a batch's rows, and how far each has been written."""

    def __init__(self, ids: Sequence[Sequence[int]], device: torch.device) -> None:
        width = max((len(row) for row in ids), default=0) or 1
        self.ids = torch.tensor([[*row, *[-1] * (width - len(row))] for row in ids], device=device)
        self.lengths = torch.tensor([len(row) for row in ids], device=device)
        self.matched = torch.zeros(len(ids), dtype=torch.int64, device=device)

    def next(self) -> Tensor:
        """(B,) the token that goes on with each marker; -1 where there is none."""
        at = self.matched.clamp(max=self.ids.shape[1] - 1).unsqueeze(1)
        return torch.where(self.late, -1, self.ids.gather(1, at).squeeze(1))

    @property
    def late(self) -> Tensor:
        """(B,) rows whose marker has been written."""
        return (self.lengths > 0) & (self.matched >= self.lengths)

    def see(self, token: Tensor) -> None:
        """Take note of the tokens just written."""
        follows = token == self.next()
        again = (token == self.ids[:, 0]).long()
        self.matched = torch.where(self.late, self.matched, torch.where(follows, self.matched + 1, again))


def decode(
    backbone: Backbone,
    encoded: EncodedPrompt,
    sampling: Sampling,
    *,
    markers: Sequence[Sequence[int]] | None = None,
    ends_sentence: Tensor | None = None,
    rows: np.ndarray | None = None,
    again: Again | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (tokens (B,), running (B,)) step by step: rows that have not ended before this token.

    markers: ids of each row's marker; ends_sentence (V,): see `sentence_ends`; rows (B,): numbers that the random
    draws belong to, 0, 1, ... by default; again: prompts to read again, a rival that needs no module.
    """
    device, batch = encoded.logits.device, encoded.batch
    marker = Markers(markers or [[]] * batch, device)
    rows = np.arange(batch) if rows is None else rows
    logits, state = encoded.logits, encoded.state
    running = torch.ones(batch, dtype=torch.bool, device=device)
    held = torch.full((batch,), sampling.hold_until > 0, device=device)
    forcing = torch.zeros_like(running)
    sentences = torch.zeros(batch, dtype=torch.int64, device=device)
    longest_story = sampling.hold_until * TOKENS_PER_SENTENCE  # one that does not end its sentences is cut there
    longest = sampling.max_tokens + longest_story
    for step in range(longest):
        if bool(held.any()):
            banned = torch.zeros_like(logits, dtype=torch.bool)
            banned[:, sampling.end_token] = True
            banned.scatter_(1, marker.ids[:, :1].clamp(min=0), True)
            logits = logits.masked_fill(banned & held.unsqueeze(1), -torch.inf)
        temperature = torch.where(marker.late, sampling.late_temperature, sampling.temperature)
        numbers = torch.from_numpy(uniforms(sampling.seed, step, rows, 1)[:, 0]).float().to(device)
        token = pick(logits, temperature, numbers, sampling.top_k, sampling.top_p)
        token = torch.where(forcing, marker.next(), token)
        yield token, running.clone()
        if ends_sentence is not None and sampling.hold_until:
            sentences += ends_sentence.to(device)[token] & held
            over = held & ((sentences >= sampling.hold_until) | (step + 1 >= longest_story))
            held, forcing = held & ~over, forcing | over
        if markers is not None:
            # A held or freely written marker is matched as it comes; a forced one starts from its first token.
            marker.see(token)
            forcing = forcing & ~marker.late
        running = running & (token != sampling.end_token)
        if not bool(running.any()) or step + 1 == longest:
            return
        read, lengths = to_read(token, step, again)
        with torch.no_grad():
            output = backbone(read, state, update=encoded.update, lengths=lengths, logits="last")
        assert output.logits is not None
        logits, state = output.logits, output.state
