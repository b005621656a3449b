"""Mamba's selective scan (arXiv 2312.00752, algorithm 2), step by step: the oracle of the compiled kernel.

B batch, T time, D channels, N numbers of state per channel. A is the logarithm of the decay per unit of time, dt the
time that a token takes, both per channel:

    h[b,d,n] <- exp(dt[b,t,d] A[d,n]) h[b,d,n] + dt[b,t,d] B[b,t,n] x[b,t,d]
    y[b,t,d] = sum over n of C[b,t,n] h[b,d,n]                                   (h is read after the write)

What Mamba does around it is left to the caller: softplus(dt + bias) before, D x and the gate after.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["naive_selective_scan"]


def naive_selective_scan(
    x: Float[Tensor, "B T D"],
    dt: Float[Tensor, "B T D"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B T N"],
    C: Float[Tensor, "B T N"],
    state: Float[Tensor, "B D N"],
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D N"]]:
    """The equations above in the type of the arguments, differentiated by autograd; see `SelectiveScanKernel`."""
    outputs = []
    for t in range(x.shape[1]):
        decay = (dt[:, t, :, None] * A).exp()
        state = decay * state + (dt[:, t] * x[:, t]).unsqueeze(2) * B[:, t].unsqueeze(1)
        outputs.append((state @ C[:, t].unsqueeze(2)).squeeze(2))
    return torch.stack(outputs, 1), state
