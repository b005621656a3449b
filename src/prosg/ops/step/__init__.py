"""What backbones compute between their projections: a plain form for any length, and a compiled one for one token.

naive     PyTorch: any device, type and length, differentiable; the oracle
compiled  CPU, T = 1, fp32 and bf16 with states in fp32, no gradients: what makes a decoding step's small operations few

A function here takes the compiled form where it can. `naive` has the equations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prosg.core.update import LowRank
from prosg.ops.library import ACTIVATIONS
from prosg.ops.step.compiled import (
    LIBRARY,
    compiled_add_deltas,
    compiled_finish,
    compiled_replacement,
    compiled_shift_mix,
    fits_deltas,
)
from prosg.ops.step.naive import (
    Replacement,
    RWKV7Vectors,
    Shifted,
    naive_add_deltas,
    naive_finish,
    naive_replacement,
    naive_shift_mix,
    shift_tokens,
)

__all__ = [
    "RWKV7Vectors",
    "Replacement",
    "Shifted",
    "finish",
    "project_each",
    "replacement",
    "shift_mix",
    "shift_tokens",
]


def _is_step(x: Tensor, state: torch.dtype = torch.float32) -> bool:
    """Whether the compiled form can take over: one token of each row, as in decoding."""
    return (
        x.shape[1] == 1
        and x.dtype in ACTIVATIONS
        and state == torch.float32
        and x.is_cpu
        and type(x) is Tensor
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(LIBRARY.loaded, str)
    )


def shift_mix(
    stream: Float[Tensor, "B T E"],
    added: Float[Tensor, "B T E"] | None,
    norm: nn.Module,
    previous: Float[Tensor, "B E"],
    mixes: Sequence[Float[Tensor, "1 1 E"]],
    backwards: bool = False,
    lengths: Int[Tensor, " B"] | None = None,
) -> Shifted:
    """Adds to the residual stream, normalises it, and mixes tokens with predecessors; see `naive_shift_mix`."""
    if lengths is None and type(norm) is nn.LayerNorm and _is_step(stream, previous.dtype):
        return compiled_shift_mix(stream, added, norm, previous, mixes, backwards)
    return naive_shift_mix(stream, added, norm, previous, mixes, backwards, lengths)


def project_each(
    linears: Sequence[Callable[[Tensor], Tensor]],
    inputs: Sequence[Float[Tensor, "B T I"]],
    deltas: Sequence[LowRank | None],
    active: Float[Tensor, "B T 1"] | None = None,
) -> list[Float[Tensor, "B T O"]]:
    """Applies projections under an update, each to an input of its own: y = W x + b (a x) (eq. 8-12).

    The modules are called rather than their weights read, so that wrapped (PEFT) and quantised layers work too.
    """
    outputs = [linear(x) for linear, x in zip(linears, inputs, strict=True)]
    if not any(deltas):
        return outputs
    if active is None and _is_step(outputs[0]) and fits_deltas(outputs, deltas):
        return compiled_add_deltas(outputs, inputs, deltas)
    return naive_add_deltas(outputs, inputs, deltas, active)


def replacement(
    r: Float[Tensor, "B T C"],
    k: Float[Tensor, "B T C"],
    v: Float[Tensor, "B T C"],
    w: Float[Tensor, "B T C"],
    a: Float[Tensor, "B T C"],
    mix: Float[Tensor, "B T C"] | None,
    first: Float[Tensor, "B T C"] | None,
    vectors: RWKV7Vectors,
    heads: int,
    wide: torch.dtype,
) -> Replacement:
    """Computes what RWKV-7's recurrence takes, from the projections; see `naive_replacement`."""
    if _is_step(r, wide):
        return compiled_replacement(r, k, v, w, a, mix, first, vectors, heads)
    return naive_replacement(r, k, v, w, a, mix, first, vectors, heads, wide)


def finish(
    y: Float[Tensor, "B T H N"],
    read: Replacement,
    r_k: Float[Tensor, "H N"],
    norm: nn.GroupNorm,
    gate: Float[Tensor, "B T C"],
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T C"]]:
    """Norm, bonus and gate of what RWKV-7's recurrence returned: the tap, and the gated one; see `naive_finish`."""
    if _is_step(gate, y.dtype):
        return compiled_finish(y, read, r_k, norm, gate)
    return naive_finish(y, read, r_k, norm, gate)
