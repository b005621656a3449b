"""Trains a model in place: the steps of a run around its trainer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from prosg.data.encode import EncodedRow
from prosg.model.prosg import ProSG
from prosg.training.callbacks import EarlyStopping, NoiseWarning, ProgressReporter, StepLog
from prosg.training.config import Phase, TrainConfig
from prosg.training.damage import set_damaged_aside
from prosg.training.display import TrainingDisplay
from prosg.training.precision import narrowed, resolve_dtype
from prosg.training.run_checkpoints import complete_checkpoints, remove_staging
from prosg.training.setup import check, prepare, training_arguments
from prosg.training.sharding import gather_weights
from prosg.training.trainer import ProSGTrainer
from prosg.utils import distributed
from prosg.utils.allocation import keep_freed_memory
from prosg.utils.progress import say
from prosg.utils.write_errors import full_disk_errors

__all__ = ["TrainResult", "fit"]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        steps: Optimiser steps taken.
        seconds: Time spent training, over all starts of the run.
        skipped: Steps skipped because their gradient exploded.
        reached: Whether the stop rule's value was reached; None without such a rule.
        metrics: The last evaluation's, named eval_*.
        dtype: fp32 or bf16.
    """

    steps: int
    seconds: float
    skipped: int
    reached: bool | None
    metrics: dict[str, float]
    dtype: str


def fit(
    model: ProSG,
    phase: Phase,
    config: TrainConfig,
    rows: Sequence[EncodedRow],
    validation: Sequence[EncodedRow],
    report: Callable[[int, dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Trains a model in place, resuming from the newest whole checkpoint in `config.out`, if there is one.

    Args:
        model: With a module for synthesize and static, with an initial state for state, else the bare backbone.
        phase: What is trained.
        config: The run's options; `config.out` gets checkpoints and logs.
        rows: Training rows.
        validation: Rows that evaluations score; may be empty.
        report: Called with the step and the newest metrics every few steps.

    Raises:
        ValueError: for what `check` refuses, and for a training that diverges.
    """
    check(model, phase, config, rows, validation)
    prepare(model, phase, config)
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = resolve_dtype(config.dtype, folder, model)
    arguments = training_arguments(config, model, dtype, evaluate=bool(validation))
    trainer = ProSGTrainer(model, config, arguments, rows, validation)
    stopping = EarlyStopping(config.stop)
    if distributed.is_first():
        say(_begins(model, config, dtype))
        trainer.add_callback(NoiseWarning())
        bar = config.progress and sys.stderr.isatty()
        trainer.add_callback(TrainingDisplay(trainer.count_tokens, lambda: trainer.spikes.skipped, bar=bar))
    trainer.add_callback(StepLog(folder / "steps.jsonl", trainer.step_metrics))
    trainer.add_callback(stopping)
    if report is not None and distributed.is_first():
        trainer.add_callback(ProgressReporter(report))
    keep_freed_memory(of_any_size=True)
    # Of sharded weights all have to be of one type.
    with full_disk_errors(folder), narrowed(model.backbone, dtype if distributed.size() == 1 else "fp32"):
        _train_or_resume(trainer, folder, stopping)
    trainer.spikes.check_end(trainer.state.global_step)
    distributed.barrier()  # at its end transformers' Trainer lists the folder that is removed next
    if distributed.is_first():
        remove_staging(folder)
    gather_weights(model)
    model.eval()
    history = trainer.state.log_history
    evaluations = ({name: row[name] for name in row if name.startswith("eval_")} for row in reversed(history))
    return TrainResult(
        steps=trainer.state.global_step,
        seconds=trainer.seconds,
        skipped=trainer.spikes.skipped,
        reached=stopping.has_reached(history) if config.stop.times else None,
        metrics=next(filter(None, evaluations), {}),
        dtype=dtype,
    )


def _begins(model: ProSG, config: TrainConfig, dtype: str) -> str:
    """What a run's first line says."""
    trained, total = (sum(p.numel() for p in model.parameters() if p.requires_grad or whole) for whole in (False, True))
    return (
        f"training {trained:,} of {total:,} parameters on {model.device}, {dtype}: {config.optim.steps:,} steps of "
        f"{config.optim.batch_size} rows"
    )


def _train_or_resume(trainer: ProSGTrainer, folder: Path, stopping: EarlyStopping) -> None:
    """Trains from the newest whole checkpoint or from the start; a run that was stopped early takes no further step."""
    if distributed.is_first():
        trained = {name: p.shape for name, p in trainer.model.named_parameters() if p.requires_grad}
        set_damaged_aside(complete_checkpoints(folder), trained)
    distributed.barrier()
    checkpoints = complete_checkpoints(folder)
    if not checkpoints:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoints[-1] / TRAINER_STATE_NAME))
    distributed.print_once(f"{checkpoints[-1]}: goes on from here, step {state.global_step}")
    if stopping.has_ended(state.log_history):
        trainer._load_from_checkpoint(str(checkpoints[-1]))
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=str(checkpoints[-1]))
