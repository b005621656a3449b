"""Name tables: how each backbone's tensors are called in BlinkDL's `.pth` files and in Hugging Face folders.

BlinkDL's names are the canonical ones: they are the parameter names of the native backbones. Everything here is a
table or reads one; a new backbone adds a `Layout`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

__all__ = ["RWKV4_LAYOUT", "Layout", "detect", "from_hf", "read_sizes", "to_hf"]

Names = tuple[tuple[str, str], ...]
"""(BlinkDL, Hugging Face) pairs; N stands for a block's number, * for the rest of the name. The first match counts."""


class Layout(NamedTuple):
    """All that a checkpoint reader and writer has to know about a backbone."""

    names: Names
    sizes: Mapping[str, tuple[str, int]]
    """Config field -> (tensor, dimension) that it is read from. `num_layers` is counted."""
    keep_wide: re.Pattern[str]
    """Tensors that are never narrowed: tiny, and used in fp32 whatever the type of the others."""
    hf_sizes: Mapping[str, str]
    """Field of config.json -> config field."""
    hf_config: Mapping[str, object]
    """What else is written to config.json."""
    hf_required: Mapping[str, object]
    """Fields of config.json that must have this value where they are given: the backbone knows no other."""


RWKV4_LAYOUT = Layout(
    names=(
        ("emb.*", "rwkv.embeddings.*"),
        ("blocks.N.ln0.*", "rwkv.blocks.N.pre_ln.*"),
        ("blocks.N.att.time_mix_k", "rwkv.blocks.N.attention.time_mix_key"),
        ("blocks.N.att.time_mix_v", "rwkv.blocks.N.attention.time_mix_value"),
        ("blocks.N.att.time_mix_r", "rwkv.blocks.N.attention.time_mix_receptance"),
        ("blocks.N.att.*", "rwkv.blocks.N.attention.*"),
        ("blocks.N.ffn.time_mix_k", "rwkv.blocks.N.feed_forward.time_mix_key"),
        ("blocks.N.ffn.time_mix_r", "rwkv.blocks.N.feed_forward.time_mix_receptance"),
        ("blocks.N.ffn.*", "rwkv.blocks.N.feed_forward.*"),
        ("blocks.N.*", "rwkv.blocks.N.*"),
        ("ln_out.*", "rwkv.ln_out.*"),
        ("head.*", "head.*"),
    ),
    sizes={
        "vocab_size": ("emb.weight", 0),
        "hidden_size": ("emb.weight", 1),
        "attention_size": ("blocks.0.att.key.weight", 0),
        "ffn_size": ("blocks.0.ffn.key.weight", 0),
    },
    keep_wide=re.compile(r"\.time_(decay|first)$"),
    hf_sizes={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_hidden_layers": "num_layers",
        "attention_hidden_size": "attention_size",
        "intermediate_size": "ffn_size",
    },
    hf_config={
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "layer_norm_epsilon": 1e-5,
        # The default halves weights in place at the first evaluation, and saves them so afterwards.
        "rescale_every": 0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    hf_required={"model_type": "rwkv", "layer_norm_epsilon": 1e-5},
)

SIGNS: tuple[tuple[str, str], ...] = (
    ("rwkv7", r"\.(att|attn|attention)\.(r_k|k_k)$"),
    ("rwkv6", r"\.(att|attention)\.time_maa_\w+$"),
    ("rwkv5", r"\.(att|attention)\.ln_x\.weight$"),
    ("rwkv4", r"\.(att|attention)\.time_mix_(k|key)$"),
    ("state", r"\.(att|attention)\.time_state$"),
)
"""What tells the versions apart, newest first: later versions kept some of the earlier ones' names."""


def detect(tensors: Mapping[str, Tensor]) -> str | None:
    """The version that a checkpoint is of, by its tensors' names: "rwkv4" to "rwkv7" with "rwkv5.1" and "rwkv5.2".

    "state" for a file of learned initial states; None where nothing of RWKV is found.
    """
    for version, sign in SIGNS:
        if any(re.search(sign, name) for name in tensors):
            return _minor(tensors) if version == "rwkv5" else version
    return None


def _minor(tensors: Mapping[str, Tensor]) -> str:
    """RWKV-5.1 added a gate, 5.2 a decay per channel instead of per head."""
    decays = [tensor for name, tensor in tensors.items() if name.endswith(".time_decay")]
    if any(decay.dim() == 2 and decay.shape[1] > 1 for decay in decays):
        return "rwkv5.2"
    return "rwkv5.1" if any(name.endswith(".gate.weight") for name in tensors) else "rwkv5"


def to_hf(name: str, names: Names) -> str | None:
    """A BlinkDL name as Hugging Face calls it; None for an unknown one."""
    return _rename(name, names)


def from_hf(name: str, names: Names) -> str | None:
    """A Hugging Face name as BlinkDL calls it; None for an unknown one."""
    return _rename(name, tuple((hf, native) for native, hf in names))


def _rename(name: str, names: Names) -> str | None:
    for source, target in names:
        pattern = re.escape(source).replace("N", r"(\d+)").replace(r"\*", "(.+)")
        if match := re.fullmatch(pattern, name):
            parts = iter(match.groups())
            return re.sub(r"[N*]", lambda _, parts=parts: next(parts), target)  # type: ignore[misc]
    return None


def read_sizes(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, int]:
    """The backbone's sizes, as its config's arguments. Raises KeyError or IndexError for what is not there."""
    blocks = {match[1] for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    sizes = {field: tensors[name].shape[dim] for field, (name, dim) in layout.sizes.items()}
    return sizes | {"num_layers": len(blocks)}
