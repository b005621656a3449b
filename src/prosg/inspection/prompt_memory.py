"""The memory that a prompt takes once it was read, beside what a transformer keeps of as many tokens.

Counted on an encoded prompt of zeros, which has the shapes of every other: how long a prompt was matters only where a
model has attention, whose keys and values are counted by the token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import save

from prosg.backbones import BackboneModule
from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.encoded import file_tensors
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import State
from prosg.core.update import LowRank, prepare_update
from prosg.model.anchor import empty_anchor
from prosg.model.prosg import ProSG
from prosg.model.synthesizer import Synthesizer
from prosg.utils.tables import bytes_text

__all__ = ["blank_prompt", "cache_bytes", "describe_prompt", "file_bytes", "growth_text"]

LENGTHS = (1024, 4096, 32768)
"""Tokens for which a transformer's cache is stated."""
FINGERPRINT = "0" * 64


def blank_prompt(model: ProSG, *, anchor: bool = False) -> EncodedPrompt:
    """Returns an encoded prompt of zeros, with an update where the model has a module.

    Args:
        model: The model.
        anchor: With an anchor, too.

    Raises:
        ValueError: for an anchor that the model cannot have.
    """
    backbone, device = model.backbone, model.device
    update: dict[Any, LowRank] | None = None
    if isinstance(model.synthesizer, Synthesizer):
        rank = model.synthesizer.config.rank
        update = {
            site: LowRank(torch.zeros(1, rank, inp, device=device), torch.zeros(1, out, rank, device=device))
            for site, (out, inp) in model.synthesizer.sites.items()
        }
    logits = torch.zeros(1, backbone.config.vocab_size, dtype=model.dtype, device=device)
    pull = empty_anchor(backbone) if anchor else None
    limit = torch.zeros(1, len(backbone.init_state(1)), device=device) if update and backbone.memory_grows else None
    return EncodedPrompt(backbone.init_state(1), update, logits, pull, limit=limit)


def file_bytes(encoded: EncodedPrompt) -> int:
    """Returns the size of the file that `save_encoded` writes of such a prompt."""
    tensors = {name: tensor.cpu() for name, tensor in file_tensors(encoded).items()}
    return len(save(tensors, {"model": FINGERPRINT}))


def cache_bytes(model: ProSG, tokens: int) -> int:
    """Returns the bytes of a transformer's cache of so many tokens: keys and values of the model's width and layers.

    Every head has keys and values of its own, as in GPT-2; the type is that of the model's weights.
    """
    layers, width = _layers_and_width(model)
    return 2 * layers * width * model.dtype.itemsize * tokens


def describe_prompt(model: ProSG) -> Iterator[tuple[str, str]]:
    """Yields (name, value) pairs: an encoded prompt, in memory and as a file; a server's row; a transformer's cache."""
    encoded = blank_prompt(model)
    parts = {"state": encoded.replace(update=None).nbytes - encoded.logits.nbytes, "logits": encoded.logits.nbytes}
    if encoded.update is not None:
        parts["update"] = encoded.nbytes - sum(parts.values())
    told = ", ".join(f"{bytes_text(size)} of {name}" for name, size in parts.items())
    growth = growth_text(model.backbone)
    yield "encoded prompt", f"{bytes_text(encoded.nbytes)}{growth}: {told}; as a file {bytes_text(file_bytes(encoded))}"
    row = encoded.replace(update=encoded.update and prepare_update(encoded.update, model.dtype))
    yield (
        "row of a server",
        f"{bytes_text(row.nbytes)}{growth or ', however long the prompt'}{_anchored_text(model, row)}",
    )
    layers, width = _layers_and_width(model)
    lengths = ", ".join(f"{bytes_text(cache_bytes(model, tokens))} for {tokens:,}" for tokens in LENGTHS)
    yield "a transformer's cache", f"{lengths} tokens ({layers} layers of {width}, {model.dtype})"


@torch.no_grad()
def growth_text(backbone: BackboneModule) -> str:
    """Says by how much each token enlarges the state, for models with attention; "" for others."""
    if not isinstance(backbone, HFBackbone):
        return ""
    token = torch.zeros(1, 1, dtype=torch.int64, device=backbone.device)
    more = _state_bytes(backbone(token).state) - _state_bytes(backbone.init_state(1))
    if not more:
        return ""
    if window := backbone.window:
        return f", {bytes_text(more)} more with every token, up to {bytes_text(more * (window - 1))} ({window} tokens)"
    return f", {bytes_text(more)} more with every token that attention sees"


def _state_bytes(state: State) -> int:
    return sum(leaf.nbytes for layer in state for leaf in layer)


def _anchored_text(model: ProSG, row: EncodedPrompt) -> str:
    """Says what a row takes with an anchor; "" for a model that cannot have one."""
    try:
        anchored = row.replace(anchor=empty_anchor(model.backbone))
    except ValueError:
        return ""
    return f"; {bytes_text(anchored.nbytes)} with an anchor"


def _layers_and_width(model: ProSG) -> tuple[int, int]:
    config: Any = model.backbone.config
    layers = config.num_hidden_layers if isinstance(model.backbone, HFBackbone) else config.num_layers
    return layers, config.hidden_size
