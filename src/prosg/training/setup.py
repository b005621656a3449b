"""What is settled before a training's first step: that it can be, what has gradients, the Trainer's own options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from prosg.backbones.native import Native
from prosg.data.encode import EncodedRow
from prosg.model.prosg import ProSG
from prosg.training.config import TrainConfig
from prosg.training.lora import is_lora
from prosg.utils import distributed

__all__ = ["Phase", "arguments_of", "check", "choose_trained"]

Phase = Literal["finetune", "synthesize", "static", "state"]


def check(
    model: ProSG, phase: Phase, config: TrainConfig, rows: Sequence[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    """ValueError for a phase that does not fit the model, and for rows that cannot be trained or judged on."""
    bare = phase in ("finetune", "state")
    if (model.synthesizer is None) != bare:
        raise ValueError(f"phase {phase} needs a model {'without' if bare else 'with'} a module")
    if (model.initial is not None) != (phase == "state"):
        raise ValueError(f"phase {phase} needs a model {'with' if phase == 'state' else 'without'} an initial state")
    if model.synthesizer is not None and (model.synthesizer.config.reads == "nothing") != (phase == "static"):
        allowed = "nothing" if phase == "static" else "last_input, last_position or all_positions"
        raise ValueError(f"module.reads is {model.synthesizer.config.reads!r}; {phase} allows {allowed}")
    can, p = model.backbone.perturbations, config.perturbation
    refused = [name for kind, names in p.KINDS.items() for name in names if kind not in can and getattr(p, name)]
    if refused:
        options = " and ".join(f"perturbation.{name}" for name in refused)
        raise ValueError(
            f"{options} must be 0 for a backbone of type {model.backbone.config.model_type}, whose memory knows only "
            f"{', '.join(can)}" + ("; try --recipe durable-load" if "load" in can else "")
        )
    if config.optim.checkpointing and not isinstance(model.backbone, Native):
        raise ValueError("optim.checkpointing must be false for a model that transformers runs")
    if config.lora and phase != "finetune":
        raise ValueError(f"lora is {config.lora}, must be 0 for {phase}: finetune alone trains the backbone")
    _check_loggers(_loggers(config))
    if not rows:
        raise ValueError("there are no rows to train on")
    parts, processes = config.optim.accumulation, distributed.size()
    shared = f" by {processes} processes" if processes > 1 else ""
    if len(rows) < parts * processes:
        raise ValueError(f"{len(rows)} rows cannot be read in {parts} parts (optim.accumulation){shared}")
    if config.optim.batch_size % (parts * processes):
        raise ValueError(
            f"optim.batch_size is {config.optim.batch_size}; read in {parts} parts (optim.accumulation){shared} it "
            f"must be a multiple of {parts * processes}"
        )
    judged = config.stop.times or config.stop.patience
    if judged and config.stop.metric.startswith("late_") and not any(row.has_stages for row in validation):
        raise ValueError(f"stop.metric is {config.stop.metric}, but no validation row has stages; choose another")


def _loggers(config: TrainConfig) -> list[str]:
    return [config.report_to] if isinstance(config.report_to, str) else config.report_to


def _check_loggers(names: Sequence[str]) -> None:
    """ValueError for a logger that transformers does not know, and for one whose package is missing."""
    known, there = ["none", *INTEGRATION_TO_CALLBACK], get_available_reporting_integrations()
    for name in names:
        if name not in known:
            raise ValueError(f"report_to has {name!r}; allowed: {', '.join(known)}")
        if name != "none" and name not in there:
            raise ValueError(
                f"report_to has {name!r}, whose package is not installed here; install it, or choose of: "
                f"{', '.join(['none', *there])}"
            )


def choose_trained(model: ProSG, phase: Phase, config: TrainConfig) -> None:
    """Let what the phase trains have gradients, and nothing else; take the number of threads that is asked for."""
    if config.threads:
        torch.set_num_threads(config.threads)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(phase == "finetune" and (not config.lora or is_lora(name)))
    if model.synthesizer is not None:
        model.synthesizer.requires_grad_(True)
    if model.initial is not None:
        model.initial.requires_grad_(True)


def arguments_of(
    config: TrainConfig, model: ProSG, dtype: str, *, evaluate: bool, save: bool = True
) -> TrainingArguments:
    """The Trainer's own options."""
    optim = config.optim
    use_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    return TrainingArguments(
        output_dir=config.output,
        per_device_train_batch_size=optim.batch_size // (optim.accumulation * distributed.size()),
        gradient_accumulation_steps=optim.accumulation,
        max_steps=optim.steps,
        learning_rate=optim.lr,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": optim.final_lr},
        warmup_steps=optim.warmup_steps,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.clip or 1e9,
        bf16=dtype == "bf16",
        activation_checkpointing=optim.checkpointing,
        logging_steps=config.log_steps,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=config.eval_steps,
        save_strategy="steps" if save else "no",
        save_steps=config.save_steps,
        report_to=[name for name in _loggers(config) if name != "none"],
        seed=config.seed,
        use_cpu=use_cpu,
        remove_unused_columns=False,
        disable_tqdm=not config.progress or not sys.stderr.isatty(),
        log_level="error",
        # Models of transformers may have parameters that a batch does not touch; the native ones have none.
        ddp_find_unused_parameters=not isinstance(model.backbone, Native),
        dataloader_pin_memory=not use_cpu,
    )
