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
    """The marker of each row, and how much of it has been written.

    Attributes:
        late: Rows whose marker has been written.
        next: The token that continues each row's marker; -1 where there is none.
    """

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        """`ids` are the tokens of each row's marker; an empty one is never written."""
        self.ids = ids
        self.late = [False] * len(ids)
        self.next = [row[0] if row else -1 for row in ids]
        self._matched = [0] * len(ids)

    def update(self, tokens: Sequence[int]) -> bool:
        """Takes note of the rows' tokens just written; returns whether a marker was completed."""
        completed = False
        for row, (token, following, matched) in enumerate(zip(tokens, self.next, self._matched, strict=True)):
            if following < 0 or (token != following and not matched):
                continue
            marker = self.ids[row]
            matched = matched + 1 if token == following else int(token == marker[0])
            self._matched[row] = matched
            if matched == len(marker):
                self.late[row] = completed = True
            self.next[row] = -1 if self.late[row] else marker[matched]
        return completed


class LengthControl:
    """Which rows are held, forced or late; none is where `sampling.hold_until` is 0 and there are no markers.

    Attributes:
        sentences: Sentences that each row wrote while it was held.
        temperature: (B,) of the next token.
        forces: Whether any row is forced.
    """

    def __init__(
        self,
        sampling: Sampling,
        markers: Sequence[Sequence[int]] | None,
        ends_sentence: Tensor | None,
        logits: Tensor,
        ends: Sequence[Sequence[int]],
    ) -> None:
        """Starts before the first token.

        Args:
            sampling: How long stories are.
            markers: Token ids of each row's marker.
            ends_sentence: See `sentence_ends`.
            logits: (B, V), which give batch and device.
            ends: Ids that end each row's answer, which held rows must not write.
        """
        self._rows, self._vocab_size = logits.shape
        self._device = logits.device
        self.sampling, self._ends = sampling, ends
        self._has_markers = markers is not None
        self._markers = Markers(markers or [[]] * self._rows)
        self._held = [sampling.hold_until > 0] * self._rows
        self._forced = [False] * self._rows
        self._ends_sentence = None
        if ends_sentence is not None and sampling.hold_until:
            self._ends_sentence = frozenset(ends_sentence.nonzero().flatten().tolist())
        self.sentences: Sequence[int] = [0] * self._rows
        self._settle()

    def _settle(self) -> None:
        """Finds what follows from which rows are held, forced and late, which few steps change."""
        warm, late = self.sampling.temperature, self.sampling.late_temperature
        self.temperature = torch.tensor([late if one else warm for one in self._markers.late], device=self._device)
        self.forces = any(self._forced)
        self._banned: Tensor | None = None
        if any(self._held):
            banned = torch.zeros(self._rows, self._vocab_size, dtype=torch.bool)
            for row, ends in enumerate(self._ends):
                banned[row, list(ends)] = True
            first = torch.tensor([[marker[0] if marker else 0] for marker in self._markers.ids])
            banned.scatter_(1, first, True)
            self._banned = (banned & torch.tensor(self._held).unsqueeze(1)).to(self._device)

    def mask(self, logits: Tensor) -> Tensor:
        """Logits (B, V) without what held rows must not write."""
        return logits if self._banned is None else logits.masked_fill(self._banned, -torch.inf)

    def force(self, tokens: Sequence[int]) -> list[int]:
        """The rows' tokens with the marker's next one in rows that are forced."""
        return [
            following if forced else token
            for token, following, forced in zip(tokens, self._markers.next, self._forced, strict=True)
        ]

    def update(self, tokens: Sequence[int], written: int) -> None:
        """Takes note of the rows' tokens just written, the `written`-th of each row."""
        changed = False
        if self._ends_sentence is not None and self._banned is not None:
            self.sentences = [
                count + (held and token in self._ends_sentence)
                for count, token, held in zip(self.sentences, tokens, self._held, strict=True)
            ]
            over = written >= self.sampling.longest_story
            for row, (count, held) in enumerate(zip(self.sentences, self._held, strict=True)):
                if held and (over or count >= self.sampling.hold_until):
                    self._held[row], self._forced[row], changed = False, True, True
        # A held or freely written marker is matched as it comes; a forced one starts from its first token.
        if self._has_markers and self._markers.update(tokens):
            changed = True
            self._forced = [forced and not late for forced, late in zip(self._forced, self._markers.late, strict=True)]
        if changed:
            self._settle()
