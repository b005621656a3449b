"""Memory that training a model takes, counted on the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prosg.backbones.native import Call, Native

__all__ = ["ADAMW", "activation_bytes"]


PROBE = (64, 128)
"""Tokens of the two passes from whose difference the bytes per token are read: multiples of the kernels' chunks."""


ADAMW = 16
"""Bytes per trained parameter: value, gradient and two moments in fp32."""


def activation_bytes(backbone: Any, frozen: bool) -> float:
    """Bytes per token that a training pass keeps for its gradient, counted in two short passes of this very model.

    frozen: only what comes into the blocks and the update has gradients (phase 2), not the weights. Native backbones
    are counted by one of their blocks and the head, so that it takes no time in large ones.
    """
    few, many = (_kept(backbone, tokens, frozen) for tokens in PROBE)
    return (many - few) / (PROBE[1] - PROBE[0])


def _kept(backbone: Any, time: int, frozen: bool) -> float:
    """Bytes that one pass over `time` tokens keeps."""
    tokens = torch.zeros(1, time, dtype=torch.int64, device=next(backbone.parameters()).device)
    trainable = [p.requires_grad for p in backbone.parameters()]
    backbone.requires_grad_(not frozen)
    try:
        with torch.enable_grad():
            if not isinstance(backbone, Native):
                embedded = backbone.model.get_input_embeddings()(tokens).detach().requires_grad_()
                return _saved(lambda: _scores(backbone.model(inputs_embeds=embedded, use_cache=False).logits), backbone)
            kernel = backbone.kernels.kernel(backbone.kernel, tokens.device, backbone.state_dtype)
            call, state = Call(None, None, kernel), backbone.init_state(1)
            stream = _leaves(backbone.blocks[0](backbone.embed(tokens), state[0], {}, call).stream)
            block = _saved(lambda: backbone.blocks[-1](stream, state[-1], {}, call), backbone)
            head = _saved(lambda: _scores(backbone.head(backbone.ln_out(backbone.hidden(stream)))), backbone)
            return block * len(backbone.blocks) + head
    finally:
        for parameter, before in zip(backbone.parameters(), trainable, strict=True):
            parameter.requires_grad_(before)


def _saved(run: Callable[[], Any], backbone: Any) -> float:
    """Bytes that `run` keeps for its gradient, beside the weights."""
    storages = {p.untyped_storage().data_ptr(): 0 for p in backbone.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages.setdefault(storage.data_ptr(), storage.nbytes())  # views of one tensor are kept once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result  # only now: what is alive cannot be mistaken for something new at the same place
    return float(sum(storages.values()))


def _leaves(stream: Any) -> Any:
    """The residual stream as if it came from other layers."""
    if isinstance(stream, Tensor):
        return stream.detach().requires_grad_()
    return type(stream)(*(_leaves(part) for part in stream))


def _scores(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), 2)
