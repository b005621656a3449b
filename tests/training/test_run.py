"""The functions behind the commands, called from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prosg.backbones.rwkv4 import RWKV4, RWKV4_SIZES
from prosg.checkpoints.fingerprints import checkpoint_fingerprint
from prosg.checkpoints.load import load_model
from prosg.model.prosg import ProSG
from prosg.training.config import Optimisation, TrainConfig
from prosg.training.run import curve_of_model, info, perplexity_of_file, train
from prosg.utils.device import resolve_device
from prosg.utils.io import write_json
from support.training_folder import TrainingFolder, make_training_folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    return make_training_folder(tmp_path_factory.mktemp("workshop"))


def config(shop: TrainingFolder, output: Path, **changes: object) -> TrainConfig:
    values = {"model": str(shop.model), "train": str(shop.train), "output": str(output)}
    return TrainConfig(**{**values, "optim": Optimisation(steps=2, batch_size=8, lr=1e-3), **changes})


def test_training_leaves_all_that_tells_what_was_done(shop: TrainingFolder, tmp_path: Path) -> None:
    assert train("synthesize", config(shop, tmp_path / "run", validation=str(shop.validation))) == 0
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {"adapter", "config.json", "steps.jsonl", "runs", "progress.json", "result.json", "checkpoint-2"}
    assert not {"model"} & left
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2 and result["skipped"] == 0 and result["dtype"] == "fp32" and result["seconds"] > 0


def test_the_adapter_finds_its_backbone_from_anywhere(
    shop: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.folder)
    train("synthesize", config(TrainingFolder(Path()), Path("run")))
    monkeypatch.chdir(tmp_path)
    assert load_model(shop.folder / "run" / "adapter").tokenizer is not None


def test_phase_1_leaves_a_folder_with_its_tokenizer(shop: TrainingFolder, tmp_path: Path) -> None:
    train("finetune", config(shop, tmp_path / "run"))
    model = tmp_path / "run" / "model"
    assert (model / "tokenizer.json").read_bytes() == shop.tokenizer.read_bytes()
    assert checkpoint_fingerprint(model) != checkpoint_fingerprint(shop.model)


def test_the_tokenizer_may_be_named(shop: TrainingFolder, tmp_path: Path) -> None:
    train("finetune", config(shop, tmp_path / "run", tokenizer=str(shop.tokenizer)))
    assert load_model(tmp_path / "run" / "model").tokenizer is not None


def test_several_files_of_rows(shop: TrainingFolder, tmp_path: Path) -> None:
    train("finetune", config(shop, tmp_path / "run", train=[str(shop.train), str(shop.validation)]))
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(("phase", "recipe"), [("finetune", "paper"), ("synthesize", "durable"), ("static", "plus")])
def test_a_recipe_of_another_phase_is_refused(shop: TrainingFolder, tmp_path: Path, phase: str, recipe: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        train(phase, config(shop, tmp_path / "run", recipe=recipe))
    assert not (tmp_path / "run").exists()


def test_devices() -> None:
    for name in ("auto", "cpu"):
        resolve_device(name)
    with pytest.raises(ValueError, match="allowed: auto, cpu, cuda"):
        resolve_device("gpu")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, {"set": {1}})
    assert json.loads(path.read_text()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_info_of_the_debug_size(capsys: pytest.CaptureFixture[str]) -> None:
    model = RWKV4(RWKV4_SIZES["debug"])
    model.reset_parameters(torch.Generator().manual_seed(0))
    assert info(ProSG(model)) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["hidden_size"] == "32" and lines["tokenizer"] == "none"
    assert lines["parameters"].startswith(f"{sum(p.numel() for p in model.parameters()):,} ")


def test_perplexity_needs_a_batch(shop: TrainingFolder) -> None:
    with pytest.raises(ValueError, match="batch-size is 0"):
        perplexity_of_file(load_model(shop.model), str(shop.validation), batch_size=0)


def test_a_curve_names_what_it_may_measure(shop: TrainingFolder, tmp_path: Path) -> None:
    model = load_model(shop.model)
    with pytest.raises(ValueError, match="own, other, mean, none, wiped"):
        curve_of_model(model, str(tmp_path / "x.json"), system="s", seed=0, updates=["nothing"])
    with pytest.raises(ValueError, match="no module"):
        curve_of_model(model, str(tmp_path / "x.json"), system="s", seed=0, updates=["own"])
    assert not list(tmp_path.iterdir())
