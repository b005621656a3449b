"""What a model is, and the memory that generating and training take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from prosg.backbones import BackboneModule
from prosg.backbones.native import NativeBackbone
from prosg.backbones.quantised import is_quantised
from prosg.checkpoints.fingerprints import backbone_fingerprint, model_fingerprint
from prosg.inspection.prompt_memory import describe_prompt, growth_text
from prosg.model.anchor import StateAnchor
from prosg.model.config import PRESETS, ProSGConfig
from prosg.model.memory import ADAMW_BYTES, activation_bytes
from prosg.model.prosg import ProSG
from prosg.model.synthesizer import Synthesizer
from prosg.utils.tables import bytes_text

__all__ = ["describe"]

BATCH, TOKENS = 8, 512
"""The batch for which memory for training is stated: rows, and tokens of prompt and answer."""


def describe(model: ProSG) -> Iterator[tuple[str, str]]:
    """Yields (name, value) pairs: sizes, sites, kernels, fingerprint, and memory for each way to use the model."""
    backbone = model.backbone
    total = _count(backbone)
    yield "type", backbone.config.model_type
    for name, value in _sizes(backbone).items():
        yield name, str(value)
    yield "parameters", f"{total:,} ({next(backbone.parameters()).dtype})"
    yield "fingerprint", model_fingerprint(model)
    if model.synthesizer is not None:
        yield "backbone's fingerprint", backbone_fingerprint(backbone)
    yield "sites", f"{len(backbone.sites)}: " + ", ".join(dict.fromkeys(site.name for site in backbone.sites))
    for name, (out, inp) in {site.name: shape for site, shape in backbone.sites.items()}.items():
        yield f"  {name}", f"{inp} -> {out}"
    yield "kernel", backbone.kernel_in_use
    yield "tokenizer", f"{model.tokenizer.vocab_size} tokens" if model.tokenizer else "none"
    yield "special tokens", _special_text(model)
    reason = model.own_template.reason(model.tokenizer)
    yield "chat template", f"{model.template.name}, {reason}" if reason else model.template.name
    update = ""
    if isinstance(model.synthesizer, Synthesizer):
        config, size = model.synthesizer.config, _count(model.synthesizer)
        yield "module", f"{config.preset}, {size:,} parameters ({size / total:.1%})"
        for key, value in config.to_dict().items():
            if key != "preset":
                yield f"  {key}", str(value)
        known = model.synthesizer.familiarity
        yield "  knows", "every prompt" if known is None else "prompts like those of its training; no update of others"
        factors = sum(4 * config.rank * (out + inp) for out, inp in model.synthesizer.sites.values())
        update = f" and {bytes_text(factors)} of update"

    yield "anchor", _anchor_text(model)
    weights = _bytes(backbone.parameters())
    state = _bytes(leaf for layer in backbone.init_state(1) for leaf in layer)
    row = f"{bytes_text(state)} of state{growth_text(backbone)}{update}"
    yield "generating", f"{bytes_text(weights)} of weights, and per row {row}"
    yield from describe_prompt(model)
    if not is_quantised(backbone):
        yield from _describe_training(backbone, total)


def _describe_training(backbone: BackboneModule, total: int) -> Iterator[tuple[str, str]]:
    """Yields the memory that each way of training a backbone of `total` parameters takes."""
    yield f"training, {BATCH} x {TOKENS} tokens", "fp32 with AdamW"
    yield "  finetune", _training_memory(ADAMW_BYTES * total, activation_bytes(backbone, frozen=False))
    frozen = activation_bytes(backbone, frozen=True)
    for name, preset in PRESETS.items():
        yield f"  preset {name}", _preset_memory(preset, backbone, total, frozen)


def _special_text(model: ProSG) -> str:
    """Says which tokens end an answer, and what stands before a prompt."""
    end, begin = model.special

    def named(token: int) -> str:
        return str(token) if model.tokenizer is None else f"{token} {model.tokenizer.decode([token])!r}"

    before = "nothing" if begin is None else named(begin)
    return f"{', '.join(map(named, end))} ends an answer; {before} stands before a prompt"


def _anchor_text(model: ProSG) -> str:
    """Says which window and age an anchor has here, or why there can be none."""
    try:
        anchor = model.anchor or StateAnchor(model.backbone)
    except ValueError as error:
        return f"none: {error}"
    if not any(model.backbone.anchor_units):
        return "the prompt's keys and values stay beside the window of attention (--memory anchor)"
    windows = torch.cat([log_tau.detach().exp() for log_tau in anchor.log_tau])
    low, high = windows.min().item(), windows.max().item()
    window = f"window {low:.4g}" if low == high else f"windows {low:.4g} to {high:.4g}"
    whose = "this type's default" if model.anchor is None else "the model's own"
    return f"{window} tokens, the prompt's memory aged by {anchor.age:g} ({whose}; --memory anchor, --tau)"


def _sizes(backbone: BackboneModule) -> dict[str, Any]:
    """Returns a native backbone's configuration, or what differs from transformers' default for the type."""
    if isinstance(backbone, NativeBackbone):
        config: Any = backbone.config
        return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    shown_elsewhere = ("model_type", "transformers_version", "architectures", "dtype")
    changed = [name for name in backbone.config.to_diff_dict() if name not in shown_elsewhere]
    names = dict.fromkeys(("vocab_size", "hidden_size", "num_hidden_layers", *changed))
    numbers = [name.rpartition(".")[2] for name in backbone.layer_names]
    layers = {"layers with sites": ", ".join(numbers)} if len(numbers) < backbone.config.num_hidden_layers else {}
    return {name: getattr(backbone.config, name) for name in names} | layers


def _preset_memory(preset: ProSGConfig, backbone: BackboneModule, total: int, activations: float) -> str:
    """Says how large a preset's module is for this backbone and what training it takes, or why there is none."""
    try:
        with torch.device("meta"):
            module = Synthesizer(preset, backbone.sites, backbone.tap_widths, backbone_size=total)
    except ValueError as error:
        return f"not for this backbone: {error}"
    size = _count(module)
    memory = _training_memory(4 * total + ADAMW_BYTES * size, activations)
    return f"{size:,} trainable parameters ({size / total:.1%}), {memory}"


def _training_memory(weights: int, activations_per_token: float) -> str:
    activations = activations_per_token * BATCH * TOKENS
    parts = f"{bytes_text(weights)} and {bytes_text(activations)} of activations"
    return f"about {bytes_text(weights + activations)}: {parts}"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
