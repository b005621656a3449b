"""The memory that training a model takes, measured on the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prosg.backbones import BackboneModule
from prosg.backbones.base import DeferredLogits
from prosg.backbones.hf.model import HFBackbone
from prosg.model.objective import token_losses

__all__ = ["ADAMW_BYTES", "activation_bytes"]

PROBE_TOKENS = (64, 128)
"""Lengths of the two passes whose difference gives the bytes per token: multiples of the kernels' chunks."""
ADAMW_BYTES = 16
"""Bytes per trained parameter: value, gradient and two moments in fp32."""


def activation_bytes(backbone: BackboneModule, frozen: bool) -> float:
    """Measures what a forward pass keeps for the backward pass.

    Two short passes are run. Of native backbones only one block and the head, so that large ones take no time.

    Args:
        backbone: The backbone.
        frozen: The weights need no gradients, only the activations do (phase 2).

    Returns:
        Bytes per token.
    """
    few, many = (_saved_by_pass(backbone, tokens, frozen) for tokens in PROBE_TOKENS)
    return (many - few) / (PROBE_TOKENS[1] - PROBE_TOKENS[0])


def _saved_by_pass(backbone: BackboneModule, time: int, frozen: bool) -> float:
    tokens = torch.zeros(1, time, dtype=torch.int64, device=next(backbone.parameters()).device)
    trainable = [p.requires_grad for p in backbone.parameters()]
    backbone.requires_grad_(not frozen)
    try:
        with torch.enable_grad():
            if isinstance(backbone, HFBackbone):
                embeddings = backbone.model.get_input_embeddings()
                handle = embeddings.register_forward_hook(lambda module, arguments, y: y.detach().requires_grad_())
                try:
                    return _saved_bytes(lambda: _loss(backbone(tokens, logits="deferred").deferred), backbone)
                finally:
                    handle.remove()
            context, state = backbone.context(), backbone.init_state(1)
            stream = _as_leaves(backbone.blocks[0](backbone.embed(tokens), state[0], {}, context).stream)
            block = _saved_bytes(lambda: backbone.blocks[-1](stream, state[-1], {}, context), backbone)
            head = _saved_bytes(
                lambda: _loss(DeferredLogits(backbone.ln_out(backbone.hidden(stream)), backbone.head)), backbone
            )
            return block * len(backbone.blocks) + head
    finally:
        for parameter, before in zip(backbone.parameters(), trainable, strict=True):
            parameter.requires_grad_(before)


def _saved_bytes(run: Callable[[], Any], module: nn.Module) -> float:
    """Returns the bytes that `run` saves for its backward pass, parameters not counted."""
    storages = {p.untyped_storage().data_ptr(): 0 for p in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages.setdefault(storage.data_ptr(), storage.nbytes())  # views of one tensor are saved once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result  # alive until here, so that no two tensors had the same address
    return float(sum(storages.values()))


def _as_leaves(stream: Any) -> Any:
    """Returns the residual stream, a tensor or a NamedTuple of tensors, as leaves that need gradients."""
    if isinstance(stream, Tensor):
        return stream.detach().requires_grad_()
    return type(stream)(*(_as_leaves(part) for part in stream))


def _loss(predicted: DeferredLogits | None) -> Tensor:
    assert predicted is not None
    hidden = predicted.hidden.flatten(0, 1)
    targets = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
    return token_losses(hidden, predicted.head, targets, torch.ones_like(targets, dtype=hidden.dtype)).loss
