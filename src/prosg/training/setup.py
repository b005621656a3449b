"""Pre-flight checks, parameter freezing, and the Trainer's own options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from prosg.backbones.native import NativeBackbone
from prosg.data.encode import EncodedRow
from prosg.data.joined import sample_rows
from prosg.model.prosg import ProSG
from prosg.training.config import Phase, TrainConfig
from prosg.training.lora import is_lora
from prosg.utils import distributed
from prosg.utils.threads import settle_threads

__all__ = ["check", "prepare", "training_arguments"]


def check(
    model: ProSG, phase: Phase, config: TrainConfig, rows: Sequence[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    """Checks that a training can run, before anything is written.

    Args:
        model: What is trained.
        phase: What of it is trained.
        config: The run's options.
        rows: Training rows.
        validation: Rows that the stop rule judges.

    Raises:
        ValueError: for a phase, options or rows that do not fit the model or each other, naming the option.
    """
    _check_parts(model, phase)
    _check_options(model, phase, config)
    _check_rows(config, rows, validation)


def _check_parts(model: ProSG, phase: Phase) -> None:
    """Checks that the model has what the phase trains, and nothing else that could train."""
    needs_module = phase in ("synthesize", "static")
    if (model.synthesizer is not None) != needs_module:
        raise ValueError(f"phase {phase} needs a model {'with' if needs_module else 'without'} a module")
    if (model.initial is not None) != (phase == "state"):
        raise ValueError(f"phase {phase} needs a model {'with' if phase == 'state' else 'without'} an initial state")
    if phase == "anchor" and model.anchor is None:
        raise ValueError("anchor.enabled is false, must be true for phase anchor, which trains an anchor")
    if model.anchor is not None and not model.backbone.continues:
        raise ValueError(
            f"anchor.enabled must be false: a {model.backbone.config.model_type} gives no gradients through its state"
        )
    if phase == "anchor" and not any(model.backbone.anchor_units):
        raise ValueError(
            f"phase anchor learns windows, and a {model.backbone.config.model_type} has none to learn: its anchor "
            "keeps the prompt's keys and values"
        )
    module = model.prosg_config
    if module is not None and (module.reads == "nothing") != (phase == "static"):
        allowed = "nothing" if phase == "static" else "last_input, last_position or all_positions"
        raise ValueError(f"module.reads is {module.reads!r}; {phase} allows {allowed}")


def _check_options(model: ProSG, phase: Phase, config: TrainConfig) -> None:
    """Checks options against the phase, the backbone and the installed loggers."""
    perturbation = config.perturbation
    possible = model.backbone.perturbations
    refused = [
        name
        for kind, names in perturbation.KINDS.items()
        for name in names
        if kind not in possible and getattr(perturbation, name)
    ]
    if refused:
        options = " and ".join(f"perturbation.{name}" for name in refused)
        hint = "; try --recipe durable-load"
        if "load" not in possible:
            hint = "; try --recipe plus-transformers" if phase == "synthesize" else ""
        raise ValueError(
            f"{options} must be 0 for a backbone of type {model.backbone.config.model_type}, whose memory allows only "
            f"{', '.join(possible)}{hint}"
        )
    if config.optim.checkpointing and not isinstance(model.backbone, NativeBackbone):
        raise ValueError("optim.checkpointing must be false for a model that transformers runs")
    if config.lora and phase != "finetune":
        raise ValueError(f"lora is {config.lora}, must be 0 for {phase}: only finetune trains the backbone")
    if config.cache_taps and (phase != "synthesize" or model.backbone.continues):
        where = f"{phase} on a {model.backbone.config.model_type}"
        why = ", of whose prompts training needs the state: leave it out" if model.backbone.continues else ""
        raise ValueError(
            f"cache_taps is for synthesize on a model that reads prompt and answer in one call, not for {where}{why}"
        )
    if config.cache_taps and Path(config.cache_taps).exists() and not Path(config.cache_taps).is_dir():
        raise ValueError(f"cache_taps is {config.cache_taps}: a file; name a folder")
    if config.distil == "all" and phase not in ("synthesize", "static"):
        raise ValueError(f"distil is 'all', but {phase} trains no module that a model could teach; allowed: open, none")
    _check_loggers(_loggers(config))


def _check_rows(config: TrainConfig, rows: Sequence[EncodedRow], validation: Sequence[EncodedRow]) -> None:
    """Checks that the rows suffice for a step, and validation rows for the stop rule."""
    if not rows:
        raise ValueError("there are no rows to train on")
    if config.validation and not validation:
        raise ValueError("there are no rows to validate on: all of --validation were left out")
    if not config.optim.late_weight and all(row.has_stages and not row.late_start for row in sample_rows(rows)):
        raise ValueError("optim.late_weight is 0, but the rows have one stage each: nothing would be learned")
    accumulation, processes = config.optim.accumulation, distributed.size()
    shares = accumulation * processes
    because = f"optim.accumulation is {accumulation}" + (f", with {processes} processes" if processes > 1 else "")
    if len(rows) < shares:
        raise ValueError(f"{len(rows)} rows to train on, must be at least {shares} ({because})")
    if config.optim.batch_size % shares:
        raise ValueError(f"optim.batch_size is {config.optim.batch_size}, must be a multiple of {shares} ({because})")
    stops_early = config.stop.times or config.stop.patience
    if stops_early and config.stop.metric.startswith("late_") and not any(row.has_stages for row in validation):
        raise ValueError(f"stop.metric is {config.stop.metric}, but no validation row has stages; choose another")


def _loggers(config: TrainConfig) -> list[str]:
    return [config.report_to] if isinstance(config.report_to, str) else config.report_to


def _check_loggers(names: Sequence[str]) -> None:
    """Checks that transformers knows these loggers, and that their packages are installed."""
    known, installed = ["none", *INTEGRATION_TO_CALLBACK], get_available_reporting_integrations()
    for name in names:
        if name not in known:
            raise ValueError(f"report_to has {name!r}; allowed: {', '.join(known)}")
        if name != "none" and name not in installed:
            raise ValueError(
                f"report_to has {name!r}, whose package is not installed; install it, or choose of: "
                f"{', '.join(['none', *installed])}"
            )


def prepare(model: ProSG, phase: Phase, config: TrainConfig) -> None:
    """Freezes every parameter that the phase does not train, and sets the number of CPU threads."""
    if config.threads:
        torch.set_num_threads(config.threads)
    else:
        settle_threads()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(phase == "finetune" and (not config.lora or is_lora(name)))
    for part in (model.synthesizer, model.initial):
        if part is not None:
            part.requires_grad_(True)
    if model.anchor is not None:
        model.anchor.requires_grad_(phase == "anchor")


def training_arguments(
    config: TrainConfig, model: ProSG, dtype: str, *, evaluate: bool, save: bool = True
) -> TrainingArguments:
    """The run's options in transformers' terms.

    Args:
        config: The run's options.
        model: What is trained.
        dtype: fp32 or bf16.
        evaluate: Whether there are validation rows.
        save: Whether checkpoints are written.
    """
    optim = config.optim
    use_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    return TrainingArguments(
        output_dir=config.out,
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
        logging_steps=min(config.log_steps, optim.steps),
        logging_nan_inf_filter=False,  # a loss that is NaN is shown as what it is
        eval_strategy="steps" if evaluate else "no",
        eval_steps=config.eval_steps,
        save_strategy="steps" if save else "no",
        save_steps=config.save_steps,
        report_to=[name for name in _loggers(config) if name != "none"],
        seed=config.seed,
        use_cpu=use_cpu,
        remove_unused_columns=False,
        disable_tqdm=True,  # `prosg.training.display` shows how far it is
        log_level="error",
        # Models of transformers may have parameters that a batch does not touch; the native ones have none.
        ddp_find_unused_parameters=not isinstance(model.backbone, NativeBackbone),
        dataloader_pin_memory=not use_cpu,
    )
