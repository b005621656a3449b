"""What a backbone is: a recurrent language model as a function of (tokens, state, update).

    B batch, T time, E width of the model, L layers, I/O inputs and outputs of a projection, V vocabulary

A state goes in and a state comes out, for any number of tokens: training, reading a prompt and token-by-token decoding
are the same call. Nothing about a call is stored on the module.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from prosg.core.state import Anchor, State
from prosg.core.tensors import last_valid
from prosg.core.update import Site, Update

__all__ = [
    "TAPS",
    "Backbone",
    "BackboneConfig",
    "DeferredLogits",
    "FullError",
    "KeptTaps",
    "Logits",
    "Output",
    "Taps",
    "check_call_shape",
    "check_taps",
    "update_mask",
]

Logits = Literal["all", "deferred", "last", "none"]
"""Which logits a call returns: at all positions, at all but left for the caller to compute, at each row's last valid
token, or none."""
TAPS = ("last", "inputs", "memory")
"""The fields of `Taps`."""


class FullError(ValueError):
    """A text is longer than the model has positions for.

    Attributes:
        rows: Which rows of the call are too long.
    """

    def __init__(self, message: str, rows: list[bool]) -> None:
        super().__init__(message)
        self.rows = rows


class Taps(NamedTuple):
    """Activations that a synthesizer reads: per field one tensor for each layer. Fields not requested are empty."""

    last: tuple[Tensor, ...] = ()
    """(B, E) the time-mixing block's input (after its layer norm) at the last valid token: the paper's x. Undefined in
    rows without a valid token."""
    inputs: tuple[Tensor, ...] = ()
    """(B, T, E) the same input at every position."""
    memory: tuple[Tensor, ...] = ()
    """(B, T, I) what the recurrence returned there, before the output projection. I may differ from E."""


class KeptTaps:
    """The taps of the blocks that have run, as far as they are wanted.

    Args:
        wanted: Names of taps, out of `TAPS`.
        lengths: (B,) valid tokens of each row; None for all.
    """

    def __init__(self, wanted: Collection[str], lengths: Tensor | None) -> None:
        self.wanted, self.lengths = wanted, lengths
        self._last: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._memory: list[Tensor] = []

    def add(self, inputs: Tensor, memory: Tensor) -> None:
        """Takes a block's."""
        if "last" in self.wanted:
            self._last.append(last_valid(inputs, self.lengths))
        if "inputs" in self.wanted:
            self._inputs.append(inputs)
        if "memory" in self.wanted:
            self._memory.append(memory)

    def taps(self) -> Taps:
        """Returns those of all blocks."""
        return Taps(tuple(self._last), tuple(self._inputs), tuple(self._memory))


class DeferredLogits(NamedTuple):
    """All logits, as what they are computed from: they are head(hidden), and may be computed some at a time."""

    hidden: Tensor
    """(B, T, E); (B, T, V) where the head is the identity, because logits cannot be had otherwise"""
    head: nn.Module


class Output(NamedTuple):
    """What a call of a backbone returns."""

    logits: Tensor | None
    """(B, T, V) for logits="all"; (B, V) for "last"; else None. Undefined at positions beyond a row's length."""
    state: State
    """The state after each row's last valid token."""
    taps: Taps
    deferred: DeferredLogits | None = None
    """for logits="deferred" """


