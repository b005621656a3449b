"""Attention in a sliding window: the weights of a Llama-like model, read as a model of bounded memory.

A token attends to the last N tokens, itself among them, so that a row keeps N - 1 keys and values per layer, however
long its text is. No weight changes. Llama has no such option; Mistral is the same model with one.
"""

from __future__ import annotations

from typing import Any

from prosg.utils.values import check_whole

__all__ = ["WINDOWED", "attention_window", "windowed_config"]

WINDOWED = ("llama", "mistral", "qwen2", "qwen3")
"""Types that can be read with a window."""
LEAST = 2
"""Tokens of a window; with one there would be nothing to keep."""


def windowed_config(config: Any, window: int) -> Any:
    """Returns the configuration that reads a model's weights with a window in every layer.

    Args:
        config: The model's own, of transformers.
        window: Tokens that each token attends to, itself among them.

    Raises:
        ValueError: for a type that cannot be read so, and for a window of fewer than two tokens.
    """
    model_type = config.model_type
    if check_whole("sliding_window", window) < LEAST:
        raise ValueError(f"sliding_window is {window}, must be at least {LEAST} tokens, or 0 for the model's own")
    if model_type not in WINDOWED:
        own = _own_windows(config)
        raise ValueError(
            f"sliding_window is {window}, but a {model_type} cannot be read with one{f' ({own})' if own else ''}; "
            f"allowed for {', '.join(WINDOWED)}"
        )
    values = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    if model_type == "llama":
        return _as_mistral(values, window)
    if model_type == "mistral":
        return type(config)(**{**values, "sliding_window": window})
    layers = ["sliding_attention"] * config.num_hidden_layers
    return type(config)(**{**values, "use_sliding_window": True, "sliding_window": window, "layer_types": layers})


def _as_mistral(values: dict[str, Any], window: int) -> Any:
    """A Llama's configuration as Mistral's. Raises ValueError for biases, which Mistral does not have."""
    from transformers import MistralConfig

    for name in ("attention_bias", "mlp_bias"):
        if values.pop(name, False):
            raise ValueError(f"sliding_window is {window}, but this llama has {name}, which no model with a window has")
    values.pop("pretraining_tp", None)  # another order of the same sums
    return MistralConfig(**{**values, "architectures": ["MistralForCausalLM"], "sliding_window": window})


def attention_window(config: Any) -> int:
    """Returns the tokens that every attention layer sees at most; 0 where one sees the whole text."""
    layers = getattr(config, "layer_types", None)
    attending = {kind for kind in layers or () if kind.endswith("attention") and kind != "linear_attention"}
    window = getattr(config, "sliding_window", None) or 0
    if layers is None:
        return window if getattr(config, "use_sliding_window", True) else 0
    return window if attending == {"sliding_attention"} else 0


def _own_windows(config: Any) -> str:
    """Says which layers of a model see a window by themselves; "" where none does or all do."""
    layers = getattr(config, "layer_types", None) or ()
    sliding = sum(kind == "sliding_attention" for kind in layers)
    if not 0 < sliding < len(layers):
        return ""
    return f"{sliding} of its {len(layers)} layers see {config.sliding_window} tokens, the others the whole text"
