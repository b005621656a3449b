"""Tables of names: what each native backbone's tensors are called in `.pth` files and in Hugging Face folders.

The names of BlinkDL's `.pth` files are the canonical ones: the native backbones' parameters have them. Everything here
is a table or reads one; a new backbone adds a `Layout`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["RETNET_LAYOUT", "RWKV4_LAYOUT", "RWKV7_LAYOUT", "Layout", "detect", "from_hf", "read_sizes", "to_hf"]

Names = tuple[tuple[str, str], ...]
"""Pairs (canonical, Hugging Face); N stands for a block's number, * for the rest of a name. The first match counts."""


class Layout(NamedTuple):
    """How a backbone's tensors and sizes are stored in files."""

    names: Names
    sizes: Mapping[str, tuple[str, int]]
    """Config field -> (tensor, dimension) whose size it is. `num_layers` is counted."""
    keep_wide: re.Pattern[str]
    """Tensors that are never narrowed: they are tiny, and computed with in fp32."""
    hf_sizes: Mapping[str, str]
    """Field of config.json -> config field or property."""
    hf_config: Mapping[str, object]
    """Other fields written to config.json."""
    hf_required: Mapping[str, object]
    """Fields of config.json that must have this value if present: the backbone supports no other."""
    hf_only: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda config: {}
    """config.json -> the config fields that no tensor's size determines."""
    optional: frozenset[str] = frozenset()
    """Config fields whose tensor may be missing."""
    unused: re.Pattern[str] = re.compile(r"(?!)")
    """Tensors of some files that no model uses."""
    transposed: re.Pattern[str] = re.compile(r"(?!)")
    """Matrices that are transposed in Hugging Face's layout."""
    flat: re.Pattern[str] = re.compile(r"(?!)")
    """Vectors that Hugging Face's layout stores without axes of length 1. Reading ignores such axes."""


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
        # With the default, transformers halves weights in place at the first evaluation, and saves them so afterwards.
        "rescale_every": 0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    hf_required={"model_type": "rwkv", "layer_norm_epsilon": 1e-5},
)

