"""Retention (RetNet, arXiv 2307.08621, section 2.1): three forms of one operation behind one signature.

    recurrent   the oracle, step by step (eq. 1, 6)
    parallel    a matrix of scores over all steps, as attention (eq. 5)
    chunked     parallel within chunks of time, recurrent over them (eq. 7)
    auto        chunked

Symbols, per head; K and V are the widths of keys and values, steps are counted from 1:

    q_n, k_n, v_n   query, key (K,) and value (V,) of step n
    gamma           what is kept per step; `decay` is its logarithm, at most 0
    theta           how far a pair of key channels, 2 j and 2 j + 1, turns per step (`angles`); the same in every head
    e^ix z          z (K,) with its pairs turned by x: a pair is read as a complex number
    S               memory (V, K), rows for values and columns for keys: the paper's, transposed, as in `wkv7_scan`

    S_n = gamma e^{-i theta} S_{n-1} + v_n k_n^T;       y_n = S_n q_n                                   (eq. 1, 6)
        = e^{-i n theta} (gamma^n S_0 + sum_{m <= n} gamma^(n-m) v_m (e^{i m theta} k_m)^T)             (eq. 3, 4)

The first line needs no step's number: a call may end anywhere and the next one count from 1 again, with S alone. The
second is the same with queries and keys turned by their place in the call; it is what the other two forms compute.
(The paper's recurrence eq. 6 leaves the turn to the keys, which then need their place in the whole text.)

Every one takes q, k (B, T, H, K), v (B, T, H, V), decay (H,), the memory (B, H, V, K) and `lengths` (B,) or None, and
returns y (B, T, H, V) and the memory after the last valid step. Steps at and beyond `lengths` change nothing (no decay,
no turn, nothing written), return 0 and get no gradient. Differentiated by autograd; decay is a constant.

Of the paper's normalisations of the scores none is here. 1 / sqrt(K) belongs to the caller, who scales the keys. The
other two divide by row sums of the decays and of the scores, for the range of fp16, and cancel in the group norm that
follows; they depend on the step's number or on other steps' scores, which a carried memory does not have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

__all__ = ["KERNELS", "Kernel", "describe", "elapse", "kernel"]

CHUNK = 64


def angles(width: int, device: torch.device) -> Tensor:
    """theta (K / 2,), fp64: from one radian per step to a ten-thousandth, spaced as the authors do."""
    return 10000.0 ** -torch.linspace(0, 1, width // 2, dtype=torch.float64, device=device)


def _times(x: Tensor, size: Tensor, turn: Tensor) -> Tensor:
    """x (..., K) times size e^{i turn}, both broadcast to its pairs (..., K / 2)."""
    # Angles are fp64: after some thousand radians an fp32 one has lost what its sine needs.
    factor = torch.polar(*torch.broadcast_tensors(size.double(), turn)).to(x.dtype.to_complex())
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * factor).flatten(-2)


def elapse(
    memory: Float[Tensor, "B H V K"], decay: Float[Tensor, " H"], steps: Shaped[Tensor, " N"]
) -> Float[Tensor, "B H V K"]:
    """gamma^steps e^{-i steps theta} S: after `steps` (B,) or (1,), whole or not, in which nothing was written."""
    steps = steps.double().view(-1, 1, 1, 1)
    kept = torch.exp(steps * decay.double().view(-1, 1, 1))
    return _times(memory, kept, -steps * angles(memory.shape[3], memory.device))


def recurrent(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    decay: Float[Tensor, " H"],
    memory: Float[Tensor, "B H V K"],
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """The oracle: one step after the other (eq. 1, 6)."""
    one = torch.ones(1, device=q.device)
    outputs = []
    for t in range(q.shape[1]):
        step = torch.addcmul(elapse(memory, decay, one), v[:, t].unsqueeze(3), k[:, t].unsqueeze(2))
        y = (q[:, t].unsqueeze(2) @ step.mT).squeeze(2)
        if lengths is None:
            memory = step
        else:
            valid = (t < lengths).view(-1, 1, 1)
            y = torch.where(valid, y, 0)
            memory = torch.where(valid.unsqueeze(3), step, memory)
        outputs.append(y)
    return torch.stack(outputs, 1), memory


def parallel(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    decay: Float[Tensor, " H"],
    memory: Float[Tensor, "B H V K"],
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """All steps at once (eq. 5): a single chunk. Its work grows with the square of T."""
    return _in_chunks(q, k, v, decay, memory, lengths, 1)


def chunked(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    decay: Float[Tensor, " H"],
    memory: Float[Tensor, "B H V K"],
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """Chunks of at most 64 steps (eq. 7): its work grows with T."""
    time = q.shape[1]
    if time == 1:
        # Nothing to be parallel over: the plain step has fewer operations.
        return recurrent(q, k, v, decay, memory, lengths)
    return _in_chunks(q, k, v, decay, memory, lengths, -(-time // CHUNK))


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, memory: Tensor, lengths: Tensor | None, n: int
) -> tuple[Tensor, Tensor]:
    """n chunks of c steps. Queries and keys are turned by their place in the call, so that between chunks the memory
    has only to decay; at the end it is turned back by the call's length.
    """
    time, device, dtype = q.shape[1], q.device, q.dtype
    c = -(-time // n)
    still, place = torch.ones((), dtype=torch.float64, device=device), _count(time, device).view(-1, 1, 1)
    turn = place * angles(q.shape[3], device)
    q, k = _times(q, still, turn), _times(k, still, turn)

    def cut(x: Tensor) -> Tensor:
        """(B, T, H, .) -> (B, H, n, c, .); steps that the last chunk lacks are 0."""
        pieces: Tensor = F.pad(x, (0, 0, 0, 0, 0, n * c - time)).unflatten(1, (n, c))
        return pieces.permute(0, 3, 1, 2, 4)

    q, k, v = cut(q), cut(k), cut(v)
    total = torch.full((1,), time, device=device) if lengths is None else lengths
    log, place = decay.double().view(-1, 1, 1, 1), _count(c, device).unsqueeze(1)
    steps = (total.view(-1, 1, 1, 1, 1) - c * torch.arange(n, device=device).view(-1, 1, 1)).clamp(0, c)
    left = steps - place  # (B or 1, 1, n, c, 1): valid steps of the chunk after this one
    since = torch.exp(log * place).to(dtype)
    between = torch.exp(log * (place - place.mT).clamp(min=0)).tril().to(dtype)  # D of eq. 5
    until = (torch.exp(log * left.clamp(min=0)) * (left >= 0)).to(dtype)
    kept = torch.exp(log * steps).to(dtype)

    written = v.mT @ (k * until)
    starts = []
    for i in range(n):
        starts.append(memory)
        memory = kept[:, :, i] * memory + written[:, :, i]
    y = ((q @ k.mT) * between) @ v + (q * since) @ torch.stack(starts, 2).mT
    y = y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time]
    if lengths is not None:
        y = torch.where((_count(time, device) <= lengths.unsqueeze(1)).view(*y.shape[:2], 1, 1), y, 0)
    return y, elapse(memory, torch.zeros_like(decay), total)


def _count(steps: int, device: torch.device) -> Tensor:
    """1, 2, ..., steps; fp64."""
    return torch.arange(1, steps + 1, dtype=torch.float64, device=device)


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
KERNELS: dict[str, Kernel] = {"recurrent": recurrent, "parallel": parallel, "chunked": chunked}


def kernel(name: str, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The form called `name`, "auto" for chunked; each serves any device and type. Raises ValueError if unknown."""
    if name == "auto":
        name = "chunked"
    if name not in KERNELS:
        raise ValueError(f"unknown retention kernel {name!r}; known are auto, {', '.join(KERNELS)}")
    return KERNELS[name]


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """What "auto" picks, in one line."""
    return "retention: chunked"
