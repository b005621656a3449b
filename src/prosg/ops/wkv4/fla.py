"""RWKV-4's recurrence by fla: `fused_recurrent_rwkv4`, step by step in one kernel, forward and backward.

It takes log(-w), and the memory as one tensor (B, 3, 1, C) of num, den and top. Two of its conventions differ:

- It has no valid steps. A step that is not valid gets the key -inf: it writes nothing, but the memory decays. The top
  of the memory after a row is raised again by the decay of those steps, to fp32's rounding of that sum.
- Its gradients treat top as a variable, ours hold it fixed, which is the same for a function of the true memory
  (num, den) e^top alone. So num and den are returned times e^(top - top'), where top' is top as a constant: times 1,
  but top then has the gradient that makes the function one of the true memory.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prosg.core.tensors import valid_mask
from prosg.ops.fla import instead
from prosg.ops.wkv4.chunk import chunked_wkv4
from prosg.ops.wkv4.naive import WKV4Memory, WKV4Pull

__all__ = ["fla_wkv4"]


def fla_wkv4(
    w: Float[Tensor, " C"],
    u: Float[Tensor, " C"],
    k: Float[Tensor, "B T C"],
    v: Float[Tensor, "B T C"],
    memory: WKV4Memory,
    lengths: Int[Tensor, " B"] | None = None,
    pull: WKV4Pull | None = None,
) -> tuple[Float[Tensor, "B T C"], WKV4Memory]:
    """The recurrence on a GPU, in fp32; see `WKV4Kernel`. Under a pull `chunked_wkv4` takes over."""
    if pull is not None:
        return instead("wkv4", chunked_wkv4, "torch", "with an anchor")(w, u, k, v, memory, lengths, pull)
    from fla.ops.rwkv4 import fused_recurrent_rwkv4

    time = k.shape[1]
    if lengths is not None:
        # A row without a valid step computes its first: an empty memory has nothing to read. The result is not used.
        invalid = ~valid_mask(lengths.clamp(min=1), time).unsqueeze(2)
        k, v = k.masked_fill(invalid, -math.inf), v.masked_fill(invalid, 0)
    packed = torch.stack([memory.num, memory.den, memory.top.detach()], 1).unsqueeze(2)
    y, after = fused_recurrent_rwkv4((-w).log(), u, k, v, packed)
    num, den, top = after.squeeze(2).unbind(1)
    if lengths is not None:
        steps = time - lengths.clamp(min=1)
        top = top - steps.unsqueeze(1) * w
    one = (top - top.detach()).exp()
    after = WKV4Memory(num * one, den * one, top.detach())
    if lengths is not None:
        y = y.masked_fill(~valid_mask(lengths, time).unsqueeze(2), 0)
        begun = (lengths > 0).unsqueeze(1)
        after = WKV4Memory(*(torch.where(begun, new, old) for new, old in zip(after, memory, strict=True)))
    return y, after
