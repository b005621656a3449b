"""Learned initial states: what they are to the recurrence, their gradients, and their files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

import prosg.model.prosg
from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.backbone import CheckpointError, save_backbone
from prosg.checkpoints.initial_state import load_initial, save_initial
from prosg.model.initial_state import InitialState
from prosg.training.perturbation import Draws, Touch
from support.hf_models import hf_backbone
from support.models import TINY, assert_near, gap, live_backbone, live_model, tokens

PROMPT, LENGTHS = tokens(3, 7), torch.tensor([7, 4, 1])
ANSWER, ANSWERED = tokens(3, 5, seed=4), torch.tensor([5, 3, 2])


def learned(backbone: RWKV7, seed: int = 3) -> InitialState:
    """As large as what a text leaves."""
    initial = InitialState(backbone)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in initial.layers:
            tensor += torch.randn(tensor.shape, generator=generator)
    return initial


@pytest.mark.parametrize("name", TINY)
def test_it_is_the_memory_of_every_row(name: str) -> None:
    backbone = live_backbone(name)
    initial = learned(backbone).double()
    state = initial(backbone.init_state(2))
    for i, (layer, blank, tensor) in enumerate(zip(state, backbone.init_state(2), initial.layers, strict=True)):
        assert layer._fields == blank._fields
        for field in layer._fields:
            assert getattr(layer, field).shape == getattr(blank, field).shape, (i, field)
            if field.endswith("shift"):
                assert not getattr(layer, field).any()
        if "num" in layer._fields:  # as the recurrence sees it: mean, and logarithm of the weight
            assert_near(layer.num / layer.den, tensor[:1].expand(2, -1), 1e-12)
            assert_near(layer.den.log() + layer.top, tensor[1:].expand(2, -1), 1e-12)
        else:
            assert torch.equal(layer.memory, tensor.expand(2, *tensor.shape))


@pytest.mark.parametrize("name", [name for name in TINY if not name.startswith("rwkv4")])
def test_before_training_it_changes_nothing(name: str) -> None:
    model = live_model(name, None)
    bare = model.encode(PROMPT, LENGTHS)
    model.initial = InitialState(model.backbone)
    assert torch.equal(model.encode(PROMPT, LENGTHS).logits, bare.logits)


def test_rwkv4_begins_as_after_a_token_of_key_and_value_0() -> None:
    backbone = live_backbone("rwkv4")
    layer = InitialState(backbone)(backbone.init_state(1))[0]
    assert not layer.num.any() and not layer.top.any() and bool((layer.den == 1).all())


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("module", [None, "plus"])
def test_prompts_begin_from_it(name: str, module: str | None) -> None:
    model = live_model(name, module)
    model.initial = learned(model.backbone).double()
    whole = model.encode(PROMPT, LENGTHS)
    output = model.backbone(PROMPT, model.init_state(3), lengths=LENGTHS, logits="last")
    assert_near(whole.logits, output.logits, 1e-10)
    chunked = model.encode(PROMPT, LENGTHS, chunk=2)
    assert_near(chunked.logits, whole.logits, 1e-10)
    for start in range(0, 7, 3) if module else ():  # every window begins from it
        part = model.encode(PROMPT[:1, start : start + 3])
        assert_near(
            part.logits, model.backbone(PROMPT[:1, start : start + 3], model.init_state(1)).logits[:, -1], 1e-10
        )


def loss_of(model: object, draws: Draws | None = None) -> Tensor:
    weights = torch.ones(ANSWER.shape, dtype=torch.float64)
    loss: Tensor = model(PROMPT, LENGTHS, ANSWER, ANSWERED, weights, draws=draws).loss  # type: ignore[operator]
    return loss


def wiped() -> Draws:
    no, zeros, rows = torch.zeros(3, dtype=torch.bool), torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    untouched = Touch(no, zeros, zeros, no, zeros, rows)
    return Draws(no, ~no, untouched, untouched, rows)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("wipe", [False, True], ids=["kept", "wiped"])
def test_gradients_are_those_of_the_loss(name: str, wipe: bool) -> None:
    """In fp64 against differences, the backbone frozen; a wiped row begins again from the learned state."""
    model = live_model(name, None)
    model.initial = learned(model.backbone).double()
    model.backbone.requires_grad_(False)
    draws = wiped() if wipe else None
    loss_of(model, draws).backward()
    for i, tensor in enumerate(model.initial.layers):
        assert tensor.grad is not None
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                tensor += step * direction
                values.append(float(loss_of(model, draws)))
            tensor += 1e-5 * direction
        expected = (values[0] - values[1]) / 2e-5
        assert float((tensor.grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert abs(expected) > 1e-7


def test_a_file_is_what_the_rwkv_package_begins_with(tmp_path: Path) -> None:
    """The orientation: RWKV-7's memory is stored as that package's recurrence holds it."""
    config = RWKV7Config(vocab_size=50, hidden_size=64, num_layers=2, head_size=32)
    backbone = RWKV7(config)
    backbone.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() != 2:
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        backbone.head.weight.normal_(generator=torch.Generator().manual_seed(2))
    save_backbone(backbone, tmp_path / "model.pth")
    initial = learned(backbone)
    save_initial(initial, tmp_path / "state.pth")

    spec = importlib.util.find_spec("rwkv.model")
    assert spec is not None and spec.loader is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RWKV_V7_ON", "1")
        package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    theirs = package.RWKV(model=str(tmp_path / "model"), strategy="cpu fp32")
    file = torch.load(tmp_path / "state.pth", weights_only=True)
    assert list(file) == ["blocks.0.att.time_state", "blocks.1.att.time_state"]
    ids = tokens(1, 9, vocab=50)
    state = [torch.zeros(64) for _ in range(6)]
    for i in range(2):
        state[3 * i + 1] = file[f"blocks.{i}.att.time_state"].clone()
    logits, _ = theirs.forward(ids[0].tolist(), state, full_output=True)
    with torch.no_grad():
        ours = backbone(ids, initial(backbone.init_state(1))).logits[0]
        turned = InitialState(backbone)
        for to, of in zip(turned.layers, initial.layers, strict=True):
            to.copy_(of.mT)
        assert gap(backbone(ids, turned(backbone.init_state(1))).logits[0], logits) > 1e-2
    assert gap(ours, logits) < 2e-5


@pytest.mark.parametrize("name", TINY)
def test_files_there_and_back(name: str, tmp_path: Path) -> None:
    backbone = live_backbone(name, torch.float32)
    initial = learned(backbone)
    save_initial(initial, tmp_path / "state.pth")
    loaded = load_initial(tmp_path, backbone)  # a training's output folder
    assert all(torch.equal(a, b) for a, b in zip(loaded.layers, initial.layers, strict=True))
    with pytest.raises(FileExistsError, match="state.pth: exists"):
        save_initial(initial, tmp_path / "state.pth")


def test_what_is_refused(tmp_path: Path) -> None:
    backbone = live_backbone("rwkv7", torch.float32)
    file = tmp_path / "x.pth"

    def refused(tensors: dict[str, Tensor], message: str) -> None:
        torch.save(tensors, file)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_initial(file, backbone)
        assert "\n" not in str(caught.value)

    good = {f"blocks.{i}.att.time_state": torch.zeros(2, 6, 6) for i in range(2)}
    shape = r"x.pth: blocks.1.att.time_state has shape \(3, 6, 6\), expected \(2, 6, 6\) for this rwkv7"
    refused(good | {"blocks.1.att.time_state": torch.zeros(3, 6, 6)}, shape)
    refused(good | {"blocks.2.att.time_state": torch.zeros(2, 6, 6)}, "unknown tensor blocks.2.*has 2 layers")
    refused(good | {"blocks.0.att.ts_state": torch.zeros(12)}, "unknown tensor blocks.0.att.ts_state")
    refused({"blocks.0.att.time_state": torch.zeros(2, 6, 6)}, "missing tensor blocks.1.att.time_state")
    refused(good | {"blocks.0.att.time_state": torch.full((2, 6, 6), torch.nan)}, "blocks.0.*not finite")
    refused({"emb.weight": torch.zeros(2, 2)}, "no learned initial states; needs tensors like blocks.0.att.time_state")
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        load_initial(tmp_path / "nowhere", backbone)
    with pytest.raises(ValueError, match="an initial state of mamba cannot be learned; known are rwkv4, rwkv7, retnet"):
        InitialState(hf_backbone("mamba"))


@pytest.mark.parametrize("name", ["rwkv4", "rwkv7"])
def test_checkpointing_gives_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through a prompt of several chunks, each of which the backward pass reads again."""
    monkeypatch.setattr(prosg.prosg, "CHUNK", 2)
    model = live_model(name, None)
    model.initial = learned(model.backbone).double()
    model.backbone.requires_grad_(False)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.initial.zero_grad()
        loss_of(model).backward()
        gradients.append([tensor.grad.clone() for tensor in model.initial.layers])
    for one, other in zip(*gradients, strict=True):
        assert_near(one, other, 1e-10)
