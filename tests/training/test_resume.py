"""A run may be killed at any moment: resumed, it repeats an uninterrupted one to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import prosg.training.run
import prosg.training.run_checkpoints
from prosg.cli import main
from prosg.training.config import Optimisation, TrainConfig
from prosg.training.run import train
from prosg.training.run_checkpoints import STAGING, complete_checkpoints
from support.kills import Moment, assert_same_run, between_steps, inside_a_checkpoint, run_killed
from support.training_folder import TrainingFolder, step_lines

WholeRun = Callable[..., Path]
MIXED = ("--perturbation.swap", 0.5)
RUNS = {
    "finetune, durable, accumulated": ("finetune", "--recipe", "durable", "--optim.accumulation", 2),
    "synthesize, paper, swapped": ("synthesize", "--recipe", "paper", *MIXED),
    "synthesize, plus, accumulated": ("synthesize", "--recipe", "plus", "--optim.accumulation", 2, *MIXED),
    "static, durable": ("static", "--recipe", "static-durable"),
    "finetune, state passing": ("finetune", "--recipe", "state-passing"),
    "state, wiped and loaded": ("state", "--perturbation.wipe_first", 0.5, "--perturbation.load", 0.5),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_killed_run_repeats_an_uninterrupted_one(
    folder: TrainingFolder, whole_run: WholeRun, tmp_path: Path, run: str
) -> None:
    phase, *options = RUNS[run]
    command = folder.command(phase, tmp_path / "killed", *options)
    run_killed(command, between_steps())
    assert main(command) == 0
    whole = whole_run(phase, *options)
    assert len(step_lines(whole)) == 8
    assert_same_run(tmp_path / "killed", whole)


@pytest.mark.parametrize(
    ("phase", "recipe", "writer", "result"),
    [
        ("finetune", "durable", "save_backbone", "model/model.safetensors"),
        ("synthesize", "plus", "save_adapter", "adapter/prosg_model.safetensors"),
    ],
)
def test_killed_at_every_kind_of_moment(
    folder: TrainingFolder, whole_run: WholeRun, tmp_path: Path, phase: str, recipe: str, writer: str, result: str
) -> None:
    out = tmp_path / "killed"
    options = ("--recipe", recipe, "--validation", folder.validation, "--eval_steps", 3)
    command = folder.command(phase, out, *options)
    for moment in (
        inside_a_checkpoint(),  # the very first: nothing is complete yet
        Moment(Path, "rename", 1),  # written, not renamed
        Moment(prosg.training.run_checkpoints, "complete_checkpoints", 1),  # older checkpoints are to be removed
        between_steps(),
    ):
        run_killed(command, moment)
    junk = out / STAGING / "checkpoint-6"
    junk.mkdir(parents=True, exist_ok=True)
    (junk / "weights.safetensors").write_bytes(b"\0" * 9)
    with (out / "steps.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a line cut by the kill
    run_killed(command, Moment(prosg.training.run, writer))  # trained, but neither model nor result written
    run_killed(command, Moment(prosg.training.run, "write_json", 1))  # all but the result
    assert not (out / "result.json").exists()
    assert main(command) == 0
    whole = whole_run(phase, *options)
    assert_same_run(out, whole)
    assert (out / result).read_bytes() == (whole / result).read_bytes()
    ended, expected = (json.loads((path / "result.json").read_text()) for path in (out, whole))
    assert ended | {"seconds": 0} == expected | {"seconds": 0}


def test_a_process_of_its_own_may_be_killed(folder: TrainingFolder, tmp_path: Path, whole_run: WholeRun) -> None:
    command = folder.command("synthesize", tmp_path / "killed", "--recipe", "plus")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "prosg", *command], env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "killed" / STAGING / "checkpoint-3").exists():
        assert process.poll() is None, "it ended before the moment came"
        assert time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert main(command) == 0
    assert_same_run(tmp_path / "killed", whole_run("synthesize", "--recipe", "plus"))


def test_a_finished_run_is_not_run_again(
    folder: TrainingFolder, whole_run: WholeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    out = whole_run("finetune")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    folder.run("finetune", out)
    assert "already trained" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_the_two_newest_checkpoints_are_kept(whole_run: WholeRun) -> None:
    out = whole_run("finetune")
    assert [path.name for path in complete_checkpoints(out)] == ["checkpoint-6", "checkpoint-8"]
    assert not (out / STAGING).exists() and not any(out.rglob("*.tmp"))


def test_a_run_stopped_early_takes_no_further_step(folder: TrainingFolder, tmp_path: Path, whole_run: WholeRun) -> None:
    stop = ("--stop.metric", "perplexity", "--stop.value", 1e9, "--stop.times", 2, "--eval_steps", 2)
    options = ("--validation", folder.validation, *stop)
    command = folder.command("synthesize", tmp_path / "killed", *options)
    run_killed(command, Moment(prosg.training.run, "save_adapter"))
    assert main(command) == 0
    assert len(step_lines(tmp_path / "killed")) == 4
    result = json.loads((tmp_path / "killed" / "result.json").read_text())
    assert result["reached"] is True and result["steps"] == 4
    assert_same_run(tmp_path / "killed", whole_run("synthesize", *options))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "optimizer.pt is missing": lambda newest: (newest / "optimizer.pt").unlink(),
    "scheduler.pt is missing": lambda newest: (newest / "scheduler.pt").unlink(),
    "rng_state.pth is missing": lambda newest: (newest / "rng_state.pth").unlink(),
    "bank.safetensors is missing": lambda newest: (newest / "bank.safetensors").unlink(),
    "weights.safetensors is missing": lambda newest: (newest / "weights.safetensors").unlink(),
    "counters.json is not": lambda newest: (newest / "counters.json").write_text("{}"),
    "weights.safetensors is not": lambda newest: without_a_tensor(newest / "weights.safetensors"),
    "bank.safetensors is not": lambda newest: without_a_tensor(newest / "bank.safetensors"),
    "contents.json: not JSON": lambda newest: (newest / "contents.json").write_text("{"),
    "trainer_state.json is not": lambda newest: absurd_step(newest),
}
WITHOUT_A_RECORD: dict[str, Callable[[Path], object]] = {
    "optimizer.pt is missing": lambda newest: (newest / "optimizer.pt").unlink(),
    "other tensors than what trains": lambda newest: without_a_tensor(newest / "weights.safetensors"),
    "NaN or infinite": lambda newest: not_a_number(newest / "weights.safetensors"),
    "of step 1000": lambda newest: absurd_step(newest),
    "counters.json lacks": lambda newest: (newest / "counters.json").write_text("{}"),
    "optimizer.pt is truncated": lambda newest: truncate(newest / "optimizer.pt"),
    "bank.safetensors is truncated": lambda newest: truncate(newest / "bank.safetensors"),
}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def without_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file)


def not_a_number(file: Path) -> None:
    tensors = load_file(file)
    save_file({name: torch.full_like(tensor, float("nan")) for name, tensor in tensors.items()}, file)


def absurd_step(checkpoint: Path) -> None:
    file = checkpoint / "trainer_state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"global_step": 1000}))


@pytest.fixture(scope="module")
def stopped(folder: TrainingFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended after its last checkpoint, before its result was written; not to be changed."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    run_killed(folder.command("synthesize", out, "--recipe", "plus"), Moment(prosg.training.run, "save_adapter"))
    return out


@pytest.mark.parametrize(
    ("recorded", "damage"), [*((True, name) for name in DAMAGES), *((False, name) for name in WITHOUT_A_RECORD)]
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(
    folder: TrainingFolder,
    stopped: Path,
    whole_run: WholeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recorded: bool,
    damage: str,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    newest = complete_checkpoints(out)[-1]
    if not recorded:
        (newest / "contents.json").unlink()
    (DAMAGES if recorded else WITHOUT_A_RECORD)[damage](newest)
    capsys.readouterr()
    folder.run("synthesize", out, "--recipe", "plus")
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "set aside" in line]
    assert damage in said and "checkpoint-8: " in said and "checkpoint-6" in said
    assert_same_run(out, whole_run("synthesize", "--recipe", "plus"))
    assert [path.name for path in complete_checkpoints(out)] == ["checkpoint-6", "checkpoint-8"]


def test_a_run_whose_checkpoints_are_all_damaged_begins_again(
    folder: TrainingFolder, stopped: Path, whole_run: WholeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    for checkpoint in complete_checkpoints(out):
        (checkpoint / "optimizer.pt").unlink()
    folder.run("synthesize", out, "--recipe", "plus")
    assert "begins again" in capsys.readouterr().err
    assert_same_run(out, whole_run("synthesize", "--recipe", "plus"))


def test_a_checkpoint_without_a_record_is_taken_where_it_is_whole(
    folder: TrainingFolder, stopped: Path, whole_run: WholeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    for checkpoint in complete_checkpoints(out):
        (checkpoint / "contents.json").unlink()
    folder.run("synthesize", out, "--recipe", "plus")
    assert "set aside" not in capsys.readouterr().err
    assert_same_run(out, whole_run("synthesize", "--recipe", "plus"))


@pytest.mark.parametrize("lost", ["adapter", "result.json"])
def test_a_finished_run_that_lost_its_result_makes_it_again(
    folder: TrainingFolder, whole_run: WholeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    out, whole = tmp_path / "run", whole_run("synthesize", "--recipe", "plus")
    shutil.copytree(whole, out)
    if lost == "adapter":
        shutil.rmtree(out / lost)
    else:
        truncate(out / lost)
    capsys.readouterr()
    folder.run("synthesize", out, "--recipe", "plus")
    assert f"{out / lost}: " in capsys.readouterr().err.splitlines()[0]
    assert json.loads((out / "result.json").read_text())["steps"] == 8
    weights = "adapter/prosg_model.safetensors"
    assert (out / weights).read_bytes() == (whole / weights).read_bytes()


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("config.json", "optim", 5, "config.json: damaged (optim is a int, not an object)"),
        ("config.json", "module", {"reads": 5}, "config.json: damaged ("),
        ("dtype", "", "bf17", "dtype: holds 'bf17', must hold fp32 or bf16"),
        ("dtype", "", "fp32\n", ""),
        ("result.json", "files", 3, "result.json: files is a int, not a list; it is made again"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    folder: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, key: str, value: Any,
    words: str,
) -> None:  # fmt: skip
    out, options = tmp_path / "run", ("--dtype", "auto", "--optim.steps", 1)
    folder.run("state", out, *options)
    if key:
        (out / name).write_text(json.dumps(json.loads((out / name).read_text()) | {key: value}))
    else:
        (out / name).write_text(value)
        (out / "result.json").unlink()
    capsys.readouterr()
    again = name == "result.json" or not words
    assert main(folder.command("state", out, *options)) == (0 if again else 2)
    assert words in capsys.readouterr().err


def test_a_log_of_steps_that_was_cut_is_said(
    folder: TrainingFolder, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    lines = (out / "steps.jsonl").read_text().splitlines()
    (out / "steps.jsonl").write_text("\n".join(lines[:2] + lines[5:]))  # the last line without its newline
    folder.run("synthesize", out, "--recipe", "plus")
    assert "steps.jsonl: lacks 3 of the first 8 steps" in capsys.readouterr().err
    assert [line["step"] for line in step_lines(out)] == [1, 2, 6, 7, 8]


def test_a_run_resumes_under_a_version_with_more_options(folder: TrainingFolder, tmp_path: Path) -> None:
    config = TrainConfig(str(folder.model), str(folder.train), str(tmp_path), optim=Optimisation(steps=1, batch_size=8))
    stored = json.loads(json.dumps(asdict(config)))
    del stored["template"], stored["optim"]["clip"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="--template was not given, is pile now"):
        train("finetune", replace(config, template="pile"))
    assert train("finetune", config) == 0
