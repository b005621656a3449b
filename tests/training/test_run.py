"""Training from files to files, called from Python."""

from __future__ import annotations

import errno
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prosg.checkpoints.fingerprints import checkpoint_fingerprint
from prosg.checkpoints.load import load_model
from prosg.cli import main
from prosg.data.row import read_rows
from prosg.model.config import PRESETS
from prosg.tokenizers.files import load_tokenizer
from prosg.training.config import Optimisation, TrainConfig
from prosg.training.recipes import train_config
from prosg.training.run import train
from prosg.training.run_checkpoints import STAGING
from prosg.training.trainer import ProSGTrainer
from support.binidx import write_binidx
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


def test_training_on_binidx_data(shop: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_tokenizer(shop.tokenizer)
    texts = [f"User: {row.prompt}\n\nAssistant: {row.answer}" for row in read_rows(shop.train)]
    write_binidx(tmp_path / "data", [[[*tokenizer.encode(text), 0]] for text in texts])
    data, run = str(tmp_path / "data"), tmp_path / "run"
    both = config(shop, run, train=[data, str(shop.train)], validation=f"{data}.idx")
    assert train("synthesize", both, dry_run=True) == 0
    assert re.search(rf"rows +{2 * len(texts)}\b", capsys.readouterr().out)
    assert train("synthesize", both) == 0
    record = json.loads((run / "inputs.json").read_text())
    assert len(record["train"]) == 3 and len(record["validation"]) == 2
    with (tmp_path / "data.bin").open("ab") as file:
        file.write(b"\0\0")
    (run / "result.json").unlink()
    with pytest.raises(ValueError, match="training rows .* changed since it began"):
        train("synthesize", both)


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


def test_a_recipe_in_python_is_looked_up(shop: TrainingFolder, tmp_path: Path) -> None:
    named = {"model": str(shop.model), "train": str(shop.train), "out": str(tmp_path / "run")}
    made = train_config("synthesize", recipe="paper", optim={"steps": 2}, **named)
    assert made.module == PRESETS["paper"] and made.optim == Optimisation(steps=2, lr=1e-3, late_weight=1.0)
    assert train_config("finetune", **named).recipe == "plain"
    with pytest.raises(ValueError, match=r"recipe is 'paper', but nothing of it .* prosg.train_config"):
        train("synthesize", TrainConfig(recipe="paper", **named))
    for phase, options, words in (
        ("finetun", named, "phase has finetun, did you mean finetune"),
        ("static", {**named, "lora": 2}, "unknown key lora"),
        ("static", {"model": "x"}, "train, out: missing"),
    ):
        with pytest.raises(ValueError, match=words):
            inspect.unwrap(train_config)(phase, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out": ""}, "out is empty; it names a folder"),
        ({"train": ["x", ""]}, "train is empty"),
        ({"out": "caf\udce9"}, "out is .* not UTF-8"),
        ({"train": "a\0b"}, "train: .* no NUL"),
    ],
)
def test_names_and_groups_are_what_they_must_be(
    shop: TrainingFolder, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        train("finetune", config(shop, tmp_path / "run", **changes))


def test_what_train_config_would_not_let_through(shop: TrainingFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"init is 'module', must be empty for finetune; it is for synthesize"):
        train("finetune", config(shop, tmp_path / "run", init="module"))
    with pytest.raises(ValueError, match=r"config is a dict; .* prosg.train_config"):
        inspect.unwrap(train)("finetune", {"model": "x"})  # type: ignore[arg-type]


def test_a_logger_that_finds_the_disk_full(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def log(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ProSGTrainer, "log", log)
    assert main(folder.command("synthesize", tmp_path / "run", "--log-steps", 1)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'run'}: cannot be written (No space left") and "make room" in last


def test_a_run_without_its_configuration_is_not_gone_on_with(shop: TrainingFolder, tmp_path: Path) -> None:
    train("state", config(shop, tmp_path / "run"))
    written = json.loads((tmp_path / "run" / "result.json").read_text())["files"]
    assert written == ["state.pth"]
    for name in ("config.json", "result.json"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(ValueError, match=r"run: has checkpoints, but no config.json"):
        train("state", config(shop, tmp_path / "run"))


@pytest.mark.parametrize("name", ["model", "steps.jsonl", "result.json"])
def test_what_lies_under_the_names_of_a_run_is_not_replaced(shop: TrainingFolder, tmp_path: Path, name: str) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    if name == "model":
        shutil.copytree(shop.model, out / name)
    else:
        (out / name).write_text('{"mine": 1}\n')
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"mine: has {name}, which a run would replace"):
        train("finetune", config(shop, out, model=str(out / "model") if name == "model" else str(shop.model)))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


HELD = "import sys; from pathlib import Path; from prosg.utils.locks import locked\n"
HELD += "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.readline()"


def test_a_second_training_in_the_same_folder_is_refused(
    folder: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = folder.command("synthesize", tmp_path / "run")
    first = subprocess.Popen(
        [sys.executable, "-c", HELD, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout is not None and first.stdout.readline() == b"locked\n"
    (tmp_path / "run" / ".lock").unlink()
    assert main(command) == 2
    assert str(tmp_path / "run") in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    first.communicate(b"\n")
    assert main(command) == 0


def test_a_training_whose_folder_is_deleted_ends_and_writes_nothing_more(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    clip = ProSGTrainer._clip_grad_norm

    def deleting(*arguments: Any, **options: Any) -> Any:
        shutil.rmtree(out, ignore_errors=True)
        return clip(*arguments, **options)

    monkeypatch.setattr(ProSGTrainer, "_clip_grad_norm", deleting)
    assert main(folder.command("synthesize", out)) == 2
    assert "was deleted" in capsys.readouterr().err and not list(out.rglob("*.safetensors"))


def test_a_run_under_the_home_folder_is_one_run(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.yaml").write_text("out: ~/run\n")
    command = folder.command("synthesize", "unused")
    place = command.index("--output")
    command[place : place + 2] = ["--config", "~/more.yaml"]
    assert main(command) == 0
    assert (tmp_path / "run" / "result.json").exists() and (tmp_path / "run" / "checkpoint-8").exists()
    assert not (tmp_path / "~").exists()


def test_an_adapter_finds_its_backbone_from_behind_a_link(folder: TrainingFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere" / "deep")
    folder.run("synthesize", tmp_path / "run")
    assert load_model(tmp_path / "run").synthesizer is not None
    assert load_model(tmp_path / "elsewhere" / "deep" / "adapter").synthesizer is not None


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_half_written(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = folder.command("synthesize", tmp_path / "run")

    def full(*_: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    with monkeypatch.context() as patch:
        patch.setattr(ProSGTrainer, "_save_optimizer_and_scheduler", full)
        assert main(command) == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'run'}: cannot be written") and "make room" in last
    assert not (tmp_path / "run" / STAGING).exists()
    assert main(command) == 0
