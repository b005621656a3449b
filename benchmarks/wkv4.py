"""Time of RWKV-4's recurrence: all kernels and transformers' loop over tokens, interleaved in one run.

    python benchmarks/wkv4.py [--out FILE] [--batch 4] [--tokens 256] [--channels 768] [--threads 1 2] [--repeats 7]

Prints a table per number of threads, medians over the repeats: forward and backward from an empty memory, from
time_decay on; and one token for a batch of rows without gradients, as in generation. `--out` writes the same as rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _common import CPU, Recurrence, main
from torch import Tensor
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

from prosg.ops.wkv4 import EMPTY_TOP, WKV4, WKV4Kernel, WKV4Memory

PEER = "transformers"


def systems() -> dict[str, Callable[..., Tensor]]:
    """time_decay, u (C,), k, v (B, T, C), the memory's tensors -> y."""

    def ours(kernel: WKV4Kernel) -> Callable[..., Tensor]:
        return lambda time_decay, u, k, v, *memory: kernel(-time_decay.exp(), u, k, v, WKV4Memory(*memory), None)[0]

    def peer(time_decay: Tensor, u: Tensor, k: Tensor, v: Tensor, *memory: Tensor) -> Tensor:
        return rwkv_linear_attention_cpu(time_decay, u, k, v, state=memory, return_state=True)[0]

    return {PEER: peer} | {name: ours(kernel) for name, kernel in WKV4.available(CPU, torch.float32).items()}


def inputs(batch: int, tokens: int, channels: int, *, gradients: bool) -> list[Tensor]:
    shapes = [(channels,), (channels,), (batch, tokens, channels), (batch, tokens, channels)]
    zeros = torch.zeros(batch, channels)
    memory = [zeros, zeros, zeros + EMPTY_TOP]
    return [torch.randn(shape).requires_grad_(gradients) for shape in shapes] + memory


if __name__ == "__main__":
    main(
        Recurrence(
            name="wkv4",
            systems=systems(),
            peer=PEER,
            inputs=inputs,
            sizes={"batch": 4, "tokens": 256, "channels": 768},
            one_token={"batch": 64, "tokens": 1, "channels": 96},
            in_use=WKV4.describe(CPU, torch.float32),
        ),
        __doc__,
    )
