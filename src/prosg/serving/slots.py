"""Slots: the rows that are answered at once, each with a state, an update and an anchor of its own.

Updates and anchors lie in slabs with room for all rows. They do not change while an answer is written, so a row's are
written once, when it joins, and a step sees the first rows of a slab without copying anything. The states are what the
backbone returned last; they are copied only where rows join or leave.

The rows' updates may be of different rank and sites, and rows may have none: what is missing is zero. So is the anchor
of a row without one. Updates are in the activations' type and laid out as `prepare_update` does: steps would cast them,
each anew, and a block of one token could not be one call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.core.state import Anchor, State, join_states, map_state, no_pull, take_rows, write_rows
from prosg.core.update import LowRank, PreparedUpdate, Site, Update, pad_rank, prepare_update

__all__ = ["Slots", "join_places"]


class Slots:
    """Rows in slots 0 to `count` - 1.

    Attributes:
        size: Rows that there is room for.
        count: Rows that are there.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._empty()

    def _empty(self) -> None:
        self.count = 0
        self._state: State = ()
        self._logits: Tensor | None = None
        self._update: dict[Site, LowRank] = {}
        self._anchor: Anchor | None = None
        self._limit: Tensor | None = None
        self._updated: list[bool] = []  # which rows have an update, and an anchor
        self._anchored: list[bool] = []
        self._views: tuple[Update | None, Anchor | None] | None = None

    @property
    def place(self) -> EncodedPrompt:
        """Where all rows are. Its update and anchor are views, good until rows join or leave."""
        assert self._logits is not None
        if self._views is None:
            self._views = self._first_rows()
        update, anchor = self._views
        limit = None if self._limit is None else self._limit[: self.count]
        return EncodedPrompt(self._state, update, self._logits, anchor, limit=limit)

    def _first_rows(self) -> tuple[Update | None, Anchor | None]:
        """What holds the rows, as far as any of them has it."""
        update: Update | None = None
        if any(self._updated):
            update = PreparedUpdate(
                {
                    site: LowRank(delta.a[: self.count], delta.b if delta.b.dim() == 2 else delta.b[: self.count])
                    for site, delta in self._update.items()
                }
            )
        anchor: Anchor | None = None
        if self._anchor is not None and any(self._anchored):
            anchor = map_state(lambda leaf: leaf[: self.count], self._anchor)
        return update, anchor

    def move(self, place: EncodedPrompt) -> None:
        """Takes over the state and the logits of a later place of the same rows."""
        assert place.batch == self.count
        self._state, self._logits = place.state, place.logits

    def join(self, place: EncodedPrompt) -> None:
        """Appends the rows of a place, behind those that are there."""
        rows = slice(self.count, self.count + place.batch)
        assert rows.stop <= self.size
        state, logits = place.state, place.logits
        if self._logits is not None:
            state, logits = join_states([self._state, state]), torch.cat([self._logits, logits])
        self._write_update(rows, prepare_update(place.update or {}, place.logits.dtype))
        self._write_anchor(rows, place.anchor)
        self._write_limit(rows, place.limit)
        self._updated += [place.update is not None] * place.batch
        self._anchored += [place.anchor is not None] * place.batch
        self._state, self._logits, self._views, self.count = state, logits, None, rows.stop

    def keep(self, kept: Sequence[int]) -> list[int]:
        """Frees all slots but these.

        Args:
            kept: Slots of the rows that stay, in ascending order.

        Returns:
            For each slot from now on, where its row was: the last rows move into slots that became free.
        """
        if not kept:
            self._empty()
            return []
        stay = set(kept)
        moving = [slot for slot in kept if slot >= len(kept)]
        order = [slot if slot in stay else moving.pop() for slot in range(len(kept))]
        for to, come in enumerate(order):
            if to != come:
                self._move_row(come, to)
        assert self._logits is not None
        rows = torch.tensor(order, device=self._logits.device)
        self._state, self._logits = take_rows(self._state, rows), self._logits[rows]
        self._updated, self._anchored = ([flags[slot] for slot in order] for flags in (self._updated, self._anchored))
        self._views, self.count = None, len(order)
        return order

    def _move_row(self, come: int, to: int) -> None:
        for delta in self._update.values():
            delta.a[to] = delta.a[come]
            if delta.b.dim() == 3:
                delta.b[to] = delta.b[come]
        for leaf in (leaf for layer in self._anchor or () for leaf in layer):
            leaf[to] = leaf[come]
        if self._limit is not None:
            self._limit[to] = self._limit[come]

    def _write_update(self, rows: slice, update: Update) -> None:
        for site in [*self._update, *(site for site in update if site not in self._update)]:
            if site not in update:
                self._update[site].a[rows] = 0.0
                continue
            delta = update[site]
            slab = self._update.get(site)
            if slab is None:  # rows that are there already have none
                slab = LowRank(delta.a.new_zeros(self.size, *delta.a.shape[1:]), delta.b)
                if delta.b.dim() == 3:
                    slab = slab._replace(b=delta.b.mT.new_zeros(self.size, *delta.b.mT.shape[1:]).mT)
            slab, delta = pad_rank(slab, delta.a.shape[1]), pad_rank(delta, slab.a.shape[1])
            slab.a[rows] = delta.a
            if slab.b.dim() == 2 and not torch.equal(slab.b.expand(delta.b.shape), delta.b):
                slab = LowRank(slab.a, slab.b.mT.repeat(self.size, 1, 1).mT)
            if slab.b.dim() == 3:
                slab.b[rows] = delta.b
            self._update[site] = slab

    def _write_anchor(self, rows: slice, anchor: Anchor | None) -> None:
        if anchor is None:
            if self._anchor is not None:
                map_state(lambda leaf: leaf[rows].zero_(), self._anchor)
            return
        if self._anchor is None:
            self._anchor = no_pull(anchor, self.size)
        self._anchor = write_rows(self._anchor, rows, anchor)

    def _write_limit(self, rows: slice, limit: Tensor | None) -> None:
        if self._limit is None and limit is not None:
            self._limit = limit.new_zeros(self.size, limit.shape[1])
        if self._limit is not None:
            self._limit[rows] = 0.0 if limit is None else limit


def join_places(places: Sequence[EncodedPrompt]) -> EncodedPrompt:
    """Joins places in texts, with and without updates and anchors, and of any ranks."""
    if len(places) == 1:
        return places[0]
    slots = Slots(sum(place.batch for place in places))
    for place in places:
        slots.join(place)
    return slots.place
