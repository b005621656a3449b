"""The gated delta rule of this package in the mixers of transformers' Gated DeltaNet models.

A mixer calls two functions of its module by name, which `mixers` replaces by one:

    torch_chunk_gated_delta_rule        a text, from its beginning or on from a memory
    torch_recurrent_gated_delta_rule    one token from a memory

The originals know neither rows of different lengths nor an anchor. Here a `ContinuingCache` hands a `CarriedMemory` to
the rule. Keys and queries are normalised and scaled as in the originals; the recurrence runs in fp32, or fp64 in an
fp64 model. Memories are laid out as transformers has them, (B, H, K, V). Calls with a cache of transformers go to the
originals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prosg.backbones.hf.continuing import CarriedMemory
from prosg.backbones.hf.mixers import MixerKernel
from prosg.ops.gated_delta import GATED_DELTA
from prosg.ops.pull import Pull

__all__ = ["GATED_DELTA_RULE"]

NORM_EPS = 1e-6


def _rule(
    original: Callable[..., Any],
    kernel: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    initial_state: CarriedMemory | Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """query, key (B, T, H_k, K), value (B, T, H, V), g, beta (B, T, H) -> y (B, T, H, V), maybe the memory.

    `others` are for packed texts and for selecting among equivalent code paths of the original.
    """
    if isinstance(initial_state, Tensor):
        others |= {"initial_state": initial_state, "output_final_state": output_final_state}
        result: tuple[Tensor, Tensor | None] = original(
            query, key, value, g, beta, use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel, **others
        )
        return result
    memory, lengths, pull = initial_state or CarriedMemory()
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v, g, beta = (x.to(wide) for x in (query, key, value, g, beta))
    if use_qk_l2norm_in_kernel:
        q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + NORM_EPS) for x in (q, k))
    heads = v.shape[2] // k.shape[2]  # a key serves several heads of values
    if heads > 1:
        q, k = (x.repeat_interleave(heads, dim=2) for x in (q, k))
    q = q * q.shape[3] ** -0.5
    if memory is None:
        memory = v.new_zeros(v.shape[0], v.shape[2], k.shape[3], v.shape[3])
    if pull is not None:
        pull = Pull(pull.memory.mT, pull.log_keep)
    rule = GATED_DELTA.select(kernel, q.device, wide)
    y, after = rule(q, k, v, g, beta, memory.to(wide).mT, lengths, pull)
    return y.to(query.dtype), after.mT if output_final_state else None


def _describe(kernel: str, reason: str, device: torch.device, dtype: torch.dtype) -> str:
    """Says what runs the recurrence."""
    if kernel == "transformers":
        return "gated_delta: transformers (chosen)"
    if reason:
        return f"gated_delta: transformers ({reason})"
    return GATED_DELTA.describe(device, dtype) if kernel == "auto" else f"gated_delta: {kernel} (chosen)"


GATED_DELTA_RULE = MixerKernel(
    title="this package's gated delta rule",
    without="which gives no gradients through its state",
    kernels=("auto", "torch", "scan", "transformers"),
    mixer="GatedDeltaNet",
    replacements={"torch_chunk_gated_delta_rule": _rule, "torch_recurrent_gated_delta_rule": _rule},
    describe=_describe,
    continues=True,
)
