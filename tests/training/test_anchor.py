"""Trainings under an anchor: its windows learned, or the backbone and the module trained with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prosg.checkpoints.anchor import load_anchor, save_anchor
from prosg.checkpoints.backbone import load_backbone
from prosg.checkpoints.fingerprints import checkpoint_fingerprint
from prosg.checkpoints.load import load_model
from prosg.cli import main
from prosg.model.anchor import StateAnchor
from prosg.utils.io import CheckpointError
from support.models import TINY, live_backbone
from support.training_folder import TrainingFolder, make_training_folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    return make_training_folder(tmp_path_factory.mktemp("anchors"))


def test_windows_are_learned_and_nothing_else(shop: TrainingFolder, tmp_path: Path) -> None:
    before = checkpoint_fingerprint(shop.model)
    shop.run("anchor", tmp_path / "run", "--validation", shop.validation, "--anchor.tau", 30, "--anchor.age", 4)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"anchor.safetensors", "result.json"}
    assert not (tmp_path / "run" / "model").exists()
    assert checkpoint_fingerprint(shop.model) == before
    backbone = load_backbone(shop.model)
    learned, first = load_anchor(tmp_path / "run", backbone), StateAnchor(backbone, 30.0, 4.0)
    assert learned.age == 4.0
    for ours, theirs in zip(learned.state_dict().values(), first.state_dict().values(), strict=True):
        assert ours.shape == theirs.shape
        assert not torch.equal(ours, theirs)


def test_learning_goes_on_where_it_was_stopped(shop: TrainingFolder, tmp_path: Path) -> None:
    shop.run("anchor", tmp_path / "whole")
    shop.run("anchor", tmp_path / "run")
    for name in ("checkpoint-8", "result.json", "anchor.safetensors"):
        path = tmp_path / "run" / name
        path.rename(tmp_path / name)
    shop.run("anchor", tmp_path / "run")
    ours, theirs = (load_file(tmp_path / name / "anchor.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("phase", "options"), [("finetune", ["--recipe", "anchored"]), ("synthesize", [])])
def test_others_train_under_a_fixed_anchor(
    shop: TrainingFolder, tmp_path: Path, phase: str, options: list[str]
) -> None:
    more = options or ["--anchor.enabled", "true", "--anchor.tau", "200"]
    shop.run(phase, tmp_path / "run", *more)
    shop.run(phase, tmp_path / "without")
    anchor = load_anchor(tmp_path / "run", load_backbone(shop.model))
    assert all(torch.allclose(one.exp(), torch.tensor(200.0)) for one in anchor.log_tau)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "steps.jsonl").read_text().splitlines()]
        for name in ("run", "without")
    ]
    assert losses[0] != losses[1]
    assert not (tmp_path / "without" / "anchor.safetensors").exists()


def test_a_learned_anchor_holds_prompts_in_commands(
    shop: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.run("anchor", tmp_path / "run", "--anchor.tau", 5)
    arguments = ["generate", str(shop.model), "--prompt", "Tell a story.", "--temperature", "0", "--max-tokens", "40"]

    def written(*options: str) -> str:
        capsys.readouterr()
        assert main([*arguments, *options]) == 0
        return capsys.readouterr().out

    held = written("--anchor", str(tmp_path / "run"))
    assert held == written("--anchor", str(tmp_path / "run" / "anchor.safetensors"), "--memory", "anchor")
    assert main([*arguments, "--anchor", str(tmp_path / "run"), "--memory", "none"]) == 2
    assert "--anchor is for --memory anchor, both or auto" in capsys.readouterr().err
    assert main([*arguments, "--anchor", str(tmp_path / "run"), "--tau", "9"]) == 2
    assert "--tau is one window for all" in capsys.readouterr().err
    assert main([*arguments, "--tau", "9"]) == 2
    assert "tau is 9, but memory is 'none'" in capsys.readouterr().err


@pytest.mark.parametrize("name", TINY)
def test_an_anchor_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    backbone = live_backbone(name, torch.float32)
    anchor = StateAnchor(backbone)
    for parameter in (*anchor.log_tau, *anchor.log_strength):
        parameter += torch.rand_like(parameter)
    save_anchor(anchor, tmp_path / "anchor.safetensors")
    back = load_anchor(tmp_path / "anchor.safetensors", backbone)
    assert back.age == anchor.age
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), anchor.parameters(), strict=True))


def test_what_is_no_anchor_for_this_backbone_is_refused(tmp_path: Path) -> None:
    backbone, path = live_backbone("rwkv7", torch.float32), tmp_path / "anchor.safetensors"
    save_anchor(StateAnchor(backbone), path)
    whole = load_file(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_anchor(tmp_path / "elsewhere.safetensors", backbone)
    with pytest.raises(CheckpointError, match=r"anchor.safetensors: log_strength.0 has \(2,\), expected \(4,\)"):
        load_anchor(path, live_backbone("rwkv7, own widths", torch.float32))
    metadata = {"format": "prosg-anchor-1", "age": "0.0"}
    for tensors, about, message in (
        (whole, {}, "not an anchor"),
        (whole, metadata | {"age": "many"}, "many"),
        (whole | {"log_tau.0": torch.full((2,), torch.nan)}, metadata, "windows below 1 token"),
        (whole | {"log_tau.0": torch.full((2,), -1.0)}, metadata, "windows below 1 token"),
        (whole | {"log_strength.0": torch.full((2,), torch.inf)}, metadata, "not finite|finite"),
    ):
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata=about or None)
        with pytest.raises(CheckpointError, match=f"anchor.safetensors: .*({message})"):
            load_anchor(path, backbone)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="truncated, or not"):
        load_anchor(path, backbone)


def test_a_trained_folder_keeps_its_model(shop: TrainingFolder, tmp_path: Path) -> None:
    shop.run("finetune", tmp_path / "run", "--recipe", "anchored")
    assert load_model(tmp_path / "run").memory == "none"  # the anchor is an option, --anchor, as a learned state is
