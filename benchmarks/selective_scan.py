"""Time of Mamba's selective scan: all kernels and transformers' own, interleaved in one run.

    python benchmarks/selective_scan.py [--out FILE] [--batch 8] [--tokens 128] [--channels 192] [--size 16]
        [--threads 1 2] [--repeats 7]

Prints a table per number of threads, medians over the repeats: forward and backward from an empty state; and one token
for a batch of rows without gradients, as in generation. `--out` writes the same as rows. "transformers" is what its
Mamba runs where no kernel is installed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _common import CPU, Recurrence, main
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan, mamba_selective_state_update

from prosg.ops.selective_scan import SELECTIVE_SCAN, SelectiveScanKernel

PEER = "transformers"


def transformers_own(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> Tensor:
    if x.shape[1] == 1:
        y: Tensor = mamba_selective_state_update(state, x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0])
        return y.unsqueeze(1)
    y = mamba_selective_scan(x.mT, dt.mT, A, B.mT, C.mT)
    return y.mT


def systems() -> dict[str, Callable[..., Tensor]]:
    """x, dt (B, T, D), A (D, N), B, C (B, T, N), the state -> y."""

    def ours(kernel: SelectiveScanKernel) -> Callable[..., Tensor]:
        return lambda *inputs: kernel(*inputs)[0]

    kernels = SELECTIVE_SCAN.available(CPU, torch.float32)
    return {name: ours(kernel) for name, kernel in kernels.items()} | {PEER: transformers_own}


def inputs(batch: int, tokens: int, channels: int, size: int, *, gradients: bool) -> list[Tensor]:
    x, B, C = torch.randn(batch, tokens, channels), *torch.randn(2, batch, tokens, size)
    dt, A = 0.1 * torch.rand(batch, tokens, channels), -torch.arange(1.0, size + 1).repeat(channels, 1)
    return [z.requires_grad_(gradients) for z in (x, dt, A, B, C)] + [torch.zeros(batch, channels, size)]


if __name__ == "__main__":
    main(
        Recurrence(
            name="selective scan",
            systems=systems(),
            peer=PEER,
            inputs=inputs,
            sizes={"batch": 8, "tokens": 128, "channels": 192, "size": 16},
            one_token={"batch": 64, "tokens": 1, "channels": 192, "size": 16},
            in_use=SELECTIVE_SCAN.describe(CPU, torch.float32),
        ),
        __doc__,
    )
