"""Time of RWKV-7's recurrence: all kernels, interleaved in one run.

    python benchmarks/wkv7.py [--out FILE] [--batch 4] [--tokens 512] [--heads 12] [--size 64] [--threads 1 2]
        [--repeats 7]

Prints a table per number of threads, medians over the repeats: forward and backward from an empty state; and one token
for a batch of rows without gradients, as in generation. `--out` writes the same as rows. "scan" is the loop over tokens
that a plain PyTorch model would have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from _common import CPU, Recurrence, main
from torch import Tensor

from prosg.ops.wkv7 import WKV7, WKV7Kernel

PEER = "scan"


def systems() -> dict[str, Callable[..., Tensor]]:
    """r, w, k, v, a, b (B, T, H, N), the state -> y."""

    def ours(kernel: WKV7Kernel) -> Callable[..., Tensor]:
        return lambda *inputs: kernel(*inputs, None)[0]

    return {name: ours(kernel) for name, kernel in WKV7.available(CPU, torch.float32).items()}


def inputs(batch: int, tokens: int, heads: int, size: int, *, gradients: bool) -> list[Tensor]:
    r, k, v, direction = torch.randn(4, batch, tokens, heads, size)
    w = -0.6 * torch.rand(batch, tokens, heads, size)
    direction = F.normalize(direction, dim=-1)
    leaves = [r, w, k, v, -direction, direction * torch.rand(batch, tokens, heads, size)]
    return [x.requires_grad_(gradients) for x in leaves] + [torch.zeros(batch, heads, size, size)]


if __name__ == "__main__":
    main(
        Recurrence(
            name="wkv7",
            systems=systems(),
            peer=PEER,
            inputs=inputs,
            sizes={"batch": 4, "tokens": 512, "heads": 12, "size": 64},
            one_token={"batch": 64, "tokens": 1, "heads": 3, "size": 32},
            in_use=WKV7.describe(CPU, torch.float32),
        ),
        __doc__,
    )
