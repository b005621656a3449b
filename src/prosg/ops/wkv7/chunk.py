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
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prosg.core.tensors import valid_mask
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
) -> tuple[Float[Tensor, "B T H N"], Float[Tensor, "B H N N"]]:
    """The recurrence in parallel over chunks of time; see `WKV7Kernel`."""
    time = k.shape[1]
    if time == 1:
        # There is nothing to parallelize: the plain step has fewer operations.
        return naive_wkv7(r, w, k, v, a, b, state, lengths)
    if lengths is not None:
        valid = valid_mask(lengths, time).view(*k.shape[:2], 1, 1)
        r, w, k, a, b = (x * valid for x in (r, w, k, a, b))
    r, w, k, v, a, b = (_chunks(x) for x in (r, w, k, v, a, b))
    logs = w.cumsum(-2)
    decay = logs.exp()  # D_t
    a, r = a * (logs - w).exp(), r * decay
    last = decay[..., -1:, :]
    b, k = b / decay, k / decay
    b_end, k_end = b * last, k * last
    below = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=k.device).tril(-1)
    upto = below | torch.eye(CHUNK, dtype=torch.bool, device=k.device)

    removed = torch.linalg.solve_triangular(
        torch.eye(CHUNK, dtype=k.dtype, device=k.device) - (a @ b.mT) * below,
        torch.cat([a, ((a @ k.mT) * below) @ v], -1),
        upper=False,
        unitriangular=True,
    )
    x, z = removed.split([a.shape[-1], v.shape[-1]], -1)
    carry = torch.diag_embed(last.squeeze(-2)) + x.mT @ b_end
    added = z.mT @ b_end + v.mT @ k_end
    starts = []
    for i in range(carry.shape[2]):
        starts.append(state)
        state = state @ carry[:, :, i] + added[:, :, i]
    start = torch.stack(starts, 2).mT
    reads_b, reads_k = (r @ b.mT) * upto, (r @ k.mT) * upto
    y = r @ start + reads_b @ (x @ start + z) + reads_k @ v
    return y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time], state
