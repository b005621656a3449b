"""One trainer for every phase; a phase picks what is trained.

    finetune     the whole backbone, on the answer's tokens                    phase 1, eq. 22
    synthesize   the synthesis module alone, the backbone frozen               phase 2, eq. 23
    static       a low-rank adapter that reads nothing, the backbone frozen    the control
    state        one initial state for every prompt, the backbone frozen       a control, state tuning
    anchor       windows and strengths of an anchor, the backbone frozen       a few hundred numbers

transformers' Trainer runs the loop. Added here are batches and perturbations that are a function of (seed, step, row),
so that a resumed run repeats an uninterrupted one, and the skipping of steps whose gradient explodes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.fingerprints import backbone_fingerprint
from prosg.core.encoded import EncodedPrompt
from prosg.core.tensors import join_texts
from prosg.data.collate import collate
from prosg.data.encode import EncodedRow
from prosg.data.joined import row_lengths
from prosg.data.sampler import StepBatches
from prosg.model.contrast import contrast
from prosg.model.perplexity import perplexity
from prosg.model.prosg import ProSG, Scored
from prosg.training.callbacks import EVAL_CONTRAST, EVAL_CONTRAST_ERROR
from prosg.training.config import TrainConfig
from prosg.training.gradient_spikes import SpikeDetector
from prosg.training.perturbation import Perturber, draw, loss_weights
from prosg.training.rates import scale_rates
from prosg.training.run_checkpoints import CheckpointingTrainer
from prosg.training.state_bank import StateBank
from prosg.training.taps_cache import TapsCache
from prosg.utils import distributed

__all__ = ["ProSGTrainer"]

COUNTERS = "counters.json"
MOST_CONTRASTED = 256
"""Validation rows in which another prompt's update is tried, at most."""


