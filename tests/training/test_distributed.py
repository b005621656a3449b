"""Several processes train what one would: gloo on the CPU, over the same global batches."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

import prosg.training.fit
import prosg.training.run
from prosg.cli import main
from prosg.training.trainer import ProSGTrainer
from support.training_folder import TrainingFolder, checkpointed, losses, newest_checkpoint, step_lines

WholeRun = Callable[..., Path]
DURABLE = ("--recipe", "durable")
LOADED = ("--recipe", "plus", "--perturbation.swap", 0.5)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def together(command: list[str], processes: int = 2, before: Callable[[int], None] = lambda rank: None) -> list[int]:
    """Run a command in forked processes of one group, as a launcher would; returns their exit statuses."""
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "OMP_NUM_THREADS": 1, "MASTER_PORT": free_port()}
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            status = 99
            try:
                os.environ |= {name: str(value) for name, value in shared.items()}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
                AcceleratorState._reset_state()  # what the tests before left in this process
                PartialState._reset_state()
                before(rank)
                status = main(command)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children]


def die_at(step: int) -> Callable[[int], None]:
    """Each process ends by SIGKILL in this step."""

    def arm(rank: int) -> None:
        clip = ProSGTrainer._clip_grad_norm

        def dying(self: ProSGTrainer, model: torch.nn.Module) -> torch.Tensor:
            if self.state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return clip(self, model)

        ProSGTrainer._clip_grad_norm = dying  # type: ignore[method-assign]

    return arm


def assert_near_runs(one: Path, other: Path, tolerance: float = 3e-5) -> None:
    """Losses, gradient norms, and what was trained."""
    assert losses(one) == pytest.approx(losses(other), rel=tolerance)
    norms = [[row["grad_norm"] for row in step_lines(run)] for run in (one, other)]
    # A step whose gradients nearly cancel has a norm that hangs on the order of sums, which differs by the processor.
    assert norms[0] == pytest.approx(norms[1], rel=2000 * tolerance)
    ours, theirs = checkpointed(one), checkpointed(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-3)


def test_two_processes_train_what_one_does_and_resume(
    folder: TrainingFolder, tmp_path: Path, whole_run: WholeRun
) -> None:
    options = ("--recipe", "durable", "--optim.accumulation", 2)
    command = folder.command("finetune", tmp_path / "two", *options)
    assert together(command, before=die_at(4)) == [signal.SIGKILL] * 2
    assert newest_checkpoint(tmp_path / "two").name == "checkpoint-3"
    assert together(command) == [0, 0]
    one = whole_run("finetune", *options)
    assert len(step_lines(tmp_path / "two")) == 8
    assert_near_runs(tmp_path / "two", one)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in one.iterdir()}


@pytest.mark.parametrize(
    ("phase", "options"),
    [
        ("synthesize", ("--perturbation.load", 0, "--perturbation.load_story", 0)),  # wiped
        ("state", ("--perturbation.wipe_first", 0.5)),
    ],
)
def test_two_processes_train_what_one_does_on_a_frozen_backbone(
    folder: TrainingFolder, tmp_path: Path, whole_run: WholeRun, phase: str, options: tuple[object, ...]
) -> None:
    assert together(folder.command(phase, tmp_path / "two", *options)) == [0, 0]
    assert_near_runs(tmp_path / "two", whole_run(phase, *options))


@pytest.fixture(scope="module")
def loaded(folder: TrainingFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, each with a bank of its own."""
    out = tmp_path_factory.mktemp("loaded") / "run"
    assert together(folder.command("synthesize", out, *LOADED)) == [0, 0]
    return out


