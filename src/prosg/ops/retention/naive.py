"""Retention (RetNet, arXiv 2307.08621, section 2.1), step by step: the oracle of the fast kernels.

Symbols, per head; K and V are the widths of keys and values, steps are counted from 1:

    q_n, k_n, v_n   query, key (K,) and value (V,) of step n
    gamma           the share of the memory that is kept per step; `decay` is its logarithm, at most 0
    theta           how far a pair of key channels, 2 j and 2 j + 1, rotates per step (`angles`); equal in all heads
    e^ix z          z (K,) with its pairs rotated by x: a pair is read as a complex number
    S               memory (V, K), rows for values and columns for keys: the paper's, transposed, as in `ops.wkv7`

    S_n = gamma e^{-i theta} S_{n-1} + v_n k_n^T;       y_n = S_n q_n                                   (eq. 1, 6)
        = e^{-i n theta} (gamma^n S_0 + sum_{m <= n} gamma^(n-m) v_m (e^{i m theta} k_m)^T)             (eq. 3, 4)

The first line needs no step's number: a call may end anywhere, and the next one counts from 1 again, with S alone. The
second is the same with queries and keys rotated by their position in the call; the chunked forms compute it. (The
paper's recurrence, eq. 6, rotates the keys only, which then need their position in the whole text.)

None of the paper's normalisations of the scores is here. 1 / sqrt(K) belongs to the caller, who scales the keys. The
other two divide by row sums of the decays and of the scores, for the range of fp16, and cancel in the group norm that
follows; they depend on the step's number or on other steps' scores, which a carried memory does not have.

An anchor's pull (`ops.pull`) comes after y is read. What it adds does not rotate: it stays as far back as it was taken.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from prosg.ops.pull import Pull, pull_memory

__all__ = ["angles", "as_pairs", "elapse", "recurrent_retention", "rotate_pairs"]


def angles(width: int, device: torch.device) -> Float[Tensor, " pairs"]:
    """Returns theta in fp64: from one radian per step to a ten-thousandth, spaced as the authors do."""
    return 10000.0 ** -torch.linspace(0, 1, width // 2, dtype=torch.float64, device=device)


def as_pairs(x: Tensor) -> Tensor:
    """Returns x (..., K) as complex pairs (..., K / 2), however its numbers lie in memory."""
    return torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2)))


def rotate_pairs(x: Tensor, size: Tensor, angle: Tensor) -> Tensor:
    """Returns x (..., K) times size e^{i angle}, both broadcast to its pairs (..., K / 2)."""
    # Angles are fp64: after some thousand radians an fp32 one has lost the digits that its sine needs.
    factor = torch.polar(*torch.broadcast_tensors(size.double(), angle)).to(x.dtype.to_complex())
    return torch.view_as_real(as_pairs(x) * factor).flatten(-2)


def elapse(
    memory: Float[Tensor, "B H V K"], decay: Float[Tensor, "*B H"], steps: Shaped[Tensor, " N"]
) -> Float[Tensor, "B H V K"]:
    """Returns gamma^steps e^{-i steps theta} S: the memory after steps in which nothing is written.

    `steps`, whole or not, is (B,) or (1,).
    """
    steps = steps.double().view(-1, 1, 1, 1)
    kept = torch.exp(steps * decay.double()[..., None, None])
    return rotate_pairs(memory, kept, -steps * angles(memory.shape[3], memory.device))


def recurrent_retention(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    decay: Float[Tensor, " H"],
    memory: Float[Tensor, "B H V K"],
    lengths: Int[Tensor, " B"] | None = None,
    pull: Pull | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """One step after the other (eq. 1, 6), differentiated by autograd; see `RetentionKernel`."""
    one_step = torch.ones(1, device=q.device)
    outputs = []
    for t in range(q.shape[1]):
        step = torch.addcmul(elapse(memory, decay, one_step), v[:, t].unsqueeze(3), k[:, t].unsqueeze(2))
        y = (q[:, t].unsqueeze(2) @ step.mT).squeeze(2)
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
