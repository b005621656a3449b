"""The compiled scan in transformers' mixers: equal to their own code, and a warning where it cannot be used."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba.modeling_mamba import MambaMixer

from prosg.backbones.hf.model import HFBackbone
from prosg.core.update import LowRank, Site
from prosg.ops.selective_scan.compiled import LIBRARY
from support.hf_models import hf_model
from support.kernels import built
from support.models import assert_near, tokens

BATCH, TIME = 3, 37
SIZES = {"state_size": 5, "hidden_size": 17}

types = pytest.mark.parametrize("name", ["mamba", "falcon_mamba"])
compiled = built(LIBRARY)
OWN_FORWARD = MambaMixer.forward


def with_kernel(name: str, kernel: str, dtype: torch.dtype = torch.float32) -> HFBackbone:
    return HFBackbone(hf_model(name, dtype, **SIZES), kernel=kernel)


def forwards(backbone: HFBackbone) -> list[Any]:
    """What each mixer has in place of its class's forward."""
    mixers = [module for module in backbone.model.modules() if type(module).__name__.endswith("Mixer")]
    assert len(mixers) == 2
    return [vars(mixer).get("forward") for mixer in mixers]


def draw_update(backbone: HFBackbone) -> dict[Site, LowRank]:
    generator = torch.Generator().manual_seed(0)
    return {
        site: LowRank(
            (torch.randn(BATCH, 2, inp, generator=generator) / inp**0.5).requires_grad_(),
            (torch.randn(BATCH, out, 2, generator=generator) / inp**0.5).requires_grad_(),
        )
        for site, (out, inp) in backbone.sites.items()
    }