class ProSGTrainer(CheckpointingTrainer):
    """transformers' Trainer for a ProSG model; the module's docstring says what it adds.

    Args:
        model: What is trained; parameters without gradients stay as they are.
        config: The run's options.
        arguments: The same for transformers, from `training_arguments`.
        rows: Training rows.
        validation: Rows that evaluations score; may be empty.
    """

    def __init__(
        self,
        model: ProSG,
        config: TrainConfig,
        arguments: TrainingArguments,
        rows: Sequence[EncodedRow],
        validation: Sequence[EncodedRow],
    ) -> None:
        super().__init__(model=model, args=arguments, train_dataset=rows, eval_dataset=validation or None)
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the whole step's tokens
        self.config = config
        self.rows, self.validation = rows, validation
        start = config.perturbation.bank_start or ("prompt" if _synthesizes(model) else "empty")
        self.bank = StateBank(replace(config.perturbation, bank_start=start), config.seed, distributed.rank())
        self.spikes = SpikeDetector(config.optim.skip_above)
        self.taps_cache: TapsCache | None = None
        if config.cache_taps:
            assert isinstance(model.backbone, HFBackbone)  # `check` has seen to it
            fingerprint = backbone_fingerprint(model.backbone)
            self.taps_cache = TapsCache(config.cache_taps, model.backbone, fingerprint, config.cache_taps_gb * 1e9)
        self._micro_batches = 0
        self._tokens = 0  # of prompts and answers, this process', since it began
        self._step_loss = 0.0
        self._began = time.perf_counter()  # moved back by the time that earlier starts of the run took

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process' share of the run's micro-batches."""
        optim = self.config.optim
        sampler = StepBatches(
            row_lengths(self.rows),
            optim.batch_size,
            optim.accumulation,
            optim.steps,
            self.config.seed,
            distributed.rank(),
            distributed.size(),
        )

        def collate_weighted(rows: list[EncodedRow]) -> dict[str, Tensor]:
            return collate(rows, late_weight=optim.late_weight)

        pinned = self.args.dataloader_pin_memory
        # Not prepared by Accelerate, which would share it out a second time.
        return DataLoader(self.rows, batch_sampler=sampler, collate_fn=collate_weighted, pin_memory=pinned)  # type: ignore[arg-type]

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Answer tokens of the whole step, over its micro-batches and all processes; counts the rows' tokens, too."""
        self._tokens += sum(int((b["prompt_lengths"] + b["answer_lengths"]).sum()) for b in batch_samples)
        own = sum(float((batch["weights"] > 0).sum()) for batch in batch_samples)
        return torch.tensor(max(round(distributed.sum_over_processes(own, device)), 1), device=device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Scored]:
        """Both passes under this step's perturbations; then the bank's states read on."""
        perturbation, step = self.config.perturbation, self.state.global_step
        row_ids, story_end = inputs["row_ids"], inputs["story_end"]
        perturber, weights = None, inputs["weights"]
        if perturbation.active:
            progress = step / max(self.config.optim.steps - 1, 1)
            draws = draw(perturbation, self.config.seed, step, progress, row_ids.cpu(), story_end.cpu())
            if perturbation.uses_bank and self.bank.state is None:
                self._grow_bank(inputs)
            draws = send_to_device(draws, story_end.device)
            perturber = Perturber(draws, self.bank.state)
            if perturbation.first_weight != 1:
                weights = loss_weights(draws, weights, inputs["first_end"], perturbation.first_weight)
        scored: Scored = model(
            prompt=inputs["prompt"],
            prompt_lengths=inputs["prompt_lengths"],
            answer=inputs["answer"],
            answer_lengths=inputs["answer_lengths"],
            weights=weights,
            perturber=perturber,
            count=num_items_in_batch,
            distil=self._distilled(inputs["open"]),
            reader=self.taps_cache,
        )
        if perturbation.uses_bank:
            self._grow_bank(inputs, scored.encoded)
        self._micro_batches += 1
        loss = scored.loss * distributed.size()  # gradients are averaged over the processes
        return (loss, scored) if return_outputs else loss

    def _distilled(self, is_open: Tensor) -> Tensor | None:
        """Which rows are taught by the model that has its prompt; None where nothing is: the backbone itself trains."""
        if self.config.distil == "none" or self.accelerator.unwrap_model(self.model).synthesizer is None:
            return None
        return is_open | (self.config.distil == "all")

    def _grow_bank(self, inputs: dict[str, Tensor], encoded: EncodedPrompt | None = None) -> None:
        """Lets states of the bank read the batch's stories, or its whole rows; `encoded`: the batch's prompts."""
        model: ProSG = self.accelerator.unwrap_model(self.model)
        prompt, lengths = inputs["prompt"], inputs["prompt_lengths"]
        texts, ends = inputs["answer"], inputs["late_start"]
        if self.bank.settings.bank_reads == "row":
            ends = lengths + inputs["answer_lengths"]
            texts = join_texts(prompt, lengths, texts, int(ends.max()))
        if encoded is None:
            encoded = model.encode(prompt, lengths, memory="none" if model.synthesizer is None else "update")
        state, update = encoded.state, encoded.update
        if self.bank.settings.bank_start == "empty":
            state, update = model.init_state(len(texts)), None if _synthesizes(model) else update
        self.bank.grow(model.run_backbone, self._micro_batches, texts, ends, state, update)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Autocast, which transformers leaves to the wrapped model alone: the bank and evaluations run parts of it."""
        return self.accelerator.autocast()  # type: ignore[no-any-return]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's step on a micro-batch; keeps the loss for the log."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self._step_loss += float(loss) / distributed.size()
        return loss

    def step_metrics(self) -> dict[str, float]:
        """The step's loss over all processes, its gradient norm, and the steps skipped so far; once after each step."""
        loss, self._step_loss = distributed.sum_over_processes(self._step_loss, self.args.device), 0.0
        return {"loss": loss, "grad_norm": self.spikes.last, "skipped": self.spikes.skipped}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, with the rates of `prosg.training.rates`."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self.config.optim.scale_rates:
            scale_rates(optimizer, self.model)
        return optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm: Tensor = self.accelerator.clip_grad_norm_(model.parameters(), self.config.optim.clip or float("inf"))
        if self.spikes.is_spike(float(norm)):
            for parameter in model.parameters():
                parameter.grad = None  # the optimiser passes over parameters without one
        return norm

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Perplexities and exact predictions on the validation rows; of a module also other minus own, wiped.

        Every process scores all rows, because sharded weights need every process, and the first one's numbers count.
        """
        training = self.model.training
        self.model.eval()
        with self.compute_loss_context_manager():
            batch_size = self.args.per_device_train_batch_size
            scores = perplexity(self.model, self.validation, batch_size)
            own = {f"eval_{name}": float(value) for name, value in scores.to_dict().items() if value is not None}
            if _synthesizes(self.accelerator.unwrap_model(self.model)):
                some = self.validation[:: -(-len(self.validation) // MOST_CONTRASTED)]
                gap = contrast(self.model, some, max(batch_size // 2, 2))
                if gap is not None:
                    own |= {EVAL_CONTRAST: gap.mean, EVAL_CONTRAST_ERROR: gap.error}
        self.model.train(training)
        metrics = distributed.run_on_first(lambda: own)
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def count_tokens(self) -> int:
        """Tokens of prompts and answers in this start's steps, over all processes, whose shares are alike."""
        return self._tokens * distributed.size()

    @property
    def seconds(self) -> float:
        """Time spent training, that of earlier starts of the run up to their checkpoints included."""
        return time.perf_counter() - self._began

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir)
        assert output_dir is not None
        folder = Path(output_dir)
        save_file(self.bank.state_dict(), folder / _bank_file(distributed.rank()))
        if distributed.is_first():
            counters = {
                "tick": self._micro_batches,
                "norms": self.spikes.mean,
                "skipped": self.spikes.skipped,
                "in_a_row": self.spikes.in_a_row,
                "broken_in_a_row": self.spikes.broken_in_a_row,
                "seconds": self.seconds,
                "processes": distributed.size(),
            }
            (folder / COUNTERS).write_text(json.dumps(counters))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        counters = json.loads((folder / COUNTERS).read_text())
        processes = counters.get("processes", 1)
        if self.config.perturbation.uses_bank and processes != distributed.size():
            raise ValueError(
                f"{folder}: written by {processes} processes, each with a bank of its own; resume with as many, not "
                f"{distributed.size()}"
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        bank = folder / _bank_file(distributed.rank())
        if bank.exists():
            device = next(self.model.parameters()).device
            self.bank.load_state_dict(load_file(bank, device=str(device)), self.model.backbone)
        self._micro_batches = counters["tick"]
        self.spikes.mean, self.spikes.skipped = counters["norms"], counters["skipped"]
        self.spikes.in_a_row = counters.get("in_a_row", 0)
        self.spikes.broken_in_a_row = counters.get("broken_in_a_row", 0)
        self._began = time.perf_counter() - counters["seconds"]


def _synthesizes(model: ProSG) -> bool:
    """Whether prompts get updates of their own, which a static adapter does not give."""
    config = model.prosg_config
    return config is not None and config.preset != "static"


def _bank_file(process: int) -> str:
    return f"bank-{process}.safetensors" if process else "bank.safetensors"
