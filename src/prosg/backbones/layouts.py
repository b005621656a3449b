"""Tables of names: what each native backbone's tensors are called in `.pth` files and in Hugging Face folders.

The names of BlinkDL's `.pth` files are the canonical ones: the native backbones' parameters have them. Everything here
is a table or reads one; a new backbone adds a `Layout`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

__all__ = [
    "FOLDER_LAYOUTS",
    "RETNET_LAYOUT",
    "RWKV4_LAYOUT",
    "RWKV7_LAYOUT",
    "Layout",
    "from_hf",
    "read_sizes",
    "rename",
    "to_hf",
]

Names = tuple[tuple[str, str], ...]
"""Pairs (canonical, Hugging Face); N stands for a block's number, * for the rest of a name. The first match counts."""


NOTHING = re.compile(r"(?!)")
"""Matches no name."""


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
    hf_only: Callable[[Mapping[str, Any], Mapping[str, int]], dict[str, Any]] = lambda config, sizes: {}
    """config.json and what `read_sizes` returns -> the config fields that no tensor's size determines."""
    optional: frozenset[str] = frozenset()
    """Config fields whose tensor may be missing."""
    unused: re.Pattern[str] = NOTHING
    """Tensors of some files that no model uses."""
    transposed: re.Pattern[str] = NOTHING
    """Matrices that are transposed in Hugging Face's layout."""
    flat: re.Pattern[str] = NOTHING
    """Vectors that Hugging Face's layout stores without axes of length 1. Reading ignores such axes."""
    stacks: Mapping[str, tuple[str, ...]] = {}
    """Last part of a tensor's name in some folders -> the tensors that it holds, stacked, in their order."""
    stacked: bool = False
    """Whether folders are written with `stacks`. Reading takes both."""
    zeros: Mapping[str, tuple[str | int, ...]] = {}
    """Tensors of no use that a folder must have, written as zeros -> their shapes, of numbers and config fields."""
    only: Mapping[str, Callable[[Any], object]] = {}
    """Config field -> the one value that the folder's own code computes with, given the config."""


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
    hf_required={
        "model_type": "rwkv7",
        "norm_eps": 1e-5,
        "norm_bias": True,
        "tie_word_embeddings": False,
        "hidden_act": "sqrelu",
        "attn": None,
    },
    # Other code uses head_dim * norm_eps, which equals BlinkDL's 64e-5 for heads of 64 only. A config.json may leave
    # out head_dim, which follows from num_heads, too.
    hf_only=lambda config, sizes: {"ln_x_eps": config.get("ln_x_eps", 1e-5 * sizes["head_size"])},
    optional=frozenset({"value_rank"}),  # a single layer has no v1
    unused=re.compile(r"blocks\.0\.att\.v[012]$"),
    transposed=re.compile(r"\.att\.[wavg][12]$"),
    flat=re.compile(r"\.att\.([wav]0|k_k|k_a)$|\.ffn\.x_k$"),
    stacks={"x_x": ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")},
)
RWKV7_TRANSFORMERS_LAYOUT = RWKV7_LAYOUT._replace(
    names=(("head.*", "head.*"), ("*", "rwkv7.*")),
    hf_config={**RWKV7_LAYOUT.hf_config, "architectures": ["Rwkv7ForCausalLM"]},
    transposed=NOTHING,
    flat=NOTHING,
    stacks={},
    zeros={
        "blocks.0.att.v0": (1, 1, "attention_size"),
        "blocks.0.att.v1": ("hidden_size", "value_rank"),
        "blocks.0.att.v2": ("value_rank", "attention_size"),
    },
    only={"attention_size": lambda c: c.hidden_size, "ln_x_eps": lambda c: 1e-5 * c.head_size},
)
"""The RWKV organisation's port to transformers: BlinkDL's names, shapes and orientation under a prefix."""

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

FOLDER_LAYOUTS: dict[str, dict[str, Layout]] = {
    "rwkv4": {"transformers": RWKV4_LAYOUT},
    "rwkv7": {
        "fla": RWKV7_LAYOUT,
        "fla-stacked": RWKV7_LAYOUT._replace(stacked=True),
        "transformers": RWKV7_TRANSFORMERS_LAYOUT,
    },
    "retnet": {"prosg": RETNET_LAYOUT},
}
"""Native backbone -> the layouts of its folders by name; the first is what is written unless another is asked for."""


def to_hf(name: str, names: Names) -> str | None:
    """Returns the Hugging Face name of a canonical name; None for an unknown one."""
    return rename(name, names)


def from_hf(name: str, names: Names) -> str | None:
    """Returns the canonical name of a Hugging Face name; None for an unknown one."""
    return rename(name, tuple((hf, native) for native, hf in names))


def rename(name: str, names: Names) -> str | None:
    """Returns what a table of names makes of a name; None for one that it does not have."""
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
