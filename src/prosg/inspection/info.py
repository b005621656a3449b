"""What a model is and needs: `prosg info`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from prosg.backbones.native import Native
from prosg.checkpoints.fingerprints import fingerprint
from prosg.model.config import PRESETS, ProSGConfig
from prosg.model.memory import ADAMW, activation_bytes
from prosg.model.prosg import ProSG
from prosg.model.synthesizer import Synthesizer
from prosg.utils.tables import bytes_text

__all__ = ["describe"]

BATCH, TOKENS = 8, 512
"""The batch that memory for training is told for: rows, and tokens of prompt and answer."""


def describe(model: ProSG) -> Iterator[tuple[str, str]]:
    """Lines of (what, value)."""
    backbone: Any = model.backbone
    total = sum(p.numel() for p in backbone.parameters())
    yield "type", backbone.config.model_type
    for name, value in _sizes(backbone).items():
        yield name, str(value)
    yield "parameters", f"{total:,} ({next(backbone.parameters()).dtype})"
    yield "fingerprint", fingerprint(backbone)
    yield "sites", f"{len(backbone.sites)}: " + ", ".join(dict.fromkeys(site.name for site in backbone.sites))
    for name, (out, inp) in {site.name: shape for site, shape in backbone.sites.items()}.items():
        yield f"  {name}", f"{inp} -> {out}"
    yield "kernel", backbone.kernel_in_use
    yield "tokenizer", f"{model.tokenizer.vocab_size} tokens" if model.tokenizer else "none"
    if model.synthesizer is not None:
        own = sum(p.numel() for p in model.synthesizer.parameters())
        yield "module", f"{model.synthesizer.config.preset}, {own:,} parameters ({own / total:.1%})"
        for key, value in model.synthesizer.config.to_dict().items():
            if key != "preset":
                yield f"  {key}", str(value)

    weights = _bytes(backbone.parameters())
    state = _bytes(leaf for layer in backbone.init_state(1) for leaf in layer)
    grows = "" if isinstance(backbone, Native) else _and_growth(backbone, state)
    row = f"{bytes_text(state)} of state{grows}{_and_update(model)}"
    yield "generating", f"{bytes_text(weights)} of weights, and per row {row}"
    yield f"training, {BATCH} x {TOKENS} tokens", "fp32 with AdamW"
    activations = activation_bytes(backbone, frozen=False)
    yield "  finetune", _training(ADAMW * total, activations)
    frozen = activation_bytes(backbone, frozen=True)
    for name, preset in PRESETS.items():
        module = _count(preset, backbone, total)
        if isinstance(module, str):
            yield f"  preset {name}", f"not for this backbone: {module}"
        else:
            share = f"{module:,} trainable parameters ({module / total:.1%})"
            yield f"  preset {name}", f"{share}, {_training(4 * total + ADAMW * module, frozen)}"


def _sizes(backbone: Any) -> dict[str, Any]:
    """A native backbone's configuration; of one of transformers, what is not as its type has it by default."""
    if isinstance(backbone, Native):
        return {field.name: getattr(backbone.config, field.name) for field in dataclasses.fields(backbone.config)}
    told = ("model_type", "transformers_version", "architectures", "dtype")
    changed = [name for name in backbone.config.to_diff_dict() if name not in told]
    names = dict.fromkeys(("vocab_size", "hidden_size", "num_hidden_layers", *changed))
    numbers = [name.rpartition(".")[2] for name in backbone.layer_names]
    layers = {"layers with sites": ", ".join(numbers)} if len(numbers) < backbone.config.num_hidden_layers else {}
    return {name: getattr(backbone.config, name) for name in names} | layers


def _and_growth(backbone: Any, empty: int) -> str:
    """What a token adds to the state where the model attends to all of its tokens."""
    with torch.no_grad():
        token = torch.zeros(1, 1, dtype=torch.int64, device=backbone.device)
        more = _bytes(leaf for layer in backbone(token).state for leaf in layer) - empty
    return f", {bytes_text(more)} more with every token that attention sees" if more else ""


def _count(preset: ProSGConfig, backbone: Any, total: int) -> int | str:
    """Parameters of a preset's module, or why there is none for this backbone."""
    try:
        with torch.device("meta"):
            module = Synthesizer(preset, backbone.sites, backbone.tap_widths, backbone_size=total)
    except ValueError as error:
        return str(error)
    return sum(p.numel() for p in module.parameters())


def _and_update(model: ProSG) -> str:
    if model.synthesizer is None:
        return ""
    rank = model.synthesizer.config.rank
    return f" and {bytes_text(sum(4 * rank * (out + inp) for out, inp in model.synthesizer.sites.values()))} of update"


def _training(weights: int | float, per_token: float) -> str:
    activations = per_token * BATCH * TOKENS
    parts = f"{bytes_text(weights)} and {bytes_text(activations)} of activations"
    return f"about {bytes_text(weights + activations)}: {parts}"


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
