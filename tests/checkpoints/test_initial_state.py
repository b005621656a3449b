"""Learned initial states as files: RWKV's own format, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.initial_state import load_initial, save_initial
from prosg.model.initial_state import InitialState
from support.checkpoints import assert_refused
from support.models import TINY, gap, live_backbone, random_initial_state, tokens


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
    initial = random_initial_state(backbone)
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
    initial = random_initial_state(backbone)
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
        assert_refused(lambda: load_initial(file, backbone), message)

    good = {f"blocks.{i}.att.time_state": torch.zeros(2, 6, 6) for i in range(2)}
    shape = r"x.pth: blocks.1.att.time_state .*\(3, 6, 6\).*\(2, 6, 6\).*rwkv7"
    refused(good | {"blocks.1.att.time_state": torch.zeros(3, 6, 6)}, shape)
    refused(good | {"blocks.2.att.time_state": torch.zeros(2, 6, 6)}, "blocks.2.*2 layers")
    refused(good | {"blocks.0.att.ts_state": torch.zeros(12)}, "blocks.0.att.ts_state")
    refused({"blocks.0.att.time_state": torch.zeros(2, 6, 6)}, "blocks.1.att.time_state")
    refused(good | {"blocks.0.att.time_state": torch.full((2, 6, 6), torch.nan)}, "blocks.0.*NaN or infinite")
    refused({"emb.weight": torch.zeros(2, 2)}, "x.pth: .*blocks.0.att.time_state")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_initial(tmp_path / "nowhere", backbone)
