"""What a training would be: `prosg train ... --dry-run` counts, measures a few steps, and writes nothing."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from prosg.data.encode import EncodedRow
from prosg.model.memory import ADAMW, activation_bytes
from prosg.model.prosg import ProSG
from prosg.training.config import TrainConfig
from prosg.training.precision import settle_dtype
from prosg.training.setup import Phase, arguments_of, choose_trained
from prosg.training.trainer import ProSGTrainer, complete_checkpoints
from prosg.utils import distributed
from prosg.utils.tables import bytes_text, print_table

__all__ = ["dry_run", "rehearse"]

STEPS = 10
"""Steps that are measured."""


class _Clock(TrainerCallback):  # type: ignore[misc]
    """When the training began, and when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times = [time.perf_counter()]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())


def dry_run(
    model: ProSG,
    phase: Phase,
    config: TrainConfig,
    rows: list[EncodedRow],
    validation: list[EncodedRow],
    too_long: int,
) -> None:
    """Print what would be trained, on what, in how much memory and time. `model` is as `fit` would get it.

    Raises ValueError for what `fit` refuses.
    """
    choose_trained(model, phase, config)
    lines = list(_counted(model, phase, config, rows, validation, too_long))
    dtype, seconds = rehearse(model, config, rows)
    # The first step sets up what all others find there.
    typical = statistics.median(seconds[1:] or seconds)
    whole = _clock(typical * config.optim.steps)
    measured = f"{typical:.3g} s a step in {dtype} here, of {len(seconds)} taken"
    lines.append(("time", f"about {whole} without evaluations: {measured}"))
    if distributed.is_first():
        print_table(lines)


def rehearse(model: ProSG, config: TrainConfig, rows: list[EncodedRow]) -> tuple[str, list[float]]:
    """Train `model` for a few steps. Returns the arithmetic and each step's seconds; no file is left."""
    steps = min(STEPS, config.optim.steps)
    with tempfile.TemporaryDirectory() as folder:  # the Trainer makes a folder for what it does not write
        few = dataclasses.replace(config, output=folder, report_to="none", optim=_shortened(config, steps))
        dtype = settle_dtype(config.dtype, Path(folder), model)
        clock = _Clock()
        arguments = arguments_of(few, model, dtype, evaluate=False, save=False)
        trainer = ProSGTrainer(model, few, arguments, rows, [], [clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return dtype, [end - start for start, end in zip(clock.times, clock.times[1:], strict=False)]


def _shortened(config: TrainConfig, steps: int) -> Any:
    return dataclasses.replace(config.optim, steps=steps, warmup_steps=0)


def _counted(
    model: ProSG, phase: Phase, config: TrainConfig, rows: list[EncodedRow], validation: list[EncodedRow], too_long: int
) -> Iterator[tuple[str, str]]:
    """What is known before a step is taken."""
    backbone: Any = model.backbone
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    what = {"synthesize": "module", "static": "module", "state": "initial state"}.get(phase, "backbone")
    if model.synthesizer is not None:
        what += f" {model.synthesizer.config.preset}"
    if config.lora:
        what = f"LoRA of rank {config.lora}"
    yield "model", f"{config.model}, {backbone.config.model_type}, {total:,} parameters with what is trained"
    yield "trains", f"{what}, {trained:,} parameters ({trained / total:.1%}), recipe {config.recipe or 'none'}"
    cut = f"; {too_long} of more than {config.max_tokens} tokens {'cut' if config.truncate else 'left out'}"
    yield "rows", f"{len(rows):,}" + cut * (too_long > 0)
    tokens, longest = sum(row.tokens for row in rows), max(row.tokens for row in rows)
    answers = sum(len(row.answer) for row in rows)
    yield "tokens", f"{tokens:,}, {answers:,} of them in answers; the longest row has {longest:,}"
    yield "validation", f"{len(validation):,} rows, every {config.eval_steps} steps" if validation else "none"
    optim, processes = config.optim, distributed.size()
    size = min(optim.batch_size, len(rows))
    parts = f" in {optim.accumulation} parts" * (optim.accumulation > 1)
    shared = f" by {processes} processes" * (processes > 1)
    epochs = optim.steps * size / len(rows)
    read = round(epochs * tokens)
    yield "steps", f"{optim.steps:,} of {size} rows{parts}{shared}: {epochs:.3g} epochs, about {read:,} tokens"
    frozen = phase != "finetune"
    at_once = -(-size // (optim.accumulation * processes)) * longest
    kept = activation_bytes(backbone, frozen) * at_once
    weights = 4 * (total - trained) + ADAMW * trained
    fewer = " without checkpointing" * optim.checkpointing
    yield (
        "memory",
        f"about {bytes_text(weights + kept)} a process: {bytes_text(weights)}, and at most {bytes_text(kept)} of "
        f"activations in fp32{fewer}",
    )
    if checkpoints := complete_checkpoints(Path(config.output)):
        yield "goes on", f"from {checkpoints[-1]}"


def _clock(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
