"""Several processes train what one would: gloo on the CPU, over the same global batches."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

import prosg.training.trainer
from prosg.cli import main
from prosg.data.sampler import StepBatches
from prosg.training.trainer import ProSGTrainer, complete_checkpoints
from support.training_folder import Workshop, losses, make_workshop, steps


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("workshop"))


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


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(complete_checkpoints(output)[-1] / "weights.safetensors")


def assert_near_runs(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Losses, gradient norms, and what was trained."""
    assert losses(one) == pytest.approx(losses(other), rel=tolerance)
    norms = [[row["grad_norm"] for row in steps(run)] for run in (one, other)]
    assert norms[0] == pytest.approx(norms[1], rel=100 * tolerance)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


RUNS = {
    "finetune, aged": ("finetune", "--recipe", "durable"),
    "finetune, aged, accumulated": ("finetune", "--recipe", "durable", "--optim.accumulation", 2),
    "synthesize, wiped": ("synthesize", "--perturbation.load", 0, "--perturbation.load_story", 0),
    "state": ("state", "--perturbation.wipe_first", 0.5),
}


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_train_what_one_does(shop: Workshop, tmp_path: Path, run: str) -> None:
    phase, *options = RUNS[run]
    command = shop.command(phase, tmp_path / "two", *options)
    assert together(command, before=die_at(4)) == [signal.SIGKILL] * 2
    assert [path.name for path in complete_checkpoints(tmp_path / "two")] == ["checkpoint-3"]
    assert together(command) == [0, 0]
    shop.run(phase, tmp_path / "one", *options)
    assert len(steps(tmp_path / "two")) == 8
    assert_near_runs(tmp_path / "two", tmp_path / "one")
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


def test_each_process_has_a_bank_of_its_own(shop: Workshop, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = shop.command("synthesize", tmp_path / "killed", "--recipe", "plus", "--perturbation.swap", 0.5)
    assert together(command, before=die_at(4)) == [signal.SIGKILL] * 2
    assert main(command) == 2  # alone
    assert "written by 2 processes" in capfd.readouterr().err
    assert together(command) == [0, 0]
    whole = shop.command("synthesize", tmp_path / "whole", "--recipe", "plus", "--perturbation.swap", 0.5)
    assert together(whole) == [0, 0]
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")
    for name in ("bank.safetensors", "bank-1.safetensors"):
        ours, theirs = (load_file(complete_checkpoints(tmp_path / run)[-1] / name) for run in ("killed", "whole"))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    first = load_file(complete_checkpoints(tmp_path / "whole")[-1] / "bank.safetensors")
    assert any(not torch.equal(first[key], theirs[key]) for key in first)


def test_bf16_agrees(shop: Workshop, tmp_path: Path) -> None:
    assert together(shop.command("finetune", tmp_path / "two", "--dtype", "bf16")) == [0, 0]
    shop.run("finetune", tmp_path / "one", "--dtype", "bf16")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-2)


def test_the_validation_rows_stop_all_processes(shop: Workshop, tmp_path: Path) -> None:
    stop = ("--stop.metric", "perplexity", "--stop.value", 1e9, "--stop.times", 1, "--eval_steps", 2)
    command = shop.command("finetune", tmp_path / "run", "--validation", shop.validation, *stop)
    assert together(command) == [0, 0]
    assert len(steps(tmp_path / "run")) == 2


def shard(rank: int) -> None:
    """FSDP2 by Accelerate's own options. It offers that to accelerators alone, so the group passes for one of them."""
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}
    begin = PartialState.__init__

    def pass_for_an_accelerator(self: PartialState, *args: object, **kwargs: object) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = pass_for_an_accelerator
    put_together = prosg.train.put_together

    def watch(model: torch.nn.Module) -> None:
        assert isinstance(model, FSDPModule)
        put_together(model)

    prosg.train.put_together = watch


SHARDED = {
    "finetune, aged": ("finetune", "--recipe", "durable"),
    "synthesize, wiped and loaded": ("synthesize",),
}


@pytest.mark.parametrize("run", SHARDED)
def test_weights_may_be_shared_out(shop: Workshop, tmp_path: Path, run: str) -> None:
    phase, *options = SHARDED[run]

    def shard_and_die(rank: int) -> None:
        shard(rank)
        die_at(4)(rank)

    command = shop.command(phase, tmp_path / "sharded", *options, "--validation", shop.validation, "--eval_steps", 3)
    assert together(command, before=shard_and_die) == [signal.SIGKILL] * 2
    assert together(command, before=shard) == [0, 0]
    whole = shop.command(phase, tmp_path / "whole", *options, "--validation", shop.validation, "--eval_steps", 3)
    assert together(whole) == [0, 0]
    assert_near_runs(tmp_path / "sharded", tmp_path / "whole")
    made = "model/model.safetensors" if phase == "finetune" else "adapter/prosg_model.safetensors"
    ours, theirs = (load_file(tmp_path / name / made) for name in ("sharded", "whole"))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_launcher_s_processes_say_an_error_once(shop: Workshop, tmp_path: Path) -> None:
    command = shop.command("finetune", tmp_path / "run", "--optim.batch_size", 9)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "prosg"]
    ran = subprocess.run([sys.executable, *launcher, *command], capture_output=True, text=True, timeout=300)
    assert ran.returncode != 0
    assert ran.stderr.count("optim.batch_size is 9") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_out_a_step_s_rows(accumulation: int, processes: int) -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(103)]
    whole = list(StepBatches(lengths, 24, accumulation, 9, 3))
    shares = [list(StepBatches(lengths, 24, accumulation, 9, 3, process, processes)) for process in range(processes)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole
    assert {len(part) for share in shares for part in share} == {24 // accumulation // processes}