RWKV7_LAYOUT = Layout(
    names=(
        ("emb.*", "model.embeddings.*"),
        ("blocks.N.ln0.*", "model.layers.N.pre_norm.*"),
        ("blocks.N.ln1.*", "model.layers.N.attn_norm.*"),
        ("blocks.N.ln2.*", "model.layers.N.ffn_norm.*"),
        ("blocks.N.att.receptance.*", "model.layers.N.attn.r_proj.*"),
        ("blocks.N.att.key.*", "model.layers.N.attn.k_proj.*"),
        ("blocks.N.att.value.*", "model.layers.N.attn.v_proj.*"),
        ("blocks.N.att.output.*", "model.layers.N.attn.o_proj.*"),
        ("blocks.N.att.ln_x.*", "model.layers.N.attn.g_norm.*"),
        *(
            (f"blocks.N.att.{letter}{number}", f"model.layers.N.attn.{letter}_lora.lora.{part}")
            for letter in "wavg"
            for number, part in enumerate(("2.bias", "0.weight", "2.weight"))
        ),
        ("blocks.N.att.*", "model.layers.N.attn.*"),
        ("blocks.N.ffn.*", "model.layers.N.ffn.*"),
        ("ln_out.*", "model.norm.*"),
        ("head.*", "lm_head.*"),
    ),
    sizes={
        "vocab_size": ("emb.weight", 0),
        "hidden_size": ("emb.weight", 1),
        "attention_size": ("blocks.0.att.key.weight", 0),
        "ffn_size": ("blocks.0.ffn.key.weight", 0),
        "head_size": ("blocks.0.att.r_k", 1),
        "decay_rank": ("blocks.0.att.w1", 1),
        "rate_rank": ("blocks.0.att.a1", 1),
        "value_rank": ("blocks.1.att.v1", 1),
        "gate_rank": ("blocks.0.att.g1", 1),
    },
    keep_wide=re.compile(r"\.att\.w0$"),
    hf_sizes={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_hidden_layers": "num_layers",
        "attention_hidden_size": "attention_size",
        "intermediate_size": "ffn_size",
        "head_dim": "head_size",
        "num_heads": "num_heads",
        "decay_low_rank_dim": "decay_rank",
        "a_low_rank_dim": "rate_rank",
        "v_low_rank_dim": "value_rank",
        "gate_low_rank_dim": "gate_rank",
        "ln_x_eps": "ln_x_eps",
    },
    hf_config={
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "norm_eps": 1e-5,
        "norm_bias": True,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    hf_required={"model_type": "rwkv7", "norm_eps": 1e-5, "norm_bias": True, "tie_word_embeddings": False},
    # Other code uses head_dim * norm_eps, which equals BlinkDL's 64e-5 for heads of 64 only.
    hf_only=lambda config: {"ln_x_eps": config.get("ln_x_eps", 1e-5 * config.get("head_dim", 64))},
    optional=frozenset({"value_rank"}),  # a single layer has no v1
    unused=re.compile(r"blocks\.0\.att\.v[012]$"),
    transposed=re.compile(r"\.att\.[wavg][12]$"),
    flat=re.compile(r"\.att\.([wav]0|k_k|k_a)$|\.ffn\.x_k$"),
)

RETNET_LAYOUT = Layout(
    # There are no published weights: both kinds of files have this package's names.
    names=(("*", "*"),),
    sizes={
        "vocab_size": ("emb.weight", 0),
        "hidden_size": ("emb.weight", 1),
        "num_heads": ("blocks.0.att.decay", 0),
        "value_size": ("blocks.0.att.value.weight", 0),
        "ffn_size": ("blocks.0.ffn.up.weight", 0),
    },
    keep_wide=re.compile(r"\.att\.decay$"),
    hf_sizes={
        name: name for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "value_size", "ffn_size")
    },
    hf_config={"model_type": "retnet", "layer_norm_epsilon": 1e-5, "group_norm_epsilon": 1e-5},
    hf_required={"model_type": "retnet", "layer_norm_epsilon": 1e-5, "group_norm_epsilon": 1e-5},
)

SIGNS: tuple[tuple[str, str], ...] = (
    ("retnet", r"^blocks\.\d+\.att\.query\.weight$"),
    ("rwkv7", r"\.(att|attn|attention)\.(r_k|k_k)$"),
    ("rwkv6", r"\.(att|attention)\.time_maa_\w+$"),
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
        "retnet"; "rwkv4" to "rwkv7", with "rwkv5.1" and "rwkv5.2"; "state" for learned initial states; None if unknown.
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


def to_hf(name: str, names: Names) -> str | None:
    """Returns the Hugging Face name of a canonical name; None for an unknown one."""
    return _rename(name, names)


def from_hf(name: str, names: Names) -> str | None:
    """Returns the canonical name of a Hugging Face name; None for an unknown one."""
    return _rename(name, tuple((hf, native) for native, hf in names))


def _rename(name: str, names: Names) -> str | None:
    for source, target in names:
        pattern = re.escape(source).replace("N", r"(\d+)").replace(r"\*", "(.+)")
        if match := re.fullmatch(pattern, name):
            parts = iter(match.groups())
            return re.sub(r"[N*]", lambda _, parts=parts: next(parts), target)  # type: ignore[misc]
    return None


def read_sizes(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, int]:
    """Returns the arguments of a backbone's config that its tensors determine.

    Args:
        tensors: The checkpoint, by canonical names.
        layout: The backbone's.

    Raises:
        KeyError: where a tensor is missing.
        IndexError: where one has too few dimensions.
    """
    blocks = {match[1] for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    sizes = {
        field: tensors[name].shape[dim]
        for field, (name, dim) in layout.sizes.items()
        if name in tensors or field not in layout.optional
    }
    return sizes | {"num_layers": len(blocks)}
