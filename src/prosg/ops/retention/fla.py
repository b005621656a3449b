"""Retention by fla: `chunk_simple_gla`, and `fused_recurrent_simple_gla` for single tokens.

These are what fla's own retention calls with the decays of its heads; here they get ours. They only decay the memory,
so queries and keys are rotated by their position in the call, and the memory is rotated back at its end, as in
`chunked_retention`. Steps that are not valid are given the decay 0 one by one, and empty keys and queries.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prosg.core.tensors import valid_mask
from prosg.ops.fla import NARROWEST, instead, matrix_type
from prosg.ops.pull import Pull
from prosg.ops.retention.chunk import chunked_retention
from prosg.ops.retention.naive import angles, elapse, rotate_pairs

__all__ = ["fla_retention"]


def fla_retention(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    decay: Float[Tensor, " H"],
    memory: Float[Tensor, "B H V K"],
    lengths: Int[Tensor, " B"] | None = None,
    pull: Pull | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """Retention on a GPU, with a memory in fp32; see `RetentionKernel`. Under a pull `chunked_retention` takes over."""
    time, width = q.shape[1], q.shape[3]
    if pull is not None:
        other = instead("retention", chunked_retention, "chunked", "with an anchor")
        return other(q, k, v, decay, memory, lengths, pull)
    if min(width, v.shape[3]) < NARROWEST:
        other = instead("retention", chunked_retention, "chunked", f"for heads narrower than {NARROWEST}")
        return other(q, k, v, decay, memory, lengths)
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    position = torch.arange(1, time + 1, dtype=torch.float64, device=q.device).view(-1, 1, 1)
    one, angle = torch.ones_like(position[0]), position * angles(width, q.device)
    q, k = rotate_pairs(q, one, angle), rotate_pairs(k, one, angle)
    run = partial(fused_recurrent_simple_gla, scale=1.0, output_final_state=True, state_v_first=True)
    if time > 1:
        run = partial(chunk_simple_gla, scale=1.0, output_final_state=True, state_v_first=True)
        q, k, v = (x.to(matrix_type(x)) for x in (q, k, v))
    if lengths is None:
        total = position.new_full((1,), time)
        y, after = run(q, k, v, g_gamma=decay, initial_state=memory)
    else:
        total = lengths
        valid = valid_mask(lengths, time).view(*q.shape[:2], 1, 1)
        q, k, v = (x.masked_fill(~valid, 0) for x in (q, k, v))
        y, after = run(q, k, v, g=decay * valid.squeeze(3), initial_state=memory)
    return y.to(memory.dtype), elapse(after, torch.zeros_like(decay), total)
