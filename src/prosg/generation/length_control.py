"""Length control: a story is held until it is as long as wanted, then the late stage's marker is forced.

While a row is *held*, neither the end token nor the marker's first token can be drawn. After `hold_until` sentences the
marker is *forced*, token by token. From the marker on, forced or written freely, the row is *late*.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from prosg.generation.sampling import Sampling
from prosg.tokenizers.base import Tokenizer

__all__ = ["LengthControl", "Markers", "sentence_ends"]

_SENTENCE_ENDS: WeakKeyDictionary[Tokenizer, Tensor] = WeakKeyDictionary()


def sentence_ends(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """(V,) bool: tokens whose text ends a sentence; found once per tokenizer.

    Ids of the model beyond the tokenizer's own end none.
    """
    if tokenizer not in _SENTENCE_ENDS:
        texts = (tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
        _SENTENCE_ENDS[tokenizer] = torch.tensor([text.rstrip().endswith((".", "!", "?")) for text in texts])
    ends = _SENTENCE_ENDS[tokenizer]
    return torch.cat([ends, ends.new_zeros(vocab_size - len(ends))])


class Markers:
    """The marker of each row, and how much of it has been written."""

    def __init__(self, ids: Sequence[Sequence[int]], device: torch.device) -> None:
        """`ids` are the tokens of each row's marker; an empty one is never written."""
        width = max((len(row) for row in ids), default=0) or 1
        self.ids = torch.tensor([[*row, *[-1] * (width - len(row))] for row in ids], device=device)
        self.lengths = torch.tensor([len(row) for row in ids], device=device)
        self.matched = torch.zeros(len(ids), dtype=torch.int64, device=device)

    def next(self) -> Tensor:
        """(B,) the token that continues each marker; -1 where there is none."""
        at = self.matched.clamp(max=self.ids.shape[1] - 1).unsqueeze(1)
        return torch.where(self.late, -1, self.ids.gather(1, at).squeeze(1))

    @property
    def late(self) -> Tensor:
        """(B,) rows whose marker has been written."""
        return (self.lengths > 0) & (self.matched >= self.lengths)

    def update(self, token: Tensor) -> None:
        """Takes note of the tokens (B,) just written."""
        follows = token == self.next()
        restarts = (token == self.ids[:, 0]).long()
        self.matched = torch.where(self.late, self.matched, torch.where(follows, self.matched + 1, restarts))


class LengthControl:
    """Which rows are held, forced or late; none is where `sampling.hold_until` is 0 and there are no markers.

    Attributes:
        sentences: Sentences that each row wrote while it was held, (B,) int64.
        markers: Each row's marker.
    """

    def __init__(
        self, sampling: Sampling, markers: Sequence[Sequence[int]] | None, ends_sentence: Tensor | None, logits: Tensor
    ) -> None:
        """Starts before the first token; `logits` (B, V) give batch and device, `ends_sentence` see `sentence_ends`."""
        batch, device = logits.shape[0], logits.device
        self.sampling = sampling
        self.has_markers = markers is not None
        self.markers = Markers(markers or [[]] * batch, device)
        self.ends_sentence = None if ends_sentence is None else ends_sentence.to(device)
        self.held = torch.full((batch,), sampling.hold_until > 0, device=device)
        self.forced = torch.zeros_like(self.held)
        self.sentences = torch.zeros(batch, dtype=torch.int64, device=device)

    @property
    def temperature(self) -> Tensor:
        """(B,) of the next token."""
        return torch.where(self.markers.late, self.sampling.late_temperature, self.sampling.temperature)

    def mask(self, logits: Tensor) -> Tensor:
        """Logits (B, V) without what held rows must not write."""
        if not bool(self.held.any()):
            return logits
        banned = torch.zeros_like(logits, dtype=torch.bool)
        banned[:, list(self.sampling.ends)] = True
        banned.scatter_(1, self.markers.ids[:, :1].clamp(min=0), True)
        return logits.masked_fill(banned & self.held.unsqueeze(1), -torch.inf)

    def force(self, token: Tensor) -> Tensor:
        """The tokens (B,) with the marker's next one in rows that are forced."""
        return torch.where(self.forced, self.markers.next(), token)

    def update(self, token: Tensor, written: int) -> None:
        """Takes note of the tokens (B,) just written, the `written`-th of each row."""
        if self.ends_sentence is not None and self.sampling.hold_until:
            self.sentences += self.ends_sentence[token] & self.held
            enough = (self.sentences >= self.sampling.hold_until) | (written >= self.sampling.longest_story)
            released = self.held & enough
            self.held, self.forced = self.held & ~released, self.forced | released
        if self.has_markers:
            # A held or freely written marker is matched as it comes; a forced one starts from its first token.
            self.markers.update(token)
            self.forced = self.forced & ~self.markers.late
