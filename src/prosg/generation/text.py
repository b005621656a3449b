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

__all__ = ["NOT_FINITE", "AnswerStream", "Generation", "generate_texts", "stream_text", "stream_texts"]

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
            empty = [text for text, ids in zip(texts, markers, strict=True) if not ids]
            if empty and sampling.hold_until:
                raise ValueError(f"force_marker is {empty[0]!r}, of no tokens; give the text that opens the late stage")
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
    ends: Sequence[Sequence[int]] | None = None,
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
        ends: As in `decode`.

    Raises:
        ValueError: without a tokenizer, and for markers that do not fit the prompts.
    """
    tokenizer = _need(tokenizer)
    ends = [sampling.ends] * encoded.batch if ends is None else ends
    strings = [[*sampling.stop, *filter(None, [stop])] for stop in stops or [""] * encoded.batch]
    writers = [_Writer(tokenizer, stop, end) for stop, end in zip(strings, ends, strict=True)]
    control = _Control.of(sampling, tokenizer, encoded)
    for step in decode(backbone, encoded, sampling, **control._asdict(), numbers=numbers, replay=replay, ends=ends):
        for writer, token, finite, running in zip(writers, step.tokens, step.finite, step.running, strict=True):
            if not running:
                writer.reason = writer.reason or "length"
            elif not writer.reason:
                writer.write(token, finite)
        if all(writer.reason for writer in writers):
            break
    if broken := sum(writer.reason == NOT_FINITE for writer in writers):
        warnings.warn(f"{NOT_FINITE_WORDS}; {broken} of {len(writers)} answers end there", RuntimeWarning, stacklevel=2)
    return [writer.finish() for writer in writers]


class _Writer:
    """One row's text so far."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], ends: Sequence[int]) -> None:
        self.decoder, self.stops, self.ends = tokenizer.stream(), stops, ends
        self.ids: list[int] = []
        self.text, self.reason = "", ""

    def write(self, token: int, finite: bool) -> None:
        """Takes in one token, drawn from logits that were finite or not."""
        if not finite:
            self.reason = NOT_FINITE
            return
        if token in self.ends:
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


def stream_texts(
    backbone: Backbone,
    encoded: EncodedPrompt,
    tokenizer: Tokenizer | None,
    sampling: Sampling,
    *,
    stops: Sequence[str] | None = None,
    ends: Sequence[Sequence[int]] | None = None,
) -> Iterator[tuple[int, str]]:
    """Writes answers in one batch, and yields (row, piece); text that may begin a stop string is held back.

    Args:
        backbone, encoded, tokenizer, sampling, stops, ends: As in `generate_texts`.

    Raises:
        ValueError: without a tokenizer, and for markers that do not fit the prompts.
    """
    tokenizer = _need(tokenizer)
    rows = [AnswerStream(tokenizer, [*sampling.stop, *filter(None, [stop])]) for stop in stops or [""] * encoded.batch]
    ends = [sampling.ends] * encoded.batch if ends is None else ends
    control = _Control.of(sampling, tokenizer, encoded)
    for step in decode(backbone, encoded, sampling, **control._asdict(), ends=ends):
        written = zip(rows, step.tokens, step.finite, step.running, strict=True)
        for number, (row, token, finite, running) in enumerate(written):
            if row.ended or not running:
                continue
            if not finite:
                warnings.warn(f"{NOT_FINITE_WORDS}; the answer ends there", RuntimeWarning, stacklevel=2)
            if piece := row.end() if token in ends[number] or not finite else row.push(token):
                yield number, piece
        if all(row.ended for row in rows):
            return
    for number, row in enumerate(rows):
        if not row.ended and (piece := row.end()):
            yield number, piece


def stream_text(
    backbone: Backbone, encoded: EncodedPrompt, tokenizer: Tokenizer | None, sampling: Sampling
) -> Iterator[str]:
    """Writes the answer to one prompt, and yields its pieces; as `stream_texts`.

    Raises:
        ValueError: also for several prompts.
    """
    if encoded.batch != 1:
        raise ValueError(f"there are {encoded.batch} prompts; stream_texts writes several answers")
    return (piece for _, piece in stream_texts(backbone, encoded, tokenizer, sampling))


class AnswerStream:
    """One answer's text, token by token: what may begin a stop string is held back.

    Attributes:
        pending: Text that has not been returned yet.
        ended: Whether the answer has ended.
        stop: The stop string that ended it; "" where none did.
        decoded: Characters that the tokens so far have made.
        returned: Characters that were returned.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.decoder, self.stops = tokenizer.stream(), stops
        self.held = max((len(stop) for stop in stops), default=0) - 1  # characters that may begin a stop string
        self.pending, self.ended, self.stop = "", False, ""
        self.decoded = self.returned = 0

    def push(self, token: int) -> str:
        """Takes a token in; the text that no later one can take back, maybe ""."""
        self._decode(self.decoder.push(token))
        if (cut := self._cut()) < len(self.pending):
            self.ended = True
            return self._take(cut)
        return self._take(max(len(self.pending) - max(self.held, 0), 0))

    def end(self) -> str:
        """The rest of the answer."""
        self.ended = True
        self._decode(self.decoder.flush())
        return self._take(self._cut())

    def _decode(self, text: str) -> None:
        self.pending += text
        self.decoded += len(text)

    def _take(self, characters: int) -> str:
        piece, self.pending = self.pending[:characters], self.pending[characters:]
        self.returned += characters
        return piece

    def _cut(self) -> int:
        """Where the first stop string begins in what is pending, of which note is taken; else its length."""
        cut = _first_stop(self.pending, self.stops)
        self.stop = next((stop for stop in self.stops if self.pending.startswith(stop, cut)), "")
        return cut


def _need(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise ValueError("this model has no tokenizer: set model.tokenizer, or pass token ids")
    return tokenizer
