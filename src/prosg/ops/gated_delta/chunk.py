"""The gated delta rule in plain PyTorch, in chunks of time, differentiated by autograd.

`naive` has the symbols. Within a chunk that begins at S_0, with D_ts = e^(g_{s+1} + ... + g_t), D_t = D_t0, and
u_t = beta_t (v_t - e^g_t S_{t-1} k_t) (what is written), every memory is a sum over what was written before it:

    S_t = D_t S_0 + sum_{s <= t} D_ts u_s k_s^T

With rows for steps, and L / LI the part strictly below the diagonal / below and on it:

    U + diag(beta) L(D * K K^T) U = diag(beta) (V - diag(D_t) K S_0^T)     a triangular system: U = Z - X S_0^T
    Y = diag(D_t) Q S_0^T + LI(D * Q K^T) U
    S_c = D_c S_0 + U^T diag(D_cs) K

All but the last line is computed for all chunks at once; the last runs over the chunks. Every D is at most 1, whatever
the decays are. Steps that are not valid are g = 0, beta = 0.

A pull S_t <- lam S_t + P after every step multiplies e^g by lam in D. What is written, and what is read, is before the
step's own pull: there D_t S_0 becomes (D_t S_0 + E_t P) / lam, with E_t = sum_{s < t} D_ts the sum of what is left of
P, and S_c = D_c S_0 + lam U^T diag(D_cs) K + (E_c + 1) P. Factors of lam are part of the exponents: none is divided by.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prosg.core.tensors import valid_mask
from prosg.ops.gated_delta.naive import naive_gated_delta
from prosg.ops.pull import Pull

__all__ = ["chunked_gated_delta"]

CHUNK = 64
"""Largest number of steps in a chunk."""


def chunked_gated_delta(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    g: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    memory: Float[Tensor, "B H V K"],
    lengths: Int[Tensor, " B"] | None = None,
    pull: Pull | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """The recurrence in parallel over chunks of time; see `GatedDeltaKernel`."""
    time, width = k.shape[1], k.shape[3]
    if time == 1:
        # There is nothing to parallelize: the plain step has fewer operations.
        return naive_gated_delta(q, k, v, g, beta, memory, lengths, pull)
    n = -(-time // CHUNK)
    c = -(-time // n)
    valid = torch.ones_like(g) if lengths is None else valid_mask(lengths, time).to(g.dtype).unsqueeze(2).expand_as(g)
    pulled = torch.zeros_like(g) if pull is None else valid * pull.log_keep.unsqueeze(1)  # log lam
    g, beta = g * valid + pulled, beta * valid

    def cut(x: Tensor) -> Tensor:
        """(B, T, H, .) -> (B, H, n, c, .); steps that the last chunk lacks are 0."""
        pieces: Tensor = F.pad(x, (0, 0, 0, 0, 0, n * c - time)).unflatten(1, (n, c))
        return pieces.permute(0, 3, 1, 2, 4)

    q, k, v = cut(q), cut(k), cut(v)
    g, beta, valid, pulled = (cut(x.unsqueeze(3)) for x in (g, beta, valid, pulled))
    logs = g.cumsum(3)
    now, end = logs - pulled, logs[..., -1:, :]
    upto = torch.ones(c, c, dtype=torch.bool, device=k.device).tril()
    # Masked before the exponential: above the diagonal it may overflow.
    between = (logs - logs.mT).masked_fill(~upto, -torch.inf).exp()
    until_end = (end - now).exp() * k

    sides = [beta * v, beta * now.exp() * k]
    if pull is not None:
        left = (now - logs.mT).masked_fill(~upto.tril(-1), -torch.inf).exp() @ valid  # E_t / lam
        sides.append(beta * left * k)
    system = torch.eye(c, dtype=k.dtype, device=k.device) + beta * between.tril(-1) * (k @ k.mT)
    solved = torch.linalg.solve_triangular(system, torch.cat(sides, -1), upper=False, unitriangular=True)
    z, x, x_p = solved.split([v.shape[4], width, solved.shape[4] - v.shape[4] - width], -1)
    if pull is not None:
        constant = pull.memory.unsqueeze(2)
        z = z - x_p @ constant.mT
    carry = end.exp() * torch.eye(width, dtype=k.dtype, device=k.device) - x.mT @ until_end
    added = z.mT @ until_end
    if pull is not None:
        added = added + ((end - logs).exp() * valid).sum(3, keepdim=True) * constant
    starts = []
    for i in range(n):
        starts.append(memory)
        memory = memory @ carry[:, :, i] + added[:, :, i]
    first = torch.stack(starts, 2).mT
    y = (now.exp() * q) @ first + (between * (q @ k.mT)) @ (z - x @ first)
    if pull is not None:
        y = y + (left * q) @ constant.mT
    y = (y * valid).permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time]
    return y, memory
