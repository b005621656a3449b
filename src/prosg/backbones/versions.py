"""Recognising what a checkpoint holds: which backbone, or which other version of RWKV, by its tensors' names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["detect", "version_name"]

SIGNS: tuple[tuple[str, str], ...] = (
    ("retnet", r"^blocks\.\d+\.att\.query\.weight$"),
    ("rwkv8", r"\.rosa\w*\."),
    ("rwkv7b", r"\.qkv\.(qq|k_emb|v_emb)\.weight$"),
    ("rwkv7a", r"\.ffn\.s_emb(_x)?\.weight$"),
    ("rwkv7", r"\.(att|attn|attention)\.(r_k|k_k)$"),
    ("rwkv6", r"\.(att|attention|self_attn)\.time_maa_\w+$|\.attn\.x_bias$"),
    ("rwkv5", r"\.(att|attention)\.ln_x\.weight$"),
    ("rwkv4", r"\.(att|attention)\.time_mix_(k|key)$"),
    ("state", r"\.(att|attention)\.time_state$"),
)
"""Kind of checkpoint -> a pattern in its tensors' names. RWKV's newest version is first: versions share older names."""


def detect(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns what a checkpoint holds, from the names in it.

    Args:
        tensors: Its tensors by name.

    Returns:
        "retnet"; "rwkv4" to "rwkv8", with "rwkv5.1", "rwkv5.2", "rwkv7a" and "rwkv7b"; "state" for learned initial
        states; None if unknown.
    """
    for kind, pattern in SIGNS:
        if any(re.search(pattern, name) for name in tensors):
            return _rwkv5_version(tensors) if kind == "rwkv5" else kind
    return None


def _rwkv5_version(tensors: Mapping[str, Tensor]) -> str:
    """RWKV-5.1 added a gate, 5.2 a decay per channel instead of per head."""
    decays = [tensor for name, tensor in tensors.items() if name.endswith(".time_decay")]
    if any(decay.dim() == 2 and decay.shape[1] > 1 for decay in decays):
        return "rwkv5.2"
    return "rwkv5.1" if any(name.endswith(".gate.weight") for name in tensors) else "rwkv5"


def version_name(kind: str) -> str:
    """Returns how a kind of `detect`, or a `model_type`, of RWKV is written: "rwkv5.2" is "RWKV-5.2"."""
    return re.sub(r"^rwkv[-_]?", "RWKV-", kind)
