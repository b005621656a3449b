"""Writing an answer, token by token: sampling, length control, stop strings, streaming.

The first token comes from the prompt's own last logits; from then on every step runs under the update (figure 3).

Length control (`hold_until`, `force_marker`): while a row is *held*, neither the end of the text nor the marker's first
token can be drawn; after `hold_until` sentences the marker is *forced*, token by token; from the marker on, forced or
written freely, the row is *late* and `late_temperature` applies. Random numbers are a function of (seed, step, row), so
what is drawn for a row does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.core.encoded import EncodedPrompt
from prosg.data.collate import pad
from prosg.training.perturbation import uniforms

__all__ = [
    "Again",
    "Generation",
    "Sampling",
    "decode",
    "generate_texts",
    "pick",
    "sentence_ends",
    "stream_text",
    "to_read",
]


TOKENS_PER_SENTENCE = 24
"""Longest sentence that is waited for under length control, on average over a story."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_tokens: Longest answer, tokens; a story that is held may take `TOKENS_PER_SENTENCE` more per sentence.
        temperature: 0 takes the likeliest token.
        top_k: Draw from the k likeliest tokens; 0 from all.
        top_p: Draw from the likeliest tokens that hold this much probability.
        stop: Strings at which the answer ends; they are not part of it.
        seed: Of the random numbers.
        hold_until: Sentences to write before the marker; 0 leaves the length to the model.
        force_marker: Text that opens the late stage. In Python also one per prompt.
        late_temperature: Temperature from the marker on.
        end_token: Id of the token that ends an answer.
    """

    max_tokens: int = 256
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    stop: Sequence[str] = field(default_factory=tuple)
    seed: int = 0
    hold_until: int = 0
    force_marker: str | Sequence[str] = ""
    late_temperature: float = 0.0
    end_token: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}, must be at least 1")
        for name in ("temperature", "late_temperature", "top_k", "hold_until"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must not be negative")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, must be above 0 and at most 1")
        if isinstance(self.stop, str):  # a string is a sequence of strings, too: its characters
            object.__setattr__(self, "stop", (self.stop,))
        if not all(self.stop):
            raise ValueError("a stop string is empty; every answer would end at once")
        if self.hold_until and not (self.force_marker and all(self.force_marker)):
            raise ValueError("hold_until needs force_marker: the text that opens the late stage")


class Generation(NamedTuple):
    """One answer."""

    text: str
    ids: list[int]
    reason: str
    """"end", "stop" or "length"."""


class Again(NamedTuple):
    """Prompts that are read again while the answer is written, each time before the token written last."""

    prompts: Sequence[Sequence[int]]
    every: int
    """tokens of the answer from one reading to the next"""


def pick(
    logits: Float[Tensor, "B V"],
    temperature: Float[Tensor, " B"],
    numbers: Float[Tensor, " B"],
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    """Token ids (B,), drawn by the inverse of the cumulated distribution at `numbers` in [0, 1)."""
    greedy = logits.argmax(1)
    if not bool((temperature > 0).any()):
        return greedy
    scaled = logits.float() / temperature.clamp(min=1e-6).unsqueeze(1)
    if 0 < top_k < logits.shape[1]:
        scaled = scaled.masked_fill(scaled < scaled.topk(top_k).values[:, -1:], -torch.inf)
    p = torch.softmax(scaled, 1)
    if top_p < 1:
        ordered, index = p.sort(1, descending=True)
        before = ordered.cumsum(1) - ordered
        p = torch.zeros_like(p).scatter(1, index, ordered.masked_fill(before >= top_p, 0.0))
    total = p.cumsum(1)
    # A product that rounds up to the total would point behind the last token that may be drawn.
    below = torch.nextafter(total[:, -1:], torch.zeros_like(total[:, -1:]))
    target = torch.minimum(numbers.unsqueeze(1).to(total.dtype) * total[:, -1:], below)
    drawn = torch.searchsorted(total, target, right=True).squeeze(1)
    return torch.where(temperature > 0, drawn, greedy)


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


def _markers(sampling: Sampling, tokenizer: Any, batch: int) -> list[list[int]] | None:
    given = sampling.force_marker
    if not given:
        return None
    texts = [given] * batch if isinstance(given, str) else list(given)
    if len(texts) != batch:
        raise ValueError(f"force_marker has {len(texts)} texts for {batch} prompts; give one, or one per prompt")
    return [tokenizer.encode(text) for text in texts]


def generate_texts(
    backbone: Backbone,
    encoded: EncodedPrompt,
    tokenizer: Any,
    sampling: Sampling,
    *,
    rows: np.ndarray | None = None,
    again: Again | None = None,
    stops: Sequence[str] | None = None,
) -> list[Generation]:
    """One answer per prompt, all in one batch; rows and again as `decode`'s.

    stops: a stop string for each row, besides those of all; "" for none.
    """
    ids: list[list[int]] = [[] for _ in range(encoded.batch)]
    decoders = [tokenizer.stream() for _ in ids]
    texts = [""] * encoded.batch
    reasons = ["length"] * encoded.batch
    stopped = [False] * encoded.batch
    own = stops or [""] * encoded.batch
    ends = [[*sampling.stop, *filter(None, [stop])] for stop in own]
    for token, running in decode(
        backbone,
        encoded,
        sampling,
        markers=_markers(sampling, tokenizer, encoded.batch),
        ends_sentence=sentence_ends(tokenizer, encoded.logits.shape[1]) if sampling.hold_until else None,
        rows=rows,
        again=again,
    ):
        for i, (value, alive) in enumerate(zip(token.tolist(), running.tolist(), strict=True)):
            if stopped[i] or not alive:
                continue
            if value == sampling.end_token:
                reasons[i], stopped[i] = "end", True
                continue
            ids[i].append(value)
            texts[i] += decoders[i].push(value)
            if any(stop in texts[i] for stop in ends[i]):
                reasons[i], stopped[i] = "stop", True
        if all(stopped):
            break
    answers = []
    for row, written, decoder, reason, stop_at in zip(ids, texts, decoders, reasons, ends, strict=True):
        text = written + decoder.flush()
        cuts = [text.index(stop) for stop in stop_at if stop in text]
        answers.append(Generation(text[: min(cuts)] if cuts else text, row, reason))
    return answers


def stream_text(backbone: Backbone, encoded: EncodedPrompt, tokenizer: Any, sampling: Sampling) -> Iterator[str]:
    """Pieces of one prompt's answer as they come; text that may begin a stop string is held back."""
    if encoded.batch != 1:
        raise ValueError(f"streaming writes one answer, not {encoded.batch}; use generate")
    decoder, pending = tokenizer.stream(), ""
    longest = max((len(stop) for stop in sampling.stop), default=0)
    steps = decode(
        backbone,
        encoded,
        sampling,
        markers=_markers(sampling, tokenizer, 1),
        ends_sentence=sentence_ends(tokenizer, encoded.logits.shape[1]) if sampling.hold_until else None,
    )
    for token, _ in steps:
        if int(token) == sampling.end_token:
            break
        pending += decoder.push(int(token))
        cuts = [pending.index(stop) for stop in sampling.stop if stop in pending]
        if cuts:
            yield pending[: min(cuts)]
            return
        ready = len(pending) - max(longest - 1, 0)
        if ready > 0:
            yield pending[:ready]
            pending = pending[ready:]
    pending += decoder.flush()
    cuts = [pending.index(stop) for stop in sampling.stop if stop in pending]
    if rest := pending[: min(cuts)] if cuts else pending:
        yield rest
