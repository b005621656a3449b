"""A run goes on from the files that it began with, known by their content and not by their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from prosg.cli import main
from support.kills import assert_same_run, between_steps, run_killed
from support.training_folder import TrainingFolder


@pytest.fixture
def shop(folder: TrainingFolder, tmp_path: Path) -> TrainingFolder:
    """A copy that a test may change."""
    shutil.copytree(folder.folder, tmp_path / "shop")
    return TrainingFolder(tmp_path / "shop")


def change_rows(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text("".join([*lines[1:], lines[0]]), "utf-8")


def change_weights(shop: TrainingFolder) -> None:
    weights = load_file(shop.model / "model.safetensors")
    first = next(iter(weights))
    weights[first] = weights[first].clone()
    weights[first].view(-1)[1] += 1.0
    save_file(weights, shop.model / "model.safetensors", metadata={"format": "pt"})


def change_tokenizer(shop: TrainingFolder) -> None:
    file = shop.model / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8"))) + " ", "utf-8")


CHANGES: dict[str, Callable[[TrainingFolder], None]] = {
    "training rows": lambda shop: change_rows(shop.train),
    "validation rows": lambda shop: change_rows(shop.validation),
    "backbone": change_weights,
    "tokenizer": change_tokenizer,
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("finished", [False, True], ids=["stopped", "finished"])
def test_a_run_from_files_that_have_changed_is_refused(
    shop: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, finished: bool
) -> None:
    command = shop.command("finetune", tmp_path / "run", "--validation", shop.validation)
    if finished:
        assert main(command) == 0
    else:
        run_killed(command, between_steps())
    CHANGES[what](shop)
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and what in said and str(tmp_path / "run") in said


def test_validation_rows_that_are_left_out_later_are_a_change(
    shop: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_killed(shop.command("finetune", tmp_path / "run", "--validation", shop.validation), between_steps())
    assert main(shop.command("finetune", tmp_path / "run")) == 2
    assert "validation rows" in capsys.readouterr().err


def test_a_run_that_was_renamed_goes_on_and_so_does_one_from_copies(
    shop: TrainingFolder, tmp_path: Path, whole_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_killed(shop.command("synthesize", tmp_path / "run", "--recipe", "plus"), between_steps())
    (tmp_path / "run").rename(tmp_path / "renamed")
    shop.folder.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert main(TrainingFolder(Path("elsewhere")).command("synthesize", "renamed", "--recipe", "plus")) == 0
    assert_same_run(tmp_path / "renamed", whole_run("synthesize", "--recipe", "plus"))
    assert main(["info", "renamed"]) == 0


def test_other_options_are_named_with_both_values(
    shop: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shop.command("finetune", tmp_path / "run", "--optim.lr", 0.001)) == 0
    capsys.readouterr()
    assert main(shop.command("finetune", tmp_path / "run", "--optim.lr", 0.002, "--template", "world")) == 2
    told = capsys.readouterr().err
    assert "--optim.lr was 0.001, is 0.002 now; --template was not given, is world now. " in told
    assert told.count("\n") == 1 and "it goes on; to begin anew, choose another --out" in told
