"""Every choice that can be made: the synthesis module, what training does to the state, and training itself.

Dataclasses whose docstrings are the command line's help. Unknown keys and values out of range raise ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from prosg.data.templates import known_template
from prosg.model.config import ProSGConfig

__all__ = ["Optimisation", "Perturbation", "StopRule", "TrainConfig"]


@dataclass(frozen=True)
class Perturbation:
    """How often the state is touched in training, and how strongly. Probabilities are per row and step.

    Attributes:
        wipe_first: Probability of the initial state at the prompt's end, at the first step...
        wipe_last: ...and at the last one; linear in between.
        swap: Probability of another prompt's state at the prompt's end.
        load: Probability of loading at the prompt's end.
        load_story: Probability of loading at a place of the answer before its last stage.
        age: Probability of ageing at the prompt's end.
        age_steps: Longest ageing at the prompt's end, tokens.
        cut: Probability of ageing at a place of the answer before its last stage.
        cut_steps: Longest ageing there, tokens: the distance that is wanted.
        weakest: Natural logarithm of the least that ageing or loading leaves of the state; drawn from U(weakest, 0).
        load_weight: Largest natural logarithm of the loaded memory's weight; drawn from U(0, load_weight).
        bank_size: States of long text kept for loading.
        bank_rows: How many of them grow in each step (with accumulation, in each part of it).
        bank_restart: Probability that a growing one starts again from a prompt of the step.
    """

    wipe_first: float = 0.0
    wipe_last: float = 0.0
    swap: float = 0.0
    load: float = 0.0
    load_story: float = 0.0
    age: float = 0.0
    age_steps: float = 150.0
    cut: float = 0.0
    cut_steps: float = 3000.0
    weakest: float = -6.0
    load_weight: float = 2.0
    bank_size: int = 64
    bank_rows: int = 16
    bank_restart: float = 0.06

    KINDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "wipe": ("wipe_first", "wipe_last"),
        "swap": ("swap",),
        "load": ("load", "load_story"),
        "age": ("age", "cut"),
    }
    """What is done to a memory -> the options that say how often."""

    def __post_init__(self) -> None:
        for name in (*(name for names in self.KINDS.values() for name in names), "bank_restart"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"perturbation.{name} is {getattr(self, name)}, must be a probability, 0 to 1")
        for name in ("age_steps", "cut_steps", "load_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"perturbation.{name} is {getattr(self, name)}, must not be negative")
        if self.weakest > 0:
            raise ValueError(f"perturbation.weakest is {self.weakest}, must be 0 or less")
        if (self.load and self.age) or (self.load_story and self.cut):
            raise ValueError("perturbation: a place is aged or loaded, not both; set load or age, load_story or cut")
        if not 1 <= self.bank_rows <= self.bank_size:
            raise ValueError(f"perturbation.bank_rows is {self.bank_rows}, must be 1 to bank_size ({self.bank_size})")

    @property
    def loads(self) -> bool:
        """Whether a bank is needed."""
        return self.load > 0 or self.load_story > 0

    @property
    def active(self) -> bool:
        """Whether anything is done at all."""
        return any(getattr(self, name) for names in self.KINDS.values() for name in names)


@dataclass(frozen=True)
class StopRule:
    """When training ends before its last step, judged on the validation rows.

    Attributes:
        metric: late_exact, exact, late_perplexity or perplexity.
        value: Stop when the metric is at least this (perplexities: at most)...
        times: ...in this many evaluations in a row. 0 never stops early.
        patience: Stop after this many evaluations without a better value; 0 never does. The last weights are kept.
    """

    metric: Literal["late_exact", "exact", "late_perplexity", "perplexity"] = "late_exact"
    value: float = 0.99
    times: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("times", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"stop.{name} is {getattr(self, name)}, must not be negative")

    @property
    def falling(self) -> bool:
        """Whether less is better."""
        return self.metric.endswith("perplexity")


@dataclass(frozen=True)
class Optimisation:
    """The optimiser and its schedule: AdamW, linear warm-up, cosine.

    Attributes:
        steps: Optimiser steps.
        batch_size: Rows per step, over all processes and accumulation steps.
        accumulation: Parts that a step's batch is read in.
        lr: Peak learning rate.
        final_lr: Learning rate at the last step, as a share of the peak.
        warmup_steps: Steps of linear warm-up.
        beta1: AdamW's first coefficient.
        beta2: AdamW's second coefficient.
        weight_decay: AdamW's weight decay.
        clip: Largest gradient norm; 0 does not clip.
        skip_above: A step whose gradient norm is not finite, or above this many times its running mean, is skipped and
            counted.
        late_weight: Weight of the last stage's tokens, where rows have stages.
        checkpointing: Keep the blocks' inputs alone, and compute again in the backward pass what is in them: less
            memory and the same gradients, for one more forward pass. Native backbones only.
    """

    steps: int = 1000
    batch_size: int = 32
    accumulation: int = 1
    lr: float = 4e-3
    final_lr: float = 0.1
    warmup_steps: int = 50
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    clip: float = 1.0
    skip_above: float = 8.0
    late_weight: float = 3.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, must be at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"optim.batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}"
            )
        if not self.lr > 0:
            raise ValueError(f"optim.lr is {self.lr}, must be above 0")
        if not self.skip_above > 1:
            raise ValueError(f"optim.skip_above is {self.skip_above}, must be above 1")
        for name in ("warmup_steps", "weight_decay", "clip", "late_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, must not be negative")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, must be at least 0 and below 1")
        if not 0 <= self.final_lr <= 1:
            raise ValueError(f"optim.final_lr is {self.final_lr}, must be a share of lr, 0 to 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        model: Backbone to train, or to train a module on: a .pth file or a folder.
        recipe: On the command line and in YAML: the name of defaults for module, perturbation and optim, each still an
            option of its own. In Python take them from `RECIPES`.
        train: A jsonl file of {"prompt", "answer"}, {"messages"} or {"text"} rows; several as '[a.jsonl, b.jsonl]'.
        output: Folder for the trained model, checkpoints and logs.
        validation: Likewise; without it nothing is evaluated.
        tokenizer: world, a tokenizer.json, an RWKV vocabulary, or a folder with one; by default what lies with the
            model, else world for a vocabulary of 65536.
        module: The synthesis module (phase 2 and static).
        perturbation: What is done to the recurrent state.
        optim: Optimiser and schedule.
        stop: Early stopping.
        eval_steps: Steps between evaluations.
        save_steps: Steps between checkpoints; the two newest complete ones are kept.
        log_steps: Steps between lines in TensorBoard and on the screen. steps.jsonl has every step.
        dtype: Arithmetic: fp32, bf16 (autocast), or auto: whichever a one-second probe finds faster.
        device: cpu, cuda, or auto.
        seed: Of initial weights, order of rows and perturbations.
        replay: Share of the training rows in which the prompt is read again, unscored, before the last stage: a rival
            of the module that costs tokens instead.
        end_token: Id of the token that ends an answer.
        template: How a conversation is written: none, world, pile or raven. By default as text rows are, for chat rows
            World's where the tokenizer is World's, and none for rows of a prompt and an answer.
        max_tokens: Rows with more tokens than this, prompt and answer, are left out and counted; 0 keeps all.
        truncate: Cut them instead: the prompt's beginning, and the end of an answer that is too long by itself.
        threads: CPU threads; 0 leaves PyTorch's own choice.
        progress: Show a progress bar.
        report_to: Where the lines of `log_steps` go: tensorboard, wandb or another of transformers' integrations,
            several as '[tensorboard, wandb]', or none.
        lora: Rank of a LoRA that is trained instead of the backbone's own weights (finetune alone), merged into them at
            the end; 0 trains the weights themselves.
        lora_alpha: Its product is scaled by lora_alpha / lora; 0 takes twice the rank.
        lora_modules: The projections that get one, by name, like key; none named: all that an update may act on.
    """

    model: str
    train: list[str] | str
    output: str
    recipe: str = ""
    validation: list[str] | str = field(default_factory=list)
    tokenizer: str = ""
    module: ProSGConfig = field(default_factory=ProSGConfig)
    perturbation: Perturbation = field(default_factory=Perturbation)
    optim: Optimisation = field(default_factory=Optimisation)
    stop: StopRule = field(default_factory=StopRule)
    eval_steps: int = 100
    save_steps: int = 200
    log_steps: int = 20
    dtype: Literal["auto", "fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    replay: float = 0.0
    end_token: int = 0
    template: str = ""
    max_tokens: int = 0
    truncate: bool = False
    threads: int = 0
    progress: bool = True
    report_to: list[str] | str = "tensorboard"
    lora: int = 0
    lora_alpha: float = 0.0
    lora_modules: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("eval_steps", "save_steps", "log_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("max_tokens", "threads", "lora", "lora_alpha"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must not be negative")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}, must be 0 to 2^32 - 1")
        if not 0 <= self.replay <= 1:
            raise ValueError(f"replay is {self.replay}, must be a share of the rows, 0 to 1")
        if (self.lora_alpha or self.lora_modules) and not self.lora:
            raise ValueError("lora_alpha and lora_modules belong to a LoRA; give its rank with --lora")
        known_template(self.template)
        if self.truncate and self.max_tokens < 2:
            raise ValueError(f"truncate cuts rows to max_tokens, which is {self.max_tokens}, must be at least 2")
        if not self.train:
            raise ValueError("train is empty; name at least one jsonl file")
        if (self.stop.times or self.stop.patience) and not self.validation:
            raise ValueError("stop judges validation rows; name a file with --validation")
