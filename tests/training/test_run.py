"""Training from files to files, called from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prosg.checkpoints.fingerprints import checkpoint_fingerprint
from prosg.checkpoints.load import load_model
from prosg.training.config import Optimisation, TrainConfig
from prosg.training.run import train
from support.training_folder import TrainingFolder, make_training_folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    return make_training_folder(tmp_path_factory.mktemp("workshop"))


def config(shop: TrainingFolder, output: Path, **changes: object) -> TrainConfig:
    values = {"model": str(shop.model), "train": str(shop.train), "out": str(output)}
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