@runtime_checkable
class BackboneConfig(Protocol):
    """What the rest of the package reads of a backbone's configuration."""

    @property
    def model_type(self) -> str:
        """The kind of model: a key of `BACKBONES`, or transformers' own `model_type`."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of tokens V."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A recurrent language model whose projections can be changed per row and per call.

    Implementations are `nn.Module`s: `NativeBackbone`, whose weights this package reads and writes itself, and
    `HFBackbone`, a model of transformers. What they must fulfil is tested in `tests/backbones/test_backbone.py`.
    """

    @property
    def config(self) -> BackboneConfig:
        """Sizes of the model."""
        ...

    @property
    def continues(self) -> bool:
        """Whether a call on several tokens can start from a state, with gradients through the state.

        If not, a prompt is read in one call, and training reads prompt and answer in one call (with `update_from`).
        """
        ...

    @property
    def perturbations(self) -> tuple[str, ...]:
        """What training may do to its memory: some of "wipe", "swap", "load", "age" and "start"."""
        ...

    @property
    def memory_grows(self) -> bool:
        """Whether its memory can grow although nothing is written into it, so that long answers need a limit."""
        ...

    @property
    def sites(self) -> Mapping[Site, tuple[int, int]]:
        """The projections of all time-mixing blocks that an update may act on, with their shapes (O, I)."""
        ...

    @property
    def tap_widths(self) -> tuple[tuple[int, int], ...]:
        """For each layer the widths of its taps: that of `inputs` and `last` (E), and that of `memory` (I)."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """The activations of every n-th block are recomputed in the backward pass; 0 if none are."""
        ...

    def enable_checkpointing(self, every: int) -> None:
        """Sets `checkpoint_every` (activation checkpointing). Raises ValueError where recomputation is impossible."""
        ...

    def init_state(self, batch: int) -> State:
        """Returns the state of `batch` rows before their first token."""
        ...

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """Returns a state whose memory has decayed as if more text had passed.

        Args:
            state: The state (B rows).
            steps: (B,) number of empty tokens, whole or not, by which the memory decays.
            shift: (B,) logarithm of a factor that weakens the memory further: 0 changes nothing, -1 leaves e^-1.

        Raises:
            ValueError: where the decay depends on the text ("age" is then not among the `perturbations`).
        """
        ...

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """Returns a state whose memory is weakened and mixed with that of another text. Token shifts stay.

        Args:
            state: The state (B rows), maybe wiped already.
            other: The state of other text.
            keep: (B,) factor on the memory of `state`.
            weight: (B,) strength of the memory of `other`; 0 leaves it out.
            reference: `state` before it was changed in any way. Backbones whose memory is normalised (RWKV-4) take from
                it how strong a memory is; others ignore it.

        Raises:
            ValueError: where "load" is not among the `perturbations`.
        """
        ...

    @property
    def anchor_units(self) -> tuple[int, ...]:
        """For each layer the number of units of its memory, each pulled back at a rate of its own; 0 for none.

        Units are the channels of RWKV-4, the heads of RWKV-7 and RetNet. () where no memory can be pulled back.
        """
        ...

    @property
    def log_decay(self) -> tuple[Tensor, ...] | None:
        """Per layer (units,) the logarithm of what a token leaves of the memory; None where that depends on the text.

        None, too, where what is left is not the same memory, only weaker (RetNet's rotates).
        """
        ...

    def make_anchor(self, target: State, log_keep: Sequence[Tensor], share: Sequence[Tensor]) -> Anchor:
        """Returns what pulls a memory S back to that of `target`: S <- e^log_keep S + share S_target.

        Args:
            target: The state that memories are pulled to (B rows): a prompt's, usually aged.
            log_keep: Per layer (B or 1, units) the logarithm of the share of the memory that stays, at most 0.
            share: Per layer (B or 1, units) the share of the target's memory that is added.

        Raises:
            ValueError: where no memory can be pulled back.
        """
        ...

    def anchor(self, state: State, anchor: Anchor) -> State:
        """Returns a state after one pull. Token shifts stay."""
        ...

    def __call__(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        update: Update | None = None,
        update_from: Tensor | None = None,
        anchor: Anchor | None = None,
        lengths: Tensor | None = None,
        logits: Logits = "all",
        taps: Collection[str] = (),
        keep_state: bool = True,
    ) -> Output:
        """Reads tokens on from a state.

        Args:
            tokens: (B, T) int64, padded on the right.
            state: The state to start from; the initial state by default. It is not written to.
            update: Weight changes of some or all sites, one per row.
            update_from: (B,) first position on which the update acts in each row; 0 by default.
            anchor: Pulls the memory after every valid token.
            lengths: (B,) number of valid tokens of each row; T by default. Beyond it nothing happens to the state.
            logits: Which logits to return.
            taps: Names of the taps to return, out of `TAPS`.
            keep_state: False allows the returned state to be `()`, which saves memory where it is not needed.

        Raises:
            ValueError: for no rows or no tokens, for an update that does not fit the sites, and for unknown taps.
        """
        ...


def check_call_shape(tokens: Tensor, lengths: Tensor | None = None) -> None:
    """Checks the tokens (B, T) and lengths (B,) of a call.

    Lengths on a GPU are not looked at, since that would wait for it.

    Raises:
        ValueError: For no row or no token, and for lengths of another shape or outside 0 to T.
    """
    if tokens.dim() != 2 or not tokens.numel():
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}; a call reads (B, T), at least one token of one row")
    if lengths is None:
        return
    rows, time = tokens.shape
    if lengths.shape != (rows,):
        raise ValueError(f"lengths has shape {tuple(lengths.shape)}; it must be ({rows},), a number for each row")
    if lengths.device.type == "cpu" and not 0 <= int(lengths.min()) <= int(lengths.max()) <= time:
        raise ValueError(f"lengths are {lengths.tolist()}; they must be 0 to {time}, the tokens of a row")


def check_taps(taps: Collection[str]) -> None:
    """Raises ValueError for names that are not in `TAPS`."""
    if unknown := set(taps) - set(TAPS):
        raise ValueError(f"unknown taps {sorted(unknown)}; known are {', '.join(TAPS)}")


def update_mask(tokens: Int[Tensor, "B T"], update_from: Int[Tensor, " B"] | None) -> Tensor | None:
    """Returns (B, T, 1) bool, true where the update acts; None if it acts everywhere."""
    if update_from is None:
        return None
    position = torch.arange(tokens.shape[1], device=tokens.device)
    return (position >= update_from.unsqueeze(1)).unsqueeze(2)
