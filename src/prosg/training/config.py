"""Every choice that can be made: the synthesis module, what training does to the state, and training itself.

Dataclasses whose docstrings are the command line's help. Unknown keys and values out of range raise ValueError.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from prosg.data.templates import known_template

__all__ = [
    "PRESETS",
    "RECIPES",
    "Optimisation",
    "Perturbation",
    "ProSGConfig",
    "Recipe",
    "StopRule",
    "TrainConfig",
    "check_recipe",
]


@dataclass(frozen=True)
class ProSGConfig:
    """The synthesis module. What is saved beside an adapter's weights; a preset is a set of these values.

    Attributes:
        preset: Name of the preset that it started from: a label, which has to fit `reading`. In Python presets come
            from `ProSGConfig.from_preset`, on the command line from `--recipe`.
        reading: What is read of the prompt: its last token's input ("last", eq. 13-16), every position by softmax
            attention ("attention"), or nothing ("none": a static adapter).
        positions: Which positions attention reads: "all", or "last", the prompt's last token alone, so that nothing is
            left to attend to: what reading every position is worth is told by leaving it out.
        rank: Rank n of the update.
        synthesize: Which factors depend on the prompt: "a" (eq. 20), "both", or "none" (static).
        bottleneck: Width d of the reads; 0 picks a quarter of the model's width, or less, in a backbone of 100 million
            parameters or more, where the module would have more than a tenth of the backbone's. Attention only.
        memory_tap: Also read what the recurrence returned at each position. Attention only.
        state_embedding: Add a learned vector per projection (eq. 13-16), or per read.
        blocks: Residual blocks in the transforming stack (eq. 18).
        hidden: Hidden width of a block; 0 takes the stack's own width.
        share_stack: One stack for all layers instead of one per layer.
        final_norm: LayerNorm after the stack.
        log_length: Scale attention scores by log T / log T0, so that reads stay as sharp in longer prompts.
        reference_length: T0, a typical prompt length in training, tokens.
        alpha: Scale of the update.
        target_modules: Projections of each time-mixing block that get an update, by name; none named: all of them. In
            a model that transformers runs a name is the end of a module's path, like out_proj or attn.c_proj.
    """

    preset: str = "plus"
    reading: Literal["last", "attention", "none"] = "attention"
    positions: Literal["all", "last"] = "all"
    rank: int = 8
    synthesize: Literal["a", "both", "none"] = "both"
    bottleneck: int = 0
    memory_tap: bool = True
    state_embedding: bool = True
    blocks: int = 2
    hidden: int = 0
    share_stack: bool = False
    final_norm: bool = True
    log_length: bool = True
    reference_length: float = 20.0
    alpha: float = 1.0
    target_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A site's name is part of tensors' names, which dots would cut.
        object.__setattr__(self, "target_modules", tuple(name.replace(".", "_") for name in self.target_modules))
        for name, least in (("rank", 1), ("blocks", 0), ("bottleneck", 0), ("hidden", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"module.{name} is {getattr(self, name)}, must be at least {least}")
        if self.reference_length <= 1:
            raise ValueError(f"module.reference_length is {self.reference_length}, must be above 1")
        readings = {"last": ("a",), "attention": ("a", "both"), "none": ("none",)}
        if self.reading not in readings:
            raise ValueError(f"module.reading is {self.reading!r}; known are {', '.join(readings)}")
        reads = {"paper": "last", "plus": "attention", "static": "none"}.get(self.preset, self.reading)
        if self.reading != reads:
            raise ValueError(
                f"module.preset is {self.preset!r}, which reads {reads!r}, but module.reading is {self.reading!r}; a "
                f"preset is a label: take ProSGConfig.from_preset({self.preset!r}) or --recipe, or set it to ''"
            )
        if self.positions not in ("all", "last"):
            raise ValueError(f"module.positions is {self.positions!r}; allowed: all, last")
        if self.positions == "last" and self.reading != "attention":
            raise ValueError(f"module.positions is 'last', which is for reading 'attention', not {self.reading!r}")
        allowed = readings[self.reading]
        if self.synthesize not in allowed:
            raise ValueError(
                f"module.synthesize is {self.synthesize!r}, but reading {self.reading!r} allows {' or '.join(allowed)}"
            )

    @property
    def looks_at(self) -> Literal["last", "attention", "none"]:
        """What of the prompt is looked at; attention that is left one position has no choice but the last token."""
        return "last" if self.positions == "last" else self.reading

    def resolve(self, width: int, names: tuple[str, ...]) -> ProSGConfig:
        """The same with all that was left open filled in for a model of this width and these projections.

        The bottleneck by width alone: `Synthesizer`, which can count itself, narrows it for large backbones.
        """
        return dataclasses.replace(
            self, bottleneck=self.bottleneck or max(width // 4, 1), target_modules=self.target_modules or names
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ProSGConfig:
        """From JSON; ValueError names unknown keys and what is allowed."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown key {', '.join(unknown)}; known are {', '.join(known)}")
        if "target_modules" in values:  # JSON has lists only
            values = {**values, "target_modules": tuple(values["target_modules"])}
        return cls(**values)

    @classmethod
    def from_preset(cls, preset: str, **changes: Any) -> ProSGConfig:
        """A preset with some options changed."""
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
        return dataclasses.replace(PRESETS[preset], **changes)


