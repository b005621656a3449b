"""Checkpoints of a run: complete at any moment, and holding only what trains.

    checkpoint-N/weights.safetensors                      the parameters that train
    checkpoint-N/counters.json, bank*.safetensors         written by `ProSGTrainer`
    checkpoint-N/optimizer.pt, scheduler.pt, ...          written by transformers' Trainer
    checkpoint-N/contents.json                            the hash of each file, written last

A checkpoint is written into a staging folder and renamed, so that a kill at any moment leaves only complete ones. What
happens to one later shows in its hashes (`prosg.training.damage`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from prosg.training.damage import WEIGHTS
from prosg.training.sharding import (
    is_sharded,
    load_optimizer,
    load_weights,
    optimizer_state,
    register_methods,
    trained_weights,
)
from prosg.utils import distributed
from prosg.utils.contents import record_contents
from prosg.utils.locks import check_locks
from prosg.utils.staging import sync, sync_names
from prosg.utils.write_errors import write_errors

__all__ = ["CheckpointingTrainer", "complete_checkpoints", "remove_staging"]

STAGING = ".writing"
NEWEST = 2
"""Complete checkpoints that are kept."""


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a run's folder, oldest first."""
    paths = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(paths, key=lambda path: int(path.name.rpartition("-")[2]))


def remove_staging(folder: Path) -> None:
    """Removes what a killed run left half written in its folder."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)


class CheckpointingTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with the checkpoints that this module describes; weights may be sharded (FSDP2)."""

    def _get_output_dir(self, trial: Any) -> str:
        return os.path.join(super()._get_output_dir(trial), STAGING)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        if (folder / name).exists():  # an early stop saves at a step that may have been saved already
            return
        if distributed.is_first():
            check_locks()
            remove_staging(folder)
        distributed.barrier()
        try:
            with write_errors(folder):
                super()._save_checkpoint(model, trial)
        except BaseException:
            if distributed.is_first():
                remove_staging(folder)
            raise
        distributed.barrier()
        if distributed.is_first():
            record_contents(folder / STAGING / name)
            check_locks()
            sync(folder / STAGING / name)
            (folder / STAGING / name).rename(folder / name)
            sync_names(folder)
            for old in complete_checkpoints(folder)[:-NEWEST]:
                removed = folder / STAGING / old.name  # so that a kill leaves no checkpoint that lacks files
                old.rename(removed)
                shutil.rmtree(removed)
        distributed.barrier()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves what trains, also where weights are sharded, for which the Trainer has files of its own."""
        self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        weights = trained_weights(self.model)
        if distributed.is_first():
            save_file(weights, Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.model, load_file(Path(resume_from_checkpoint) / WEIGHTS))

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if is_sharded(self.model):
            register_methods(self.model)
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer = optimizer_state(self.model, self.optimizer)
        if distributed.is_first():
            torch.save(optimizer, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not is_sharded(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert checkpoint is not None
        optimizer, scheduler = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        load_optimizer(self.model, self.optimizer, optimizer)
        self.lr_scheduler.load_state_dict(scheduler)
