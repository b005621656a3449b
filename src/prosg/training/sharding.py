"""Weights that are sharded over processes (FSDP2): gathering, loading and saving them.

`ProSG.forward` contains both passes, so the whole model is one FSDP unit: its weights are gathered before a call and
resharded after it. Every other method that calls the backbone has to be registered here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

__all__ = [
    "gather_weights",
    "is_sharded",
    "load_optimizer",
    "load_weights",
    "optimizer_state",
    "register_methods",
    "trained_weights",
]

METHODS = ("encode", "score", "score_after", "score_wiped", "generate", "run_backbone")
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP shards the weights; if so, reshards those that a call has left gathered."""
    if not isinstance(model, FSDPModule):
        return False
    model.reshard()
    return True


def register_methods(model: nn.Module) -> None:
    """Makes the methods that call the backbone outside of `forward` gather the weights first."""
    for method in METHODS:
        register_fsdp_forward_method(model, method)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name, gathered and contiguous. Every process has to call it."""
    is_sharded(model)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    full = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in trained.items()}
    return {name: tensor.contiguous() for name, tensor in full.items()}


def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Loads full tensors into the parameters of these names, sharded or not."""
    if is_sharded(model):
        set_model_state_dict(model, dict[str, Any](tensors), options=FULL)
    else:
        model.load_state_dict(tensors, strict=False)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state as full tensors on the CPU of the first process. Every process has to call it."""
    return get_optimizer_state_dict(model, optimizer, options=FULL)


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The reverse of `optimizer_state`."""
    set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True, strict=False))


def gather_weights(model: nn.Module) -> None:
    """Replaces sharded parameters by full ones for good, so that the trained model can be saved as any other."""
    if not is_sharded(model):
        return
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                full = parameter.full_tensor().detach()
                module._parameters[name] = nn.Parameter(full, parameter.requires_grad)
