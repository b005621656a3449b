"""Hooks: which modules they are on, and what happens where a module is not called once."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prosg.backbones.hf.model import HFBackbone
from prosg.core.update import LowRank, Site
from support.hf_models import BATCH, TIME, backbone_update_tokens, hf_model, tolerance
from support.models import assert_near, tokens


def test_a_projection_that_the_model_bypasses_is_named() -> None:
    """Mamba multiplies by dt_proj's weight without calling it."""
    backbone = HFBackbone(hf_model("mamba"), ["in_proj", "dt_proj"])
    x = tokens(BATCH, TIME)
    update = {site: LowRank(torch.zeros(BATCH, 1, i), torch.zeros(o, 1)) for site, (o, i) in backbone.sites.items()}
    with pytest.raises(ValueError, match=r"0\.dt_proj \(backbone\.layers\.0\.mixer\.dt_proj\) .* 0 times"):
        backbone(x, update=update)
    assert not any(module._forward_hooks for module in backbone.model.modules())
    del update[Site(0, "dt_proj")], update[Site(1, "dt_proj")]
    backbone(x, update=update)


def test_a_projection_that_is_called_twice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, update, x = backbone_update_tokens("llama")
    layer = backbone.model.model.layers[1]
    once = layer.forward
    monkeypatch.setattr(layer, "forward", lambda hidden, **options: once(once(hidden, **options), **options))
    with pytest.raises(ValueError, match=r"1\.q_proj .* 2 times"):
        backbone(x, update=update, keep_state=False)


@pytest.mark.parametrize("name", ["llama", "recurrent_gemma"])
@torch.no_grad()
def test_a_call_within_a_call_of_another_thread_is_as_alone(name: str) -> None:
    """The second one, of one row and without an update, begins while the first is at the model's embeddings."""
    backbone, update, x = backbone_update_tokens(name)
    wanted = backbone(x, update=update).logits, backbone(x[:1]).logits
    within: list[Tensor] = []

    def read() -> None:
        with torch.no_grad():
            within.append(backbone(x[:1]).logits)

    other = threading.Thread(target=read)

    def begin(module: nn.Module, arguments: tuple[Tensor, ...], y: Tensor) -> None:
        if other.ident is None:
            other.start()
            other.join(0.5)

    handle = backbone.model.get_input_embeddings().register_forward_hook(begin)
    first = backbone(x, update=update).logits
    other.join()
    handle.remove()
    assert torch.equal(first, wanted[0]) and torch.equal(within[0], wanted[1])


class Wrapped(nn.Module):
    """What PEFT puts in a projection's place."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer = base
        self.out_features, self.in_features = base.weight.mT.shape if isinstance(base, Conv1D) else base.weight.shape
        self.lora_A = nn.Linear(self.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, self.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


@pytest.mark.parametrize("name", ["gpt2", "mamba2", "llama"])
def test_wrapped_projections_are_updated_from_outside(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    wrapped = copy.deepcopy(backbone.model)
    for path in backbone.modules_by_site.values():
        parent, _, last = path.rpartition(".")
        setattr(wrapped.get_submodule(parent), last, Wrapped(wrapped.get_submodule(path)).to(wrapped.dtype))
    around = HFBackbone(wrapped)
    assert around.sites == backbone.sites
    learned = {}
    for site, path in around.modules_by_site.items():
        module: Any = around.model.get_submodule(path)
        learned[site] = LowRank(module.lora_A.weight.expand(BATCH, -1, -1), module.lora_B.weight)
    both = {
        site: LowRank(torch.cat([delta.a, learned[site].a], 1), torch.cat([delta.b, learned[site].rows().b], 2))
        for site, delta in update.items()
    }
    with torch.no_grad():
        assert_near(around(x, update=update).logits, backbone(x, update=both).logits, tolerance(name))
