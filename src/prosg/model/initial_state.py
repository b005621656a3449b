"""A learned initial state: what the memory holds before the first token (state tuning).

One tensor per layer, shared by all prompts; everything else of the initial state (token shifts) stays the backbone's:

    rwkv7, retnet   the memory itself, (H, N, N), rows for values and columns for keys
    rwkv4           (2, C): the memory's mean num / den, and the logarithm of its weight den e^top, so that whatever is
                    learned is a valid memory

All start as zeros. To rwkv7 and retnet that is the empty memory. To rwkv4 it is that of one token with key and value 0:
a memory of no weight would get no gradient.

Files are RWKV's own kind: a `.pth` of `blocks.N.att.time_state`. RWKV-7's is stored as the recurrence reads it, in
RWKV-PEFT and here, while files of RWKV-5 and 6 are transposed by whoever reads them. RWKV-4 has no such file elsewhere;
its (2, C) is this package's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prosg.backbones.base import Backbone
from prosg.core.state import State

__all__ = ["InitialState"]


class Kind(NamedTuple):
    """How a layer's learned tensor becomes its memory."""

    start: Callable[[Any], Tensor]
    """an empty layer of one row -> the tensor before training"""
    fill: Callable[[Any, Tensor], Any]
    """(an empty layer (B, ...), the tensor) -> the layer with it as its memory, in each row"""


def _fill_rwkv4(empty: Any, learned: Tensor) -> Any:
    mean, weight = learned
    # top is never differentiated: the weight's gradient goes by (num, den), through a factor of one.
    one = torch.exp(weight - weight.detach())
    top = torch.zeros_like(empty.top) + weight.detach()
    return empty._replace(num=empty.num + mean * one, den=empty.den + one, top=top)


_MATRIX = Kind(
    lambda empty: torch.zeros_like(empty.memory[0]),
    lambda empty, learned: empty._replace(memory=empty.memory + learned),
)
KINDS: dict[str, Kind] = {
    "rwkv4": Kind(lambda empty: torch.zeros_like(empty.num).expand(2, -1), _fill_rwkv4),
    "rwkv7": _MATRIX,
    "retnet": _MATRIX,
}
"""By `config.model_type`."""


class InitialState(nn.Module):
    """A learned memory per layer, as a function of the number of rows.

    Raises ValueError for a backbone through whose state no gradients are to be had.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        model_type = backbone.config.model_type
        if model_type not in KINDS:
            raise ValueError(f"an initial state of {model_type} cannot be learned; known are {', '.join(KINDS)}")
        self.kind = KINDS[model_type]
        self.layers: Sequence[nn.Parameter] = nn.ParameterList(  # type: ignore[assignment]
            nn.Parameter(self.kind.start(empty).clone()) for empty in backbone.init_state(1)
        )

    def forward(self, empty: State) -> State:
        """A backbone's own initial state, of any number of rows, with what was learned as its memory."""
        return tuple(self.kind.fill(layer, learned) for layer, learned in zip(empty, self.layers, strict=True))
