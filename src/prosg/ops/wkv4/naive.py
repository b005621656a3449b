"""RWKV-4's time-mixing recurrence (the paper's eq. 5-6), step by step: the oracle of the fast kernels.

Per channel, with w = -exp(time_decay) < 0 and u = time_first, all relative to a running maximum `top`:

    q = max(top, u + k);      y   = (e^(top-q) num + e^(u+k-q) v) / (e^(top-q) den + e^(u+k-q))
    q = max(top + w, k);      num = e^(top+w-q) num + e^(k-q) v
                              den = e^(top+w-q) den + e^(k-q);      top = q

The true memory is (num, den) e^top. `top` only keeps the numbers finite, so it is never differentiated: gradients of
num and den are taken at fixed top, which is exact for every function of the true memory.

An anchor pulls the memory after each step, so that y_t is read before step t's pull:

    (num, den) e^top  <-  e^log_keep (num, den) e^top + (num_p, den_p) e^top_p
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["EMPTY_TOP", "WKV4Memory", "WKV4Pull", "naive_wkv4", "pull_wkv4"]

EMPTY_TOP = -1e30
"""`top` of an empty memory."""


class WKV4Memory(NamedTuple):
    """The state of the recurrence: three tensors (B, C). The true memory is (num, den) e^top."""

    num: Tensor
    den: Tensor
    top: Tensor


class WKV4Pull(NamedTuple):
    """What pulls the memory after every step: four tensors (B, C)."""

    num: Tensor
    """What is added, as a memory (num, den) e^top."""
    den: Tensor
    top: Tensor
    log_keep: Tensor
    """Logarithm of the share of the memory that stays, at most 0."""


def pull_wkv4(memory: WKV4Memory, pull: WKV4Pull) -> WKV4Memory:
    """Returns the memory after one pull, at a common top."""
    num, den, top = memory
    q = torch.maximum(top + pull.log_keep, pull.top).detach()
    old, new = (top + pull.log_keep - q).exp(), (pull.top.detach() - q).exp()
    return WKV4Memory(old * num + new * pull.num, old * den + new * pull.den, q)


def naive_wkv4(
    w: Float[Tensor, " C"],
    u: Float[Tensor, " C"],
    k: Float[Tensor, "B T C"],
    v: Float[Tensor, "B T C"],
    memory: WKV4Memory,
    lengths: Int[Tensor, " B"] | None = None,
    pull: WKV4Pull | None = None,
) -> tuple[Float[Tensor, "B T C"], WKV4Memory]:
    """The equations above in the type of the arguments, differentiated by autograd; see `WKV4Kernel`."""
    num, den, top = memory
    top = top.detach()
    outputs = []
    for t in range(k.shape[1]):
        kt, vt = k[:, t], v[:, t]
        q = torch.maximum(top, u + kt).detach()
        old, new = (top - q).exp(), (u + kt - q).exp()
        y = (old * num + new * vt) / (old * den + new)
        q = torch.maximum(top + w, kt).detach()
        old, new = (top + w - q).exp(), (kt - q).exp()
        step = WKV4Memory(old * num + new * vt, old * den + new, q)
        if pull is not None:
            step = pull_wkv4(step, pull)
        if lengths is None:
            num, den, top = step
        else:
            valid = (t < lengths).unsqueeze(1)
            y = torch.where(valid, y, 0)
            num, den, top = (torch.where(valid, a, b) for a, b in zip(step, (num, den, top), strict=True))
        outputs.append(y)
    return torch.stack(outputs, 1), WKV4Memory(num, den, top)
