"""Answers as text: stop strings and streaming over the decoding loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.core.encoded import EncodedPrompt
from prosg.generation.decode import Replay, decode
from prosg.generation.length_control import sentence_ends
from prosg.generation.sampling import Sampling
from prosg.tokenizers.base import Tokenizer

__all__ = ["NOT_FINITE", "Generation", "generate_texts", "stream_text"]

NOT_FINITE = "not_finite"
NOT_FINITE_WORDS = "the model's logits are not finite (its memory or its weights have overflowed)"


class Generation(NamedTuple):
    """One answer."""

    text: str
    ids: list[int]
    """without the end token"""
    reason: str
    """why it ended: "end", "stop", "length", or "not_finite" where the model's logits were no numbers any more"""


class _Control(NamedTuple):
    """What `decode` needs for length control."""

    markers: list[list[int]] | None
    ends_sentence: Tensor | None

    @classmethod
    def of(cls, sampling: Sampling, tokenizer: Tokenizer, encoded: EncodedPrompt) -> _Control:
        markers = None
        if sampling.force_marker:
            marker = sampling.force_marker
            texts = [marker] * encoded.batch if isinstance(marker, str) else list(marker)
            if len(texts) != encoded.batch:
                raise ValueError(
                    f"force_marker has {len(texts)} texts for {encoded.batch} prompts; give one, or one per prompt"
                )
            markers = [tokenizer.encode(text) for text in texts]
        held = sampling.hold_until > 0
        return cls(markers, sentence_ends(tokenizer, encoded.logits.shape[1]) if held else None)


def generate_texts(
    backbone: Backbone,
    encoded: EncodedPrompt,
    tokenizer: Tokenizer | None,
    sampling: Sampling,
    *,
    numbers: np.ndarray | None = None,
    replay: Replay | None = None,
    stops: Sequence[str] | None = None,
) -> list[Generation]:
    """Writes one answer per prompt, all in one batch.

    Args:
        backbone: What writes.
        encoded: The prompts.
        tokenizer: Of the model.
        sampling: How tokens are chosen, and when an answer ends.
        numbers: As in `decode`.
        replay: As in `decode`.
        stops: A stop string for each row, besides those of all; "" for none.

    Raises:
        ValueError: without a tokenizer, and for markers that do not fit the prompts.
    """
    tokenizer = _need(tokenizer)
    writers = [_Writer(tokenizer, [*sampling.stop, *filter(None, [stop])]) for stop in stops or [""] * encoded.batch]
    markers, ends = _Control.of(sampling, tokenizer, encoded)
    for step in decode(
        backbone, encoded, sampling, markers=markers, ends_sentence=ends, numbers=numbers, replay=replay
    ):
        for writer, token, finite in zip(writers, step.token.tolist(), step.finite.tolist(), strict=True):
            if not writer.reason:
                writer.write(token, sampling.ends, finite)
        if all(writer.reason for writer in writers):
            break
    if broken := sum(writer.reason == NOT_FINITE for writer in writers):
        warnings.warn(f"{NOT_FINITE_WORDS}; {broken} of {len(writers)} answers end there", RuntimeWarning, stacklevel=2)
    return [writer.finish() for writer in writers]


class _Writer:
    """One row's text so far."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.decoder, self.stops = tokenizer.stream(), stops
        self.ids: list[int] = []
        self.text, self.reason = "", ""

    def write(self, token: int, ends: Sequence[int], finite: bool) -> None:
        """Takes in one token, drawn from logits that were finite or not."""
        if not finite:
            self.reason = NOT_FINITE
            return
        if token in ends:
            self.reason = "end"
            return
        self.ids.append(token)
        before = len(self.text)
        self.text += self.decoder.push(token)
        if any(self.text.find(stop, max(before - len(stop) + 1, 0)) >= 0 for stop in self.stops):
            self.reason = "stop"

    def finish(self) -> Generation:
        """The answer, cut at the first stop string."""
        text = self.text + self.decoder.flush()
        return Generation(text[: _first_stop(text, self.stops)], self.ids, self.reason or "length")


def _first_stop(text: str, stops: Sequence[str]) -> int:
    """Where the first stop string begins; the text's length if there is none."""
    return min((text.index(stop) for stop in stops if stop in text), default=len(text))


def stream_text(
    backbone: Backbone, encoded: EncodedPrompt, tokenizer: Tokenizer | None, sampling: Sampling
) -> Iterator[str]:
    """Writes one answer and yields its pieces; text that may begin a stop string is held back.

    Raises:
        ValueError: for several prompts, and without a tokenizer.
    """
    if encoded.batch != 1:
        raise ValueError(f"streaming writes one answer, not {encoded.batch}; use generate")
    tokenizer = _need(tokenizer)
    decoder, pending = tokenizer.stream(), ""
    longest = max((len(stop) for stop in sampling.stop), default=0)
    markers, ends = _Control.of(sampling, tokenizer, encoded)
    for step in decode(backbone, encoded, sampling, markers=markers, ends_sentence=ends):
        token = int(step.token)
        if not bool(step.finite):
            warnings.warn(f"{NOT_FINITE_WORDS}; the answer ends there", RuntimeWarning, stacklevel=2)
        if token in sampling.ends:
            break
        pending += decoder.push(token)
        if (cut := _first_stop(pending, sampling.stop)) < len(pending):
            yield pending[:cut]
            return
        ready = len(pending) - max(longest - 1, 0)
        if ready > 0:
            yield pending[:ready]
            pending = pending[ready:]
    pending += decoder.flush()
    if rest := pending[: _first_stop(pending, sampling.stop)]:
        yield rest


def _need(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise ValueError("this model has no tokenizer: set model.tokenizer, or pass token ids")
    return tokenizer
