"""Weights that are shared out over processes (FSDP2): what a trainer needs to know of them.

`ProSG.forward` has both passes in it, so the whole model is one unit: its weights are put together before a call and
taken apart after it. Whatever else calls the model has to go through a method that is registered here.
"""

from __future__ import annotations

from collections.abc import Iterator
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

__all__ = ["is_sharded", "load_optimizer", "load_weights", "optimizer_state", "put_together", "register", "whole"]

METHODS = ("encode", "score", "generate", "run_backbone")
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


def is_sharded(model: nn.Module) -> bool:
    """Whether its weights are shared out; if so they are after this, where a call had put them together."""
    if not isinstance(model, FSDPModule):
        return False
    model.reshard()
    return True


def register(model: nn.Module) -> None:
    """Let the methods that call the model beside `forward` put its weights together first."""
    for method in METHODS:
        register_fsdp_forward_method(model, method)


def whole(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, each with all of its parts; every process has to ask."""
    is_sharded(model)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in trained.items()}


def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put whole tensors into the weights of these names, shared out or not."""
    if is_sharded(model):
        set_model_state_dict(model, dict[str, Any](tensors), options=WHOLE)
    else:
        model.load_state_dict(tensors, strict=False)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state in whole tensors on the CPU; every process has to ask, the first one gets it."""
    return get_optimizer_state_dict(model, optimizer, options=WHOLE)


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The reverse of `optimizer_state`."""
    set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True, strict=False))


def put_together(model: nn.Module) -> None:
    """Replace weights that are shared out by whole ones, for good: what is saved after training."""
    if not is_sharded(model):
        return
    for owner, name, parameter in list(_owned(model)):
        if isinstance(parameter, DTensor):
            full = parameter.full_tensor().detach()
            owner._parameters[name] = nn.Parameter(full, parameter.requires_grad)


def _owned(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield module, name, parameter
