"""`prosg train ... --dry-run`: counts rows and parameters, measures a few steps, and writes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prosg.data.encode import EncodedRow
from prosg.data.joined import answer_tokens, row_lengths, sample_rows
from prosg.model.memory import ADAMW_BYTES, activation_bytes
from prosg.model.prosg import ProSG
from prosg.training.config import Phase, TrainConfig
from prosg.training.known_prompts import reading_time
from prosg.training.precision import narrowed, resolve_dtype
from prosg.training.run_checkpoints import complete_checkpoints
from prosg.training.setup import prepare, training_arguments
from prosg.training.trainer import ProSGTrainer
from prosg.utils import distributed
from prosg.utils.tables import bytes_text, duration_text, print_table

__all__ = ["dry_run", "rehearse"]

STEPS = 10
"""Steps that are measured."""


class _StepTimes(TrainerCallback):  # type: ignore[misc]
    """Records when the training began and when each step ended."""

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
    rows: Sequence[EncodedRow],
    validation: Sequence[EncodedRow],
    too_long: int,
) -> None:
    """Prints what would be trained, on what, in how much memory and time. Trains `model` for a few steps.

    Args:
        model: As `fit` would get it, already checked.
        phase: What would be trained.
        config: The run's options.
        rows: Training rows.
        validation: Validation rows.
        too_long: Number of training rows that were longer than `config.max_tokens`.
    """
    prepare(model, phase, config)
    lines = list(_describe(model, phase, config, rows, validation, too_long))
    dtype, seconds = rehearse(model, config, rows)
    typical = statistics.median(seconds[1:] or seconds)  # the first step sets up what all others reuse
    total = duration_text(typical * config.optim.steps)
    measured = f"{typical:.3g} s a step in {dtype} here, of {len(seconds)} taken"
    lines.append(("time", f"about {total} without evaluations: {measured}"))
    if phase == "synthesize" and config.known < 1:
        prompts, reading = reading_time(model, rows)
        if prompts:
            lines.append(
                ("known", f"{prompts:,} prompts are read at the end, about {duration_text(reading)} (--known 1: none)")
            )
    if distributed.is_first():
        print_table(lines)


def rehearse(model: ProSG, config: TrainConfig, rows: Sequence[EncodedRow]) -> tuple[str, list[float]]:
    """Trains a model for at most `STEPS` steps and leaves no file.

    Returns:
        The arithmetic, fp32 or bf16, and each step's seconds.
    """
    optim = dataclasses.replace(config.optim, steps=min(STEPS, config.optim.steps), warmup_steps=0)
    with tempfile.TemporaryDirectory() as folder:  # the Trainer makes its output folder even where it writes nothing
        short = dataclasses.replace(config, out=folder, report_to="none", optim=optim, cache_taps="")
        dtype = resolve_dtype(config.dtype, Path(folder), model)
        arguments = training_arguments(short, model, dtype, evaluate=False, save=False)
        trainer = ProSGTrainer(model, short, arguments, rows, [])
        clock = _StepTimes()
        trainer.add_callback(clock)
        with narrowed(model.backbone, dtype):
            trainer.train()
    return dtype, [end - start for start, end in itertools.pairwise(clock.times)]


def _describe(
    model: ProSG,
    phase: Phase,
    config: TrainConfig,
    rows: Sequence[EncodedRow],
    validation: Sequence[EncodedRow],
    too_long: int,
) -> Iterator[tuple[str, str]]:
    """Lines of the table that need no step to be taken."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    what = {"finetune": "backbone", "state": "initial state", "anchor": "anchor's windows"}.get(phase, "module")
    if model.prosg_config is not None:
        what += f" {model.prosg_config.preset}"
    if config.lora:
        what = f"LoRA of rank {config.lora}"
    yield "model", f"{config.model}, {model.backbone.config.model_type}, {total:,} parameters with what is trained"
    yield "trains", f"{what}, {trained:,} parameters ({trained / total:.1%}), recipe {config.recipe or 'none'}"
    cut = f"; {too_long} of more than {config.max_tokens} tokens {'cut' if config.truncate else 'left out'}"
    yield "rows", f"{len(rows):,}" + cut * (too_long > 0)
    counts = Counter(row.template or "plain text" for row in sample_rows(rows))
    yield "template", ", ".join(name if len(counts) == 1 else f"{name} {n}" for name, n in counts.most_common())
    lengths = row_lengths(rows)
    tokens, longest = sum(lengths), max(lengths)
    answers = answer_tokens(rows)
    yield "tokens", f"{tokens:,}, {answers:,} of them in answers; the longest row has {longest:,}"
    yield "validation", f"{len(validation):,} rows, every {config.eval_steps} steps" if validation else "none"
    optim, processes = config.optim, distributed.size()
    batch = min(optim.batch_size, len(rows))
    parts = f" in {optim.accumulation} parts" * (optim.accumulation > 1)
    shared = f" by {processes} processes" * (processes > 1)
    epochs = optim.epochs(len(rows))
    epochs_text = f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"
    yield (
        "steps",
        f"{optim.steps:,}, each of {batch} rows{parts}{shared}: {epochs_text} epochs, about {epochs * tokens:,.0f} "
        "tokens",
    )
    micro_batch = math.ceil(batch / (optim.accumulation * processes))
    activations = activation_bytes(model.backbone, frozen=phase != "finetune") * micro_batch * longest
    weights = 4 * (total - trained) + ADAMW_BYTES * trained
    without = " without checkpointing" * optim.checkpointing
    yield (
        "memory",
        f"about {bytes_text(weights + activations)} a process: {bytes_text(weights)}, and at most "
        f"{bytes_text(activations)} of activations in fp32{without}",
    )
    if checkpoints := complete_checkpoints(Path(config.out)):
        yield "goes on", f"from {checkpoints[-1]}"
