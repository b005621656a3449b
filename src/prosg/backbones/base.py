"""What a backbone is: a function of (tokens, state, update).

    B batch, T time, E width, L layers, I/O a projection's in/out, V vocabulary

There is one forward for any T and no `step` beside it; training, prefill and token-by-token decoding are one path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from prosg.core.state import State
from prosg.core.update import Site, Update

__all__ = ["TAPS", "Backbone", "Logits", "Output", "Taps", "last_valid", "shift_tokens"]

Logits = Literal["all", "last", "none"]
TAPS = ("last", "inputs", "memory")


class Taps(NamedTuple):
    """What a synthesizer may read; tuples run over the layers, each with its own width. Empty where not asked for."""

    last: tuple[Tensor, ...] = ()
    """(B, E) time-mix input (after ln1) at the last valid token: the paper's x. Anything in a row without one."""
    inputs: tuple[Tensor, ...] = ()
    """(B, T, E) every position's time-mix input."""
    memory: tuple[Tensor, ...] = ()
    """(B, T, I) what the recurrence returned there, before gate and output projection."""


class Output(NamedTuple):
    """What one call of a backbone returns."""

    logits: Tensor | None
    """(B, T, V) for "all", (B, V) at each row's last valid token for "last", None for "none"."""
    state: State
    taps: Taps


@runtime_checkable
class Backbone(Protocol):
    """A recurrent language model whose weights can be changed per row and per call. Native ones are nn.Modules."""

    @property
    def config(self) -> Any: ...

    @property
    def continues(self) -> bool:
        """Whether several tokens can be read on from a state, with gradients through it.

        Where not, a prompt is read in one call, and training reads prompt and answer in one call (`update_from`).
        """
        ...

    @property
    def perturbations(self) -> tuple[str, ...]:
        """What training may do to its memory: some of "wipe", "swap", "load", "age"."""
        ...

    @property
    def sites(self) -> Mapping[Site, tuple[int, int]]:
        """Every projection of a time-mixing block that an update may act on, with its shape (O, I)."""
        ...

    @property
    def tap_widths(self) -> tuple[tuple[int, int], ...]:
        """Per layer the widths of the taps: (inputs and last, memory)."""
        ...

    def init_state(self, batch: int) -> State:
        """The state before the first token."""
        ...

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """Decay the memory as if `steps` (B,) empty tokens had passed, and weaken it by e^shift (B,)."""
        ...

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """Weaken the memory by `keep` (B,) and mix in that of `other`, with strength `weight` (B,).

        `reference` is the state before anything was done to it: it says how strong a memory is where the state at hand
        has been wiped. What exactly is mixed is each backbone's own affair.
        """
        ...

    @property
    def checkpoint_every(self) -> int:
        """The inside of every n-th block is recomputed in the backward pass; 0: of none."""
        ...

    def enable_checkpointing(self, every: int) -> None:
        """Sets `checkpoint_every`. Raises ValueError where recomputation is not possible."""
        ...

    def __call__(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        update: Update | None = None,
        update_from: Tensor | None = None,
        lengths: Tensor | None = None,
        logits: Logits = "all",
        taps: Collection[str] = (),
        keep_state: bool = True,
    ) -> Output:
        """Read `tokens` (B, T) on from `state`.

        lengths (B,): valid tokens of each right-padded row; the others are identity steps. update_from (B,): the first
        position that the update acts on. taps: names of the Taps wanted. keep_state: without it the state may be ().
        """
        ...


def shift_tokens(x: Tensor, previous: Tensor) -> Tensor:
    """Each position's predecessor: x (B, T, E) moved one step, with `previous` (B, E) in front."""
    return torch.cat([previous.to(x.dtype).unsqueeze(1), x[:, :-1]], dim=1)


def last_valid(x: Tensor, previous: Tensor, lengths: Int[Tensor, " B"] | None) -> Tensor:
    """x (B, T, E) at each row's last valid position; `previous` (B, E) in rows without any."""
    if lengths is None:
        return x[:, -1]
    index = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, x.shape[-1])
    picked = x.gather(1, index).squeeze(1)
    return torch.where((lengths > 0).unsqueeze(1), picked, previous.to(x.dtype))
