"""An encoded prompt: all that a model keeps of a prompt once it has been read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prosg.core.state import Anchor, State, join_states, map_state, no_pull, take_rows
from prosg.core.update import LowRank, Update, acting_rows, join_updates, take_update_rows
from prosg.utils.device import parse_device

__all__ = ["MEMORIES", "EncodedPrompt", "Memory", "with_anchor", "with_update"]

Memory = Literal["none", "anchor", "update", "both", "auto"]
"""What holds the prompt while the answer is written, beside the recurrent state: a pull back to the state at the
prompt's end, a synthesized weight update, or both; or ("auto") the update of a prompt that the module knows, and the
anchor of one that it does not know, in models whose states can be pulled back."""
MEMORIES: tuple[Memory, ...] = get_args(Memory)


def with_anchor(memory: Memory) -> bool:
    """Whether states are pulled back to their prompts', those of some prompts at least."""
    return memory in ("anchor", "both", "auto")


def with_update(memory: Memory) -> bool:
    """Whether a synthesized update acts."""
    return memory in ("update", "both", "auto")


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class EncodedPrompt:
    """State, update and last logits of B prompts; `len` is B.

    It is a value: rows can be taken, joined and stored (`prosg.save_encoded`, `prosg.load_encoded`), and an update can
    be combined with any state of its model.
    """

    state: State
    """the recurrent state after the prompt"""
    update: Update | None
    """the weight changes under which the answer is written; None for a backbone alone"""
    logits: Tensor
    """(B, V) at the prompt's last token, computed with unmodified weights: they give the first answer token"""
    anchor: Anchor | None = None
    """what pulls the state back after every token of the answer; None for nothing"""
    known: Bool[Tensor, " B"] | None = None
    """which prompts are like those that the module was trained on; None where it does not tell"""
    limit: Float[Tensor, "B L"] | None = None
    """largest norm of each layer's memory while the answer is written, see `limit_memory`; None for none"""

    @property
    def batch(self) -> int:
        """Number of prompts."""
        return self.logits.shape[0]

    def tensors(self) -> Iterator[Tensor]:
        """Yields those of the state, the update and the anchor, then the logits and the limit, but not `known`."""
        for group in (*self.state, *(self.update or {}).values(), *(self.anchor or ()), (self.logits,)):
            yield from group
        if self.limit is not None:
            yield self.limit

    @property
    def nbytes(self) -> int:
        """Bytes that its tensors take in memory."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def _layout(self) -> tuple[Any, ...]:
        """What prompts of one model have in common: types, and shapes but for rows and T of (B, H, T, D)."""
        leaves = [*(leaf for layer in self.state for leaf in layer), self.logits]
        shapes = [(leaf.shape[1:2] + leaf.shape[3:]) if leaf.dim() == 4 else leaf.shape[1:] for leaf in leaves]
        return tuple((shape, leaf.dtype, leaf.device) for shape, leaf in zip(shapes, leaves, strict=True))

    def __len__(self) -> int:
        return self.batch

    @property
    def has_updates(self) -> bool:
        """Whether every prompt has an update; memory "auto" leaves those of prompts out that are not known."""
        if self.update is None:
            return False
        return self.known is None or bool(acting_rows(self.update).all())

    @property
    def memory(self) -> Memory:
        """What holds the prompts beside their states."""
        if self.update is None:
            return "none" if self.anchor is None else "anchor"
        if self.anchor is None:
            return "update"
        return "both" if self.known is None else "auto"

    def __repr__(self) -> str:
        """Says how many prompts, of what."""
        parts = [name for name in ("update", "anchor") if getattr(self, name) is not None]
        held = f" with {' and '.join(parts)}" if parts else ""
        count = f"{self.batch} prompt{'' if self.batch == 1 else 's'}"
        return f"EncodedPrompt({count}, {len(self.state)} layers of state{held}, on {self.logits.device})"

    def replace(self, **changes: Any) -> EncodedPrompt:
        """Returns the same prompts with other values of some fields."""
        return replace(self, **changes)

    def to(self, device: torch.device | str) -> EncodedPrompt:
        """Returns the same prompts on another device. Raises ValueError for what is none; their types stay."""
        device = parse_device(device)

        def moved(layers: tuple[Any, ...]) -> tuple[Any, ...]:
            return map_state(lambda leaf: leaf.to(device), layers)

        update = self.update and {site: LowRank(d.a.to(device), d.b.to(device)) for site, d in self.update.items()}
        anchor = None if self.anchor is None else moved(self.anchor)
        known, limit = (None if one is None else one.to(device) for one in (self.known, self.limit))
        return EncodedPrompt(moved(self.state), update, self.logits.to(device), anchor, known, limit)

    def check_rows(self) -> None:
        """Raises ValueError unless there is a prompt, and every part has as many rows as the logits."""
        if self.logits.dim() != 2 or not self.batch:
            raise ValueError(f"logits has shape {tuple(self.logits.shape)}; must be (B, V) of at least one prompt")
        rows = {f"update.{site}": delta.a.shape[:1] for site, delta in (self.update or {}).items()}
        if self.known is not None:
            rows["known"] = self.known.shape
        if self.limit is not None:
            rows["limit"] = self.limit.shape[:1]
        for part, layers in (("state", self.state), ("anchor", self.anchor or ())):
            for number, layer in enumerate(layers):
                rows |= {f"{part}.{number}.{name}": leaf.shape[:1] for name, leaf in layer._asdict().items()}
        for name, found in rows.items():
            if found != (self.batch,):
                raise ValueError(f"{name} has {', '.join(map(str, found)) or 'no'} rows, the logits have {self.batch}")

    def take(self, rows: Tensor | Sequence[int]) -> EncodedPrompt:
        """Returns the prompts at the indices `rows` (N,).

        Raises:
            ValueError: for a number that is no row; IndexError where `rows` is a tensor.
            TypeError: for rows that are no list.
        """
        if not isinstance(rows, Tensor):
            if not isinstance(rows, Sequence):
                raise TypeError(f"rows is {rows!r}; give a list of numbers, as [0], or a tensor")
            if odd := [row for row in rows if isinstance(row, bool) or not isinstance(row, int)]:
                raise ValueError(f"{odd[0]!r} is no row's number; give whole numbers, 0 to {self.batch - 1}")
            if wrong := [row for row in rows if not -self.batch <= row < self.batch]:
                raise ValueError(f"row {wrong[0]} is not there; the rows are 0 to {self.batch - 1}")
            rows = torch.tensor(rows, dtype=torch.int64, device=self.logits.device)
        update = None if self.update is None else take_update_rows(self.update, rows)
        anchor = None if self.anchor is None else take_rows(self.anchor, rows)
        known, limit = (None if one is None else one[rows] for one in (self.known, self.limit))
        return EncodedPrompt(take_rows(self.state, rows), update, self.logits[rows], anchor, known, limit)

    @staticmethod
    def join(parts: Sequence[EncodedPrompt]) -> EncodedPrompt:
        """Concatenates encoded prompts of one model.

        Raises:
            ValueError: for no parts, if only some of them have an update, and for states or logits that differ in
                shape or type: those of two models.
        """
        if not parts:
            raise ValueError("there are no encoded prompts to join; give at least one")
        if len({part._layout() for part in parts}) > 1:
            raise ValueError("the encoded prompts are of several models, or of several types; encode them with one")
        updates = [part.update for part in parts if part.update is not None]
        if 0 < len(updates) < len(parts):
            raise ValueError("encoded prompts with and without an update cannot be joined")
        anchored = next((part.anchor for part in parts if part.anchor is not None), None)
        anchors = [] if anchored is None else [part.anchor or no_pull(anchored, part.batch) for part in parts]
        known = [part.known for part in parts if part.known is not None]
        limited = next((part.limit for part in parts if part.limit is not None), None)
        limits: list[Tensor] = []
        if limited is not None:
            unlimited = limited.new_zeros(1, limited.shape[1])
            limits = [unlimited.expand(part.batch, -1) if part.limit is None else part.limit for part in parts]
        return EncodedPrompt(
            join_states([part.state for part in parts]),
            join_updates(updates) if updates else None,
            torch.cat([part.logits for part in parts]),
            join_states(anchors) if anchors else None,
            torch.cat(known) if len(known) == len(parts) else None,
            torch.cat(limits) if limits else None,
        )
