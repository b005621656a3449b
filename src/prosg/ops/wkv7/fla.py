"""RWKV-7's recurrence by fla: `chunk_rwkv7` for texts and gradients, `fused_recurrent_rwkv7` for single tokens.

Both take the logarithm of the decay and compute `naive_wkv7`'s equations on the transposed state (`ops.fla`). The
chunked form multiplies decays of up to 64 steps; that these stay within fp32 follows from `LOWEST`. Steps that are not
valid are w = 0, a = b = k = 0, as in `chunked_wkv7`.
"""

from __future__ import annotations

from functools import partial

from jaxtyping import Float, Int
from torch import Tensor

from prosg.core.tensors import valid_mask
from prosg.ops.fla import NARROWEST, from_fla, instead, matrix_type, needs_gradient, to_fla
from prosg.ops.pull import Pull
from prosg.ops.wkv7.chunk import chunked_wkv7

__all__ = ["fla_wkv7"]

LOWEST = -0.6066
"""A bound of the logarithm of RWKV-7's decays, which are at least -e^-.5 = -.60653."""


def fla_wkv7(
    r: Float[Tensor, "B T H N"],
    w: Float[Tensor, "B T H N"],
    k: Float[Tensor, "B T H N"],
    v: Float[Tensor, "B T H N"],
    a: Float[Tensor, "B T H N"],
    b: Float[Tensor, "B T H N"],
    state: Float[Tensor, "B H N N"],
    lengths: Int[Tensor, " B"] | None = None,
    pull: Pull | None = None,
) -> tuple[Float[Tensor, "B T H N"], Float[Tensor, "B H N N"]]:
    """The recurrence on a GPU, with a state in fp32; see `WKV7Kernel`. Under a pull `chunked_wkv7` takes over."""
    _, time, _, size = k.shape
    if pull is not None:
        return instead("wkv7", chunked_wkv7, "torch", "with an anchor")(r, w, k, v, a, b, state, lengths, pull)
    if size < NARROWEST:
        other = instead("wkv7", chunked_wkv7, "torch", f"for heads narrower than {NARROWEST}")
        return other(r, w, k, v, a, b, state, lengths)
    from fla.ops.rwkv7 import chunk_rwkv7, fused_recurrent_rwkv7

    if lengths is not None:
        invalid = ~valid_mask(lengths, time).view(*k.shape[:2], 1, 1)
        r, w, k, v, a, b = (x.masked_fill(invalid, 0) for x in (r, w, k, v, a, b))
    run = partial(fused_recurrent_rwkv7, scale=1.0, output_final_state=True)
    if time > 1 or needs_gradient(r, w, k, v, a, b, state):
        run = partial(chunk_rwkv7, scale=1.0, output_final_state=True, lower_bound=LOWEST)
        r, k, v, a, b = (x.to(matrix_type(x)) for x in (r, k, v, a, b))
    y, after = run(r, w, k, v, a, b, initial_state=to_fla(state))
    return y.to(state.dtype), from_fla(after)
