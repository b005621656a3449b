"""A backbone that writes what it is told, for tests of what is done with the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prosg.backbones.base import Output, Taps
from prosg.core.encoded import EncodedPrompt
from support.models import WORDS


class Place(NamedTuple):
    row: Tensor
    at: Tensor


class Script:
    """A backbone that wants to write given tokens, whatever it is fed; it notes what it was fed."""

    config: Any = None
    sites: Any = {}  # noqa: RUF012
    continues = True
    perturbations = ("wipe", "swap")
    tap_widths: Any = ()
    anchor_units: Any = ()
    log_decay = None
    checkpoint_every = 0
    memory_grows = False

    def __init__(self, rows: Sequence[Sequence[int]], vocab: int) -> None:
        self.rows, self.vocab = rows, vocab
        self.fed: list[list[int]] = []

    def wish(self, place: Place) -> Tensor:
        """The scripted token 5, its follower in the vocabulary 3 (the choice where the first is banned), others 0."""
        logits = torch.zeros(len(place.row), self.vocab)
        for i, (row, at) in enumerate(zip(place.row.tolist(), place.at.tolist(), strict=True)):
            token = self.rows[row][min(at, len(self.rows[row]) - 1)]
            logits[i, token], logits[i, (token + 1) % self.vocab] = 5.0, 3.0
        return logits

    def encoded(self) -> EncodedPrompt:
        place = self.init_state(len(self.rows))[0]
        return EncodedPrompt((place,), None, self.wish(place))

    def init_state(self, batch: int) -> tuple[Place]:
        return (Place(torch.arange(batch), torch.zeros(batch, dtype=torch.int64)),)

    def parameters(self, recurse: bool = True) -> Any:
        return iter(())

    def enable_checkpointing(self, every: int) -> None:
        raise NotImplementedError

    def age(self, state: Any, steps: Tensor, shift: Tensor) -> Any:
        raise NotImplementedError

    def load(self, state: Any, other: Any, keep: Tensor, weight: Tensor, reference: Any) -> Any:
        raise NotImplementedError

    def make_anchor(self, target: Any, log_keep: Any, share: Any) -> Any:
        raise NotImplementedError

    def anchor(self, state: Any, anchor: Any) -> Any:
        raise NotImplementedError

    def __call__(self, tokens: Tensor, state: Any = None, **options: Any) -> Output:
        assert tokens.shape[1] == 1
        assert options["logits"] == "last"
        self.fed.append(tokens[:, 0].tolist())
        place = Place(state[0].row, state[0].at + 1)
        return Output(self.wish(place), (place,), Taps())


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]
