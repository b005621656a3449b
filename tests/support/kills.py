"""Processes that are killed in the middle of a training, and the comparison of a resumed run with a whole one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prosg.cli import main
from prosg.training.trainer import ProSGTrainer
from support.training_folder import checkpointed, newest_checkpoint, step_lines


class Moment:
    """The n-th call of a function: there the process ends by SIGKILL."""

    def __init__(self, owner: Any, name: str, nth: int = 1) -> None:
        self.owner, self.name, self.left = owner, name, nth

    def arm(self) -> None:
        original: Callable[..., Any] = getattr(self.owner, self.name)

        def dying(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(self.owner, self.name, dying)


def between_steps() -> Moment:
    return Moment(ProSGTrainer, "_clip_grad_norm", 5)


def inside_a_checkpoint() -> Moment:
    """The weights are written, the optimiser's state is not."""
    return Moment(ProSGTrainer, "_save_optimizer_and_scheduler", 1)


def run_killed(command: list[str], moment: Moment) -> None:
    """Runs a command in a forked process that is killed at this moment."""
    child = os.fork()
    if child == 0:
        moment.arm()
        try:
            main(command)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "it ended before the moment came"


def assert_same_run(one: Path, other: Path) -> None:
    """Every step's loss and gradient norm, the counters, the bank and the weights, to the last bit."""
    assert step_lines(one) == step_lines(other)
    assert _counters(one) == _counters(other)
    for file in ("weights.safetensors", "bank.safetensors"):
        ours, theirs = checkpointed(one, file), checkpointed(other, file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _counters(output: Path) -> dict[str, float]:
    counters: dict[str, float] = json.loads((newest_checkpoint(output) / "counters.json").read_text())
    return {name: value for name, value in counters.items() if name != "seconds"}
