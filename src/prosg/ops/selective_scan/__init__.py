"""Mamba's selective scan (arXiv 2312.00752, algorithm 2): the oracle, and the implementations behind its signature.

B batch, T time, D channels, N numbers of state per channel. A is the logarithm of the decay per unit of time, dt the
time that a token takes, both a channel's own:

    h[b,d,n] <- exp(dt[b,t,d] A[d,n]) h[b,d,n] + dt[b,t,d] B[b,t,n] x[b,t,d]
    y[b,t,d] = sum over n of C[b,t,n] h[b,d,n]                                   (h is read after the write)

What Mamba does around it, softplus(dt + bias) before, D x and the gate after, is left to the caller.

    scan    the oracle, step by step, differentiated by autograd: any device and type
    c       compiled, with a backward written by hand: CPU, fp32 and fp64, where a compiler was there at installation
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from prosg.ops.selective_scan.compiled import LIBRARY, selective_scan_c

__all__ = ["KERNELS", "LIBRARY", "Kernel", "selective_scan"]

Kernel = Callable[..., tuple[Tensor, Tensor]]


def selective_scan(
    x: Float[Tensor, "B T D"],
    dt: Float[Tensor, "B T D"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B T N"],
    C: Float[Tensor, "B T N"],
    state: Float[Tensor, "B D N"],
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D N"]]:
    """The oracle: (y, the state after the last step), in the type of its arguments.

    dt A must not be positive: no memory grows of itself. Mamba's A is negative, its dt positive.
    """
    outputs = []
    for t in range(x.shape[1]):
        decay = (dt[:, t, :, None] * A).exp()
        state = decay * state + (dt[:, t] * x[:, t]).unsqueeze(2) * B[:, t].unsqueeze(1)
        outputs.append((state @ C[:, t].unsqueeze(2)).squeeze(2))
    return torch.stack(outputs, 1), state


KERNELS: dict[str, Kernel] = {"scan": selective_scan, "c": selective_scan_c}