def test_each_process_has_a_bank_of_its_own(
    folder: TrainingFolder, tmp_path: Path, loaded: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = folder.command("synthesize", tmp_path / "killed", *LOADED)
    assert together(command, before=die_at(4)) == [signal.SIGKILL] * 2
    assert main(command) == 2  # alone
    assert "written by 2 processes" in capfd.readouterr().err
    assert together(command) == [0, 0]
    assert step_lines(tmp_path / "killed") == step_lines(loaded)
    banks = [checkpointed(loaded, name) for name in ("bank.safetensors", "bank-1.safetensors")]
    for bank, name in zip(banks, ("bank.safetensors", "bank-1.safetensors"), strict=True):
        resumed = checkpointed(tmp_path / "killed", name)
        assert all(torch.equal(resumed[key], bank[key]) for key in bank)
    assert any(not torch.equal(banks[0][key], banks[1][key]) for key in banks[0])


def test_bf16_agrees(folder: TrainingFolder, tmp_path: Path, whole_run: WholeRun) -> None:
    assert together(folder.command("finetune", tmp_path / "two", "--dtype", "bf16")) == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(whole_run("finetune", "--dtype", "bf16")), rel=1e-2)


def test_the_stop_rule_stops_all_processes(folder: TrainingFolder, tmp_path: Path) -> None:
    stop = ("--stop.metric", "perplexity", "--stop.value", 1e9, "--stop.times", 1, "--eval_steps", 2)
    command = folder.command("finetune", tmp_path / "run", "--validation", folder.validation, *stop)
    assert together(command) == [0, 0]
    assert len(step_lines(tmp_path / "run")) == 2


def shard(rank: int) -> None:
    """FSDP2 by Accelerate's own options, which offers it to accelerators alone, so the group poses as one of them."""
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}
    begin = PartialState.__init__

    def pose_as_an_accelerator(self: PartialState, *args: object, **kwargs: object) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = pose_as_an_accelerator
    gather_weights = prosg.training.fit.gather_weights

    def watch(model: torch.nn.Module) -> None:
        assert isinstance(model, FSDPModule)
        gather_weights(model)

    prosg.training.fit.gather_weights = watch


def shard_and_die(rank: int) -> None:
    shard(rank)
    die_at(4)(rank)


@pytest.mark.parametrize("phase", ["finetune", "synthesize"])
def test_weights_may_be_sharded(
    folder: TrainingFolder, tmp_path: Path, whole_run: WholeRun, loaded: Path, phase: str
) -> None:
    options, whole, result = {
        "finetune": (DURABLE, whole_run("finetune", *DURABLE, *evaluated(folder)), "model/model.safetensors"),
        "synthesize": (LOADED, loaded, "adapter/prosg_model.safetensors"),
    }[phase]
    command = folder.command(phase, tmp_path / "sharded", *options, *evaluated(folder))
    assert together(command, before=shard_and_die) == [signal.SIGKILL] * 2
    assert together(command, before=shard) == [0, 0]
    assert_near_runs(tmp_path / "sharded", whole)
    ours, theirs = (load_file(path / result) for path in (tmp_path / "sharded", whole))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-3)


def evaluated(folder: TrainingFolder) -> tuple[object, ...]:
    return ("--validation", folder.validation, "--eval_steps", 3)


def patient(rank: int) -> None:
    """The first process takes longer over its prompts than PyTorch waits for one by default."""
    import torch.distributed.distributed_c10d as group

    group.default_pg_timeout = timedelta(seconds=3)
    prosg.training.run._learn_prompts = lambda *_: time.sleep(6)


def test_the_others_wait_for_what_the_first_does_alone(folder: TrainingFolder, tmp_path: Path) -> None:
    command = folder.command("synthesize", tmp_path / "run", "--recipe", "plus-transformers")
    assert together(command, before=patient) == [0, 0]


@pytest.mark.slow
def test_a_launchers_processes_report_an_error_once(folder: TrainingFolder, tmp_path: Path) -> None:
    command = folder.command("finetune", tmp_path / "run", "--train", tmp_path / "missing.jsonl")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "prosg"]
    ran = subprocess.run([sys.executable, *launcher, *command], capture_output=True, text=True, timeout=300)
    assert ran.returncode != 0
    assert ran.stderr.count("missing.jsonl") == 1
    assert not (tmp_path / "run").exists()
