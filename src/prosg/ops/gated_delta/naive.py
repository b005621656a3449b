"""The gated delta rule (Gated DeltaNet, arXiv 2412.06464, eq. 10), step by step: the oracle of the chunked form.

Symbols, per head; K and V are the widths of keys and values:

    q, k, v     query, key (K,) and value (V,) of a step; keys are unit vectors, or shorter
    g           logarithm of the share alpha of the memory that is kept, at most 0
    beta        how much of what the memory holds at k is replaced, 0 to 1
    S           memory (V, K), rows for values and columns for keys

    S <- e^g S (I - beta k k^T) + beta v k^T;      y = S q               (S is read after the write)
       = e^g S + beta (v - e^g S k) k^T

Nothing is normalised or scaled here: unit keys and queries, and 1 / sqrt(K), belong to the caller. An anchor's pull
(`ops.pull`) comes after y is read.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prosg.ops.pull import Pull, pull_memory

__all__ = ["naive_gated_delta"]


def naive_gated_delta(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    g: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    memory: Float[Tensor, "B H V K"],
    lengths: Int[Tensor, " B"] | None = None,
    pull: Pull | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """The equations above in the type of the arguments, differentiated by autograd; see `GatedDeltaKernel`."""
    outputs = []
    for t in range(k.shape[1]):
        kept = g[:, t].exp()[..., None, None] * memory
        held = (kept @ k[:, t].unsqueeze(3)).squeeze(3)
        written = beta[:, t].unsqueeze(2) * (v[:, t] - held)
        step = kept + written.unsqueeze(3) * k[:, t].unsqueeze(2)
        y = (step @ q[:, t].unsqueeze(3)).squeeze(3)
        if pull is not None:
            step = pull_memory(step, pull)
        if lengths is None:
            memory = step
        else:
            valid = (t < lengths).view(-1, 1, 1)
            y = torch.where(valid, y, 0)
            memory = torch.where(valid.unsqueeze(3), step, memory)
        outputs.append(y)
    return torch.stack(outputs, 1), memory
