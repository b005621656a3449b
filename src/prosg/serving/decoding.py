"""The rows that are being answered: a token of each is chosen, told, and read."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from prosg.backbones.base import FullError
from prosg.generation.decode import advance, limited, within_bounds
from prosg.model.prosg import ProSG
from prosg.serving.answering import Answering
from prosg.serving.request import Chosen
from prosg.serving.row_sampling import RowSampling
from prosg.serving.slots import Slots
from prosg.serving.statistics import EngineStatistics

__all__ = ["Decoding"]

_log = logging.getLogger(__name__)


class Decoding:
    """Writes answers, a token of each at a time.

    Attributes:
        rows: The requests that are answered, by their slots.
    """

    def __init__(self, model: ProSG, most: int, statistics: EngineStatistics) -> None:
        """Sets up, with room for so many rows."""
        self.model, self.statistics = model, statistics
        self.rows: list[Answering] = []
        self._slots = Slots(most)
        self._sampling: RowSampling | None = None
        self._chosen: Tensor | None = None
        self._texts: dict[int, str] = {}

    def join(self, answering: Answering) -> None:
        """Gives a request whose prompt is read a slot."""
        assert answering.place is not None
        self._slots.join(limited(answering.place))
        answering.place = None  # it is in the slots from here on
        self.rows.append(answering)
        self._sampling = None

    def free(self) -> None:
        """Frees the slots of answers that have ended."""
        going = [slot for slot, one in enumerate(self.rows) if not one.ended]
        if len(going) == len(self.rows):
            return
        order = self._slots.keep(going)
        self.rows = [self.rows[slot] for slot in order]
        if self._chosen is not None:
            self._chosen = self._chosen[torch.tensor(order, dtype=torch.int64, device=self._chosen.device)]
        self._sampling = None

    def choose(self) -> list[Answering]:
        """Chooses the next token of every answer, and tells it; returns the answers that end, which have left."""
        if not self.rows:
            return []
        logits = self._slots.place.logits
        if self._sampling is None:
            requests = [one.request for one in self.rows]
            self._sampling = RowSampling(requests, [one.written for one in self.rows], logits.device)
        tokens, finite = self._sampling.choose(logits)
        reported = self._logprobs(logits, tokens)
        self.statistics.steps += 1
        self.statistics.row_steps += len(self.rows)
        now = time.monotonic()
        for slot, (one, token, fine) in enumerate(zip(self.rows, tokens.tolist(), finite, strict=True)):
            if not one.written:
                self.statistics.first_token.add(now - one.arrived)
            try:
                if not fine:
                    one.end("not_finite")
                elif token in one.request.sampling.ends:
                    one.end("stop")
                else:
                    one.write(Chosen(token, self._text(token), *reported.get(slot, (None, ()))))
                    self.statistics.written_tokens += 1
            except Exception as error:  # its own text is to blame, and must not stop the others
                _log.exception("a row failed")
                one.fail(error)
        self._chosen = tokens
        over = [one for one in self.rows if one.ended]
        self.free()
        return over

    def read(self) -> list[Answering]:
        """Reads the tokens that were chosen; returns the answers that end, as the model has no more positions."""
        ended: list[Answering] = []
        while self.rows and self._chosen is not None:
            try:
                place = advance(self.model.backbone, self._slots.place, self._chosen.unsqueeze(1))
            except FullError as full:
                over = [one for one, is_full in zip(self.rows, full.rows, strict=True) if is_full]
                for one in over:
                    one.end("length")
                ended += over
                self.free()
                continue
            written = [one.written for one in self.rows]
            self._slots.move(within_bounds(place, self.statistics.steps, written))
            self._chosen = None
        self._chosen = None
        return ended

    def _logprobs(self, logits: Tensor, tokens: Tensor) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
        """For rows that want them: the chosen token's log-probability, and the likeliest tokens with theirs."""
        wanted = {slot: one.request.logprobs for slot, one in enumerate(self.rows) if one.request.logprobs is not None}
        if not wanted:
            return {}
        rows = torch.tensor([*wanted], device=logits.device)
        values = torch.log_softmax(logits[rows].float(), 1)
        chosen = values.gather(1, tokens[rows].unsqueeze(1)).squeeze(1).tolist()
        best = values.topk(min(max(wanted.values()), values.shape[1]))
        likeliest: Sequence[tuple[list[int], list[float]]] = [
            *zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return {
            slot: (logprob, tuple(zip(ids[:count], numbers[:count], strict=True)))
            for (slot, count), logprob, (ids, numbers) in zip(wanted.items(), chosen, likeliest, strict=True)
        }

    def _text(self, token: int) -> str:
        """What a token decodes to alone."""
        if token not in self._texts:
            assert self.model.tokenizer is not None
            self._texts[token] = self.model.tokenizer.decode([token])
        return self._texts[token]
