"""A learned initial state: what the memory holds before the first token of a prompt (state tuning).

There is one tensor per layer, shared by all prompts. The other parts of the state (token shifts) stay as the backbone
initialises them.

    rwkv7, retnet   (H, N, N)  the memory itself, rows for values and columns for keys
    rwkv4           (2, C)     the memory's mean num / den, and the logarithm of its weight, log(den e^top): every value
                               of these is a valid memory

All start as zeros. For rwkv7 and retnet that is the empty memory. For rwkv4 it is the memory of one token with key and
value 0, because a memory of weight 0 would get no gradient.

Files are read and written by `prosg.checkpoints.initial_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prosg.backbones.base import Backbone
from prosg.core.state import State

__all__ = ["InitialState"]


class MemoryFormat(NamedTuple):
    """How a layer's learned tensor becomes its memory."""

    start: Callable[[Any], Tensor]
    """(empty layer of one row) -> the tensor before training"""
    fill: Callable[[Any, Tensor], Any]
    """(empty layer of any number of rows, learned tensor) -> the layer with it as the memory of each row"""


def _fill_rwkv4(empty: Any, learned: Tensor) -> Any:
    mean, weight = learned
    # No gradient flows through top. That of the weight reaches num and den through a factor of value 1.
    one = torch.exp(weight - weight.detach())
    top = torch.zeros_like(empty.top) + weight.detach()
    return empty._replace(num=empty.num + mean * one, den=empty.den + one, top=top)


_MATRIX = MemoryFormat(
    lambda empty: torch.zeros_like(empty.memory[0]),
    lambda empty, learned: empty._replace(memory=empty.memory + learned),
)
FORMATS: dict[str, MemoryFormat] = {
    "rwkv4": MemoryFormat(lambda empty: torch.zeros_like(empty.num).expand(2, -1), _fill_rwkv4),
    "rwkv7": _MATRIX,
    "retnet": _MATRIX,
}
"""By `config.model_type`."""


class InitialState(nn.Module):
    """A learned memory per layer, for a backbone of one of the types in `FORMATS`.

    Attributes:
        layers: The learned tensors.
    """

    def __init__(self, backbone: Backbone) -> None:
        """Starts from zeros. Raises ValueError for a backbone that gives no gradients to its initial state."""
        super().__init__()
        model_type = backbone.config.model_type
        if model_type not in FORMATS:
            raise ValueError(f"an initial state of {model_type} cannot be learned; known are {', '.join(FORMATS)}")
        self.format = FORMATS[model_type]
        self.layers = nn.ParameterList(
            nn.Parameter(self.format.start(empty).clone()) for empty in backbone.init_state(1)
        )

    def forward(self, empty: State) -> State:
        """Returns a backbone's own initial state, of any number of rows, with the learned memory in each row."""
        learned: Iterable[Tensor] = self.layers
        return tuple(self.format.fill(layer, tensor) for layer, tensor in zip(empty, learned, strict=True))