def trained(backbone: HFBackbone) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits under an update, and the gradients of all weights and of the update."""
    update = draw_update(backbone)
    logits = backbone(tokens(BATCH, TIME), update=update, keep_state=False).logits
    assert logits is not None
    learned = dict(backbone.named_parameters())
    for site, delta in update.items():
        learned |= {f"{site} a": delta.a, f"{site} b": delta.b}
    return logits, dict(zip(learned, torch.autograd.grad(logits.logsumexp(2).sum(), learned.values()), strict=True))


@compiled
@types
def test_it_is_the_model_of_transformers_own_code(name: str) -> None:
    ours, theirs = with_kernel(name, "c"), with_kernel(name, "transformers")
    assert all(forwards(ours)) and not any(forwards(theirs))
    (logits, gradients), (own_logits, own_gradients) = trained(ours), trained(theirs)
    assert_near(logits, own_logits, 1e-5)
    for key, gradient in gradients.items():
        assert_near(gradient, own_gradients[key], 1e-4)


@compiled
@types
@torch.no_grad()
def test_reading_on_from_a_state_too(name: str) -> None:
    ours, theirs = with_kernel(name, "c"), with_kernel(name, "transformers")
    update, x, lengths = draw_update(ours), tokens(BATCH, TIME), torch.tensor([TIME, 1, 20])
    first, own_first = (model(x, update=update, lengths=lengths) for model in (ours, theirs))
    kept = [leaf.clone() for layer in first.state for leaf in layer]
    then, own_then = (
        model(x[:, :4], state, update=update) for model, state in ((ours, first.state), (theirs, own_first.state))
    )
    assert_near(then.logits, own_then.logits, 1e-5)
    for layer, own_layer in zip(then.state, own_then.state, strict=True):
        for leaf, own_leaf in zip(layer, own_layer, strict=True):
            assert leaf.dtype == own_leaf.dtype
            assert_near(leaf.double(), own_leaf.double(), 1e-5)
    # What was given is not written to, though the function in the mixer writes to the state that it is given.
    for leaf, before in zip((leaf for layer in first.state for leaf in layer), kept, strict=True):
        assert torch.equal(leaf, before)


@compiled
@types
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_types_of_numbers(name: str, dtype: torch.dtype) -> None:
    """In bf16 the recurrence is in fp32 here, in parts of it there."""
    ours, theirs = with_kernel(name, "c", dtype), with_kernel(name, "transformers", dtype)
    prompt, own_prompt = (model(tokens(BATCH, TIME)) for model in (ours, theirs))
    assert prompt.logits.dtype == own_prompt.logits.dtype
    assert prompt.state[1].memory.dtype == own_prompt.state[1].memory.dtype
    assert_near(prompt.logits.double(), own_prompt.logits.double(), 1e-6 if dtype == torch.float64 else 0.05)
    token = tokens(BATCH, 1)
    then, own_then = ours(token, prompt.state).logits, theirs(token, prompt.state).logits
    assert_near(then.double(), own_then.double(), 1e-6 if dtype == torch.float64 else 0.05)


@compiled
@torch.no_grad()
def test_it_belongs_to_one_model_and_its_copies() -> None:
    model, x = hf_model("mamba"), tokens(BATCH, TIME)
    own = model(x, use_cache=False).logits
    backbone = HFBackbone(model)
    assert not torch.equal(backbone(x).logits, own)  # in the last bits
    assert torch.equal(hf_model("mamba")(x, use_cache=False).logits, own)
    other = copy.deepcopy(backbone)
    for forward, copied in zip(forwards(backbone), forwards(other), strict=True):
        assert copied.__self__ is not forward.__self__ and copied.__func__ is forward.__func__
    for parameter in other.parameters():
        parameter.mul_(1.1)
    assert_near(other(x).logits, HFBackbone(copy.deepcopy(other.model), kernel="transformers")(x).logits, 1e-5)
    again = HFBackbone(model, kernel="transformers")
    assert not any(forwards(again)) and torch.equal(again(x).logits, own)


@compiled
def test_kernel_in_use() -> None:
    for kernel in ("auto", "c"):
        assert with_kernel("mamba", kernel).kernel_in_use.endswith(
            f", mamba; selective_scan: c ({LIBRARY.description()})"
        )
    assert with_kernel("mamba", "transformers").kernel_in_use.endswith("; selective_scan: transformers (chosen)")
    assert HFBackbone(hf_model("gpt2")).kernel_in_use.endswith(", gpt2")
    with pytest.raises(ValueError, match="'scan'.* mamba .*auto, c, transformers"):
        with_kernel("mamba", "scan")
    with pytest.raises(ValueError, match="'c'.* gpt2 .*: auto$"):
        HFBackbone(hf_model("gpt2"), kernel="c")


@types
@torch.no_grad()
def test_without_the_library_transformers_own_code_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = tokens(BATCH, TIME)
    monkeypatch.setitem(vars(LIBRARY), "loaded", "it is not built")
    backbone, own = with_kernel(name, "auto"), with_kernel(name, "transformers")
    assert backbone.kernel_in_use.endswith("; selective_scan: transformers (c: it is not built)")
    one, other = backbone(x), own(x)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(backbone(x[:, :2], one.state).logits, own(x[:, :2], one.state).logits)
    asked_for = with_kernel(name, "c")
    for use in (lambda: asked_for(x), lambda: asked_for.kernel_in_use):
        with pytest.raises(ValueError, match="'c' .*it is not built.*auto, transformers"):
            use()


def assert_refused(reason: str) -> None:
    """A warning, and the model is as it was; an error where the kernel is chosen by name."""
    with pytest.warns(UserWarning, match=f"mamba: .*{reason}"):
        backbone = with_kernel("mamba", "auto")
    assert backbone.kernel_in_use.endswith(f"; selective_scan: transformers (c: {reason})")
    assert not any(forwards(backbone))
    assert torch.equal(backbone(tokens(BATCH, TIME)).logits, backbone.model(tokens(BATCH, TIME)).logits)
    with pytest.raises(ValueError, match=f"mamba: kernel 'c' .*{reason}.* auto"):
        with_kernel("mamba", "c")


def elsewhere(mixer: Any, *inputs: Any, **options: Any) -> Any:
    """A mixer's forward that leaves the scan to another function."""
    return OWN_FORWARD(mixer, *inputs, **options)


def test_where_transformers_calls_it_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, forward = modeling_mamba.mamba_selective_scan, OWN_FORWARD

    def renamed(x: Tensor, *rest: Any, **options: Any) -> Any:
        return scan(x, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(modeling_mamba, "mamba_selective_scan", renamed)
        assert_refused("mamba_selective_scan has other arguments: x, rest, options")
    with monkeypatch.context() as patch:
        patch.setattr(MambaMixer, "forward", elsewhere)
        assert_refused("MambaMixer.forward does not call mamba_selective_scan")
    with monkeypatch.context() as patch:
        patch.setattr(MambaMixer, "forward", lambda self, *inputs, **options: forward(self, *inputs, **options))
        assert_refused("MambaMixer.forward is no plain function")


@compiled
def test_a_forward_that_someone_else_put_there_stays() -> None:
    model = hf_model("mamba", **SIZES)
    mixer = model.backbone.layers[1].mixer
    theirs = mixer.forward = lambda *inputs, **options: type(mixer).forward(mixer, *inputs, **options)
    with pytest.warns(UserWarning, match="a mixer's forward is replaced already, or its weights are offloaded"):
        assert forwards(HFBackbone(model)) == [None, theirs]
