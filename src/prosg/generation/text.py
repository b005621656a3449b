"""Answers as text: stop strings, streaming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from prosg.backbones.base import Backbone
from prosg.core.encoded import EncodedPrompt
from prosg.generation.decode import Again, decode, sentence_ends
from prosg.generation.sampling import Sampling

__all__ = ["Generation", "generate_texts", "stream_text"]


class Generation(NamedTuple):
    """One answer."""

    text: str
    ids: list[int]
    reason: str
    """"end", "stop" or "length"."""


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
