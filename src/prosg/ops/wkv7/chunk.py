"""RWKV-7's recurrence in plain PyTorch, in chunks of time, differentiated by autograd.

`naive_wkv7` has the equations. Within a chunk of c steps that begins at S_0, with D_t = exp(w_1 + ... + w_t) and
u_t = S_{t-1} a_t (what is removed), every state is a sum over what was written before it:

    S_t = S_0 D_t + sum_{s <= t} (u_s b_s^T + v_s k_s^T) D_t / D_s

With a~_t = D_{t-1} a_t, r~_t = D_t r_t, b~_s = b_s / D_s, k~_s = k_s / D_s, rows for steps, and L / LI the part
strictly below the diagonal / below and on it:

    U = A~ S_0^T + L(A~ B~^T) U + L(A~ K~^T) V          a triangular system: U = X S_0^T + Z
    Y = R~ S_0^T + LI(R~ B~^T) U + LI(R~ K~^T) V
    S_c = S_0 (diag(D_c) + X^T B') + Z^T B' + V^T K'    with B' = B~ D_c, K' = K~ D_c

All but the last line is computed for all chunks at once; the last runs over the T / c chunks. 1 / D_t is at most
e^(0.61 c): with c = 32 that is 3e8, well within fp32. Steps that are not valid are w = 0, a = b = k = 0.

A pull S_t <- lam S_t + P after every step is a recurrence with D lam for D, lam b for b, lam k for k, and P written at
every valid step. With E_t = D_t (1 / D_1 + ... + 1 / D_t), the sum of what is left of P, it adds P (E_t a_{t+1}) to
what is removed, P E_c to the state, and P (E_t r_t) to S_t r_t. What is read is the state before its pull:

    U = ... + X_P P^T;      y_t = (S_t r_t - P r_t) / lam

where lam is at least 1 / e, so that 1 / D_t stays within fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prosg.core.tensors import valid_mask
from prosg.ops.pull import Pull
from prosg.ops.wkv7.naive import naive_wkv7

__all__ = ["chunked_wkv7"]

CHUNK = 32


def _chunks(x: Tensor) -> Tensor:
    """(B, T, H, N) -> (B, H, n, c, N); steps that the last chunk lacks are 0."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % CHUNK))
    cut: Tensor = x.unflatten(1, (-1, CHUNK))
    return cut.permute(0, 3, 1, 2, 4)


def chunked_wkv7(
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
    """The recurrence in parallel over chunks of time; see `WKV7Kernel`."""
    time, size = k.shape[1], k.shape[3]
    if time == 1:
        # There is nothing to parallelize: the plain step has fewer operations.
        return naive_wkv7(r, w, k, v, a, b, state, lengths, pull)
    valid = torch.ones_like(k[..., :1])
    if pull is not None:
        log_keep = pull.log_keep[:, None, :, None]
        w, k, b = w + log_keep, k * log_keep.exp(), b * log_keep.exp()
    if lengths is not None:
        valid = valid * valid_mask(lengths, time).view(*k.shape[:2], 1, 1)
        r, w, k, a, b = (x * valid for x in (r, w, k, a, b))
    r, w, k, v, a, b, valid = (_chunks(x) for x in (r, w, k, v, a, b, valid))
    logs = w.cumsum(-2)
    decay = logs.exp()  # D_t
    a_start, r_start = a * (logs - w).exp(), r * decay
    last = decay[..., -1:, :]
    b, k = b / decay, k / decay
    b_end, k_end = b * last, k * last
    below = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=k.device).tril(-1)
    upto = below | torch.eye(CHUNK, dtype=torch.bool, device=k.device)

    sides = [a_start, ((a_start @ k.mT) * below) @ v]
    left = decay * (valid / decay).cumsum(-2) if pull is not None else decay  # E_t
    if pull is not None:
        sides.append(a * F.pad(left[..., :-1, :], (0, 0, 1, 0)))
    solved = torch.linalg.solve_triangular(
        torch.eye(CHUNK, dtype=k.dtype, device=k.device) - (a_start @ b.mT) * below,
        torch.cat(sides, -1),
        upper=False,
        unitriangular=True,
    )
    x, z, x_p = solved.split([size, size, solved.shape[-1] - 2 * size], -1)
    added = v.mT @ k_end
    if pull is not None:
        constant = pull.memory.unsqueeze(2)
        z = z + x_p @ constant.mT
        added = added + constant * left[..., -1:, :]
    carry = torch.diag_embed(last.squeeze(-2)) + x.mT @ b_end
    added = added + z.mT @ b_end
    starts = []
    for i in range(carry.shape[2]):
        starts.append(state)
        state = state @ carry[:, :, i] + added[:, :, i]
    start = torch.stack(starts, 2).mT
    reads_b, reads_k = (r_start @ b.mT) * upto, (r_start @ k.mT) * upto
    y = r_start @ start + reads_b @ (x @ start + z) + reads_k @ v
    if pull is not None:
        y = (y + (r * (left - valid)) @ constant.mT) * (-pull.log_keep).exp()[:, :, None, None, None]
    return y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time], state
