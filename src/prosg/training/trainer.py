"""One trainer for every phase; a phase picks what is trained.

    finetune     the whole backbone, on the answer's tokens                    phase 1, eq. 22
    synthesize   the synthesis module alone, the backbone frozen               phase 2, eq. 23
    static       a low-rank adapter that reads nothing, the backbone frozen    the control
    state        one initial state for every prompt, the backbone frozen       a control, state tuning

transformers' Trainer runs the loop. What is added here: batches and perturbations that are a function of (seed, step,
row), so that a resumed run repeats an uninterrupted one; checkpoints that are written beside and renamed, so that a
kill at any moment leaves only complete ones; steps with an exploding gradient are skipped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState

from prosg.data.collate import collate
from prosg.data.encode import EncodedRow
from prosg.data.sampler import StepBatches
from prosg.model.perplexity import perplexity
from prosg.model.prosg import ProSG
from prosg.training.callbacks import Report, StepLog, Stop
from prosg.training.config import TrainConfig
from prosg.training.perturbation import Perturber, draw
from prosg.training.precision import settle_dtype
from prosg.training.setup import Phase, arguments_of, check, choose_trained
from prosg.training.sharding import (
    is_sharded,
    load_optimizer,
    load_weights,
    optimizer_state,
    put_together,
    register,
    whole,
)
from prosg.training.state_bank import StoryBank
from prosg.utils import distributed

__all__ = ["ProSGTrainer", "TrainResult", "complete_checkpoints", "fit"]

STAGING = ".writing"
WEIGHTS, COUNTERS = "weights.safetensors", "counters.json"
SKIPS = 100
"""Steps skipped in a row after which a run is given up."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended. `reached`: the stop rule's value was reached (None without a rule)."""

    steps: int
    seconds: float
    skipped: int
    reached: bool | None
    metrics: dict[str, float]
    dtype: str


class ProSGTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer for a ProSG model; see the module's docstring for what it adds."""

    def __init__(
        self,
        model: ProSG,
        config: TrainConfig,
        arguments: TrainingArguments,
        rows: list[EncodedRow],
        validation: list[EncodedRow],
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(
            model=model, args=arguments, train_dataset=rows, eval_dataset=validation or None, callbacks=callbacks
        )
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the whole step's tokens
        self.settings = config
        self.rows, self.validation = rows, validation
        self.bank = StoryBank(config.perturbation, config.seed, distributed.rank())
        self.tick = 0  # micro-batches read so far
        self.norms = 0.0  # running mean of the gradient norm
        self.skipped = 0
        self.in_a_row = 0
        self.last_norm = 0.0
        self.last_loss = 0.0
        self.began = time.perf_counter()  # moved back by what earlier starts of the run took

    # -- data

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process' share of the run's batches."""
        optim = self.settings.optim
        sampler = StepBatches(
            [row.tokens for row in self.rows],
            optim.batch_size,
            optim.accumulation,
            optim.steps,
            self.settings.seed,
            distributed.rank(),
            distributed.size(),
        )

        def gather(rows: list[EncodedRow]) -> dict[str, Tensor]:
            return collate(rows, late_weight=optim.late_weight)

        pinned = self.args.dataloader_pin_memory
        # Not prepared by Accelerate, which would share it out a second time.
        return DataLoader(self.rows, batch_sampler=sampler, collate_fn=gather, pin_memory=pinned)  # type: ignore[arg-type]

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Answer tokens of the whole step, over its parts and all processes."""
        mine = sum(float((batch["weights"] > 0).sum()) for batch in batch_samples)
        return torch.tensor(round(distributed.sum_over_processes(mine, device)), device=device)

    # -- a step

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Both passes with this step's perturbations; then the bank's states grow."""
        p, step = self.settings.perturbation, self.state.global_step
        story_end, row_ids = inputs["story_end"], inputs["row_ids"]
        perturber = None
        if p.active:
            progress = step / max(self.settings.optim.steps - 1, 1)
            draws = draw(p, self.settings.seed, step, progress, row_ids.cpu(), story_end.cpu())
            if p.loads and self.bank.state is None:
                self._grow(inputs)
            perturber = Perturber(_to(draws, story_end.device), self.bank.state)
        scored = model(
            prompt=inputs["prompt"],
            prompt_lengths=inputs["prompt_lengths"],
            answer=inputs["answer"],
            answer_lengths=inputs["answer_lengths"],
            weights=inputs["weights"],
            perturber=perturber,
            count=num_items_in_batch,
        )
        if p.loads:
            self._grow(inputs, scored.encoded)
        self.tick += 1
        loss = scored.loss * distributed.size()  # gradients are averaged over the processes
        return (loss, scored) if return_outputs else loss

    def _grow(self, inputs: dict[str, Tensor], encoded: Any = None) -> None:
        model: ProSG = self.accelerator.unwrap_model(self.model)
        if encoded is None:
            encoded = model.encode(inputs["prompt"], inputs["prompt_lengths"])
        stories = inputs["answer"], inputs["late_start"]
        self.bank.grow(model.run_backbone, self.tick, *stories, encoded.state, encoded.update)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the Trainer's; the loss is kept for the step's log line."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.last_loss += float(loss) / distributed.size()
        return loss

    def take(self) -> dict[str, Any]:
        """The step's line in the log: the loss over all processes, gradient norm, steps skipped so far."""
        loss, self.last_loss = distributed.sum_over_processes(self.last_loss, self.args.device), 0.0
        return {"loss": loss, "grad_norm": self.last_norm, "skipped": self.skipped}

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip; drop the gradients, so that the optimiser has nothing to do, where their norm has exploded."""
        optim = self.settings.optim
        norm: Tensor = self.accelerator.clip_grad_norm_(model.parameters(), optim.clip or float("inf"))
        value = self.last_norm = float(norm)
        finite = math.isfinite(value)
        if not finite or 0 < optim.skip_above * self.norms < value:
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            if self.in_a_row == SKIPS:
                raise ValueError(f"training diverged: {SKIPS} steps in a row had to be skipped; lower optim.lr")
            for parameter in model.parameters():
                parameter.grad = None
            value = optim.skip_above * self.norms  # a norm that has grown for good moves the mean up to it
        else:
            self.in_a_row = 0
        if finite:
            self.norms = value if self.norms == 0 else 0.98 * self.norms + 0.02 * value
        return norm

    # -- evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Perplexities and exact predictions on the validation rows.

        Every process scores all of them, as sharded weights want it, and the first one's numbers count.
        """
        training = self.model.training
        self.model.eval()
        with self.compute_loss_context_manager():
            scores = perplexity(self.model, self.validation, self.args.per_device_train_batch_size)
        self.model.train(training)
        measured = {f"eval_{k}": float(v) for k, v in scores.to_dict().items() if v is not None}
        metrics = distributed.run_on_first(lambda: measured)
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # -- checkpoints

    def trained_state(self) -> dict[str, Tensor]:
        """The parameters that train."""
        return {name: tensor.contiguous() for name, tensor in whole(self.model).items()}

    def _get_output_dir(self, trial: Any) -> str:
        return os.path.join(super()._get_output_dir(trial), STAGING)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write beside, then rename; then drop the older ones. A folder called checkpoint-N is complete."""
        out = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        if (out / name).exists():  # saved at this step already
            return
        if distributed.is_first():
            shutil.rmtree(out / STAGING, ignore_errors=True)
        distributed.barrier()
        super()._save_checkpoint(model, trial)
        distributed.barrier()
        if distributed.is_first():
            (out / STAGING / name).rename(out / name)
            for old in complete_checkpoints(out)[:-2]:
                shutil.rmtree(old)
        distributed.barrier()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The same for weights that are shared out over processes, for which the Trainer has files of its own."""
        self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """What trains, and what the perturbations remember: each process' own."""
        assert output_dir is not None
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.bank.state_dict(), folder / _bank_file(distributed.rank()))
        trained = self.trained_state()
        if distributed.is_first():
            save_file(trained, folder / WEIGHTS)
            counters = {"tick": self.tick, "norms": self.norms, "skipped": self.skipped, "seconds": self.seconds}
            (folder / COUNTERS).write_text(json.dumps(counters | {"processes": distributed.size()}))

    @property
    def seconds(self) -> float:
        """Time spent training, that of earlier starts of the run up to their checkpoints included."""
        return time.perf_counter() - self.began

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        counters = json.loads((folder / COUNTERS).read_text())
        before = counters.get("processes", 1)
        if self.settings.perturbation.loads and before != distributed.size():
            raise ValueError(
                f"{folder}: written by {before} processes, each with states of long text of its own; go on with as "
                f"many, not {distributed.size()}"
            )
        load_weights(self.model, load_file(folder / WEIGHTS))
        kept = folder / _bank_file(distributed.rank())
        if kept.exists():
            device = next(self.model.parameters()).device
            self.bank.load_state_dict(load_file(kept, device=str(device)), self.model.backbone)
        self.tick, self.norms, self.skipped = counters["tick"], counters["norms"], counters["skipped"]
        self.began = time.perf_counter() - counters["seconds"]

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if is_sharded(self.model):
            register(self.model)
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = optimizer_state(self.model, self.optimizer)
        if distributed.is_first():
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not is_sharded(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert checkpoint is not None
        state, scheduler = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        load_optimizer(self.model, self.optimizer, state)
        self.lr_scheduler.load_state_dict(scheduler)

    def go_on(self, checkpoint: Path | None, stop: Stop) -> None:
        """Train from a checkpoint, or from the start; a run that its stop rule ended there takes no further step."""
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            if stop.ended(state.log_history):
                self._load_from_checkpoint(str(checkpoint))
                self.state = state
                return
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _bank_file(process: int) -> str:
    return f"bank-{process}.safetensors" if process else "bank.safetensors"


def complete_checkpoints(output: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    found = [p for p in output.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))


def fit(
    model: ProSG,
    phase: Phase,
    config: TrainConfig,
    rows: list[EncodedRow],
    validation: list[EncodedRow],
    tell: Callable[[int, dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Train `model` in place, going on from the newest complete checkpoint in `config.output`, if there is one.

    Raises ValueError for what `check` finds.
    """
    check(model, phase, config, rows, validation)
    choose_trained(model, phase, config)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    dtype = settle_dtype(config.dtype, output, model)
    log = StepLog(output / "steps.jsonl")
    stop = Stop(config.stop)
    callbacks: list[TrainerCallback] = [log, stop]
    if tell is not None and distributed.is_first():
        callbacks.append(Report(tell))
    trainer = ProSGTrainer(
        model, config, arguments_of(config, model, dtype, evaluate=bool(validation)), rows, validation, callbacks
    )
    log.take = trainer.take
    trainer.remove_callback(PrinterCallback)
    checkpoints = complete_checkpoints(output)
    trainer.go_on(checkpoints[-1] if checkpoints else None, stop)
    if distributed.is_first():
        shutil.rmtree(output / STAGING, ignore_errors=True)
    put_together(model)
    model.eval()
    history = trainer.state.log_history
    metrics: dict[str, float] = next((h for h in reversed(history) if any(k.startswith("eval_") for k in h)), {})
    return TrainResult(
        steps=trainer.state.global_step,
        seconds=trainer.seconds,
        skipped=trainer.skipped,
        reached=stop.reached(history) if config.stop.times else None,
        metrics={k: v for k, v in metrics.items() if k.startswith("eval_")},
        dtype=dtype,
    )


def _to(value: Any, device: torch.device) -> Any:
    """Tensors of nested named tuples, moved."""
    if isinstance(value, Tensor):
        return value.to(device)
    return type(value)(*(_to(part, device) for part in value))