PRESETS: dict[str, ProSGConfig] = {
    "paper": ProSGConfig(
        preset="paper",
        reading="last",
        rank=1,
        synthesize="a",
        memory_tap=False,
        blocks=1,
        final_norm=False,
        log_length=False,
    ),
    "plus": ProSGConfig(preset="plus"),
    "static": ProSGConfig(
        preset="static", reading="none", rank=64, synthesize="none", memory_tap=False, state_embedding=False, blocks=0
    ),
}


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


class Recipe(NamedTuple):
    """Defaults that belong together."""

    phase: Literal["finetune", "synthesize", "static", "state"]
    module: ProSGConfig = ProSGConfig()
    perturbation: Perturbation = Perturbation()
    optim: Optimisation = Optimisation()


_FINETUNE = Optimisation(lr=1e-5, late_weight=1.0)
_DURABLE = Perturbation(age=0.4, cut=0.4)
_DURABLE_LOAD = Perturbation(load=0.5, load_story=0.5)

RECIPES: dict[str, Recipe] = {
    "plain": Recipe("finetune", optim=_FINETUNE),
    "durable": Recipe("finetune", perturbation=_DURABLE, optim=_FINETUNE),
    "durable-load": Recipe("finetune", perturbation=_DURABLE_LOAD, optim=_FINETUNE),
    "paper": Recipe("synthesize", module=PRESETS["paper"], optim=Optimisation(lr=1e-3, late_weight=1.0)),
    "plus": Recipe(
        "synthesize",
        module=PRESETS["plus"],
        perturbation=Perturbation(wipe_first=0.9, wipe_last=0.05, load=0.5, load_story=0.5),
    ),
    "static": Recipe("static", module=PRESETS["static"], optim=Optimisation(lr=3e-3)),
    "static-durable": Recipe("static", module=PRESETS["static"], perturbation=_DURABLE, optim=Optimisation(lr=3e-3)),
    "static-durable-load": Recipe(
        "static", module=PRESETS["static"], perturbation=_DURABLE_LOAD, optim=Optimisation(lr=3e-3)
    ),
    "state": Recipe("state", optim=Optimisation(lr=0.1)),
}
"""What suits an update (the state may be gone, or full), and what suits durable fine-tuning: of RWKV-4, whose memory
fades with the number of tokens (durable), and of RWKV-7, whose memory fills up instead (durable-load).

A state has no fan-in and starts from nothing, so its rate is large; `docs/state-tuning.md` has what others gave.

plain and durable start from the rate for pretrained checkpoints; a model trained from scratch takes a hundred times it.
"""


def check_recipe(phase: str, recipe: str) -> None:
    """Raises ValueError for a recipe of another phase; "" is none."""
    allowed = [name for name, known in RECIPES.items() if known.phase == phase]
    if recipe and recipe not in allowed:
        raise ValueError(f"recipe is {recipe!r}; for {phase} allowed: {', '.join(allowed)}")


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
