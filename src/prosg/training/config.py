"""Options of a training run, as dataclasses whose docstrings are the command line's help.

Values out of range raise ValueError, naming the option and what is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from prosg.data.mixture import parse_mix
from prosg.data.templates import known_template
from prosg.model.config import ProSGConfig
from prosg.utils.paths import PATH, UserPath, expand_paths
from prosg.utils.values import INFINITE, check_fields

__all__ = ["Anchoring", "Optimisation", "Perturbation", "Phase", "StopRule", "TrainConfig"]

Phase = Literal["finetune", "synthesize", "static", "state", "anchor"]
"""What is trained: the backbone, the synthesis module, a static adapter, an initial state, or an anchor's windows."""


def _check_range(options: Any, group: str, names: list[str], low: int | float, high: int | float, allowed: str) -> None:
    """Raises ValueError for the first of these options that does not lie between two values."""
    for name in names:
        value = getattr(options, name)
        if not low <= value <= high:
            raise ValueError(f"{group}{name} is {value}, must {allowed}")


@dataclass(frozen=True)
class Perturbation:
    """How often training changes the recurrent state, and how strongly, so that prompts are not left to it alone.

    Probabilities are per row and step. The bank is a set of states that have read other text: a state is loaded by
    mixing one of them in.

    Attributes:
        wipe_first: Probability, at the first step, that the state at the prompt's end is wiped to the initial one.
        wipe_last: The same probability at the last step; linear in between.
        swap: Probability that the state at the prompt's end is swapped for another prompt's.
        load: Probability that the state at the prompt's end is loaded: weakened, with one of the bank mixed in.
        load_story: Probability of loading at a random place of the answer before its last stage.
        age: Probability that the state at the prompt's end is aged: decayed as by empty tokens, and weakened.
        age_steps: Longest ageing at the prompt's end, tokens; drawn from U(0, age_steps).
        cut: Probability of ageing at a random place of the answer before its last stage.
        cut_steps: Longest ageing inside the answer, tokens; set it to the distance that prompts must carry.
        weakest: Natural logarithm of the least that ageing or loading leaves of the state; drawn from U(weakest, 0).
        load_weight: Largest natural logarithm of the loaded memory's weight; drawn from U(0, load_weight).
        bank_size: Number of states in the bank.
        bank_rows: Number of them that read on in each micro-batch.
        bank_restart: Probability that a state which reads on starts again.
        bank_start: Where states of the bank start: prompt, the state after a prompt of the batch, under its update; or
            empty, so that they hold stories only. Without a synthesized update nothing says which of two prompts is
            meant, so the default is prompt where there is one, else empty.
        bank_reads: What they read: story, answers before their last stage; or row, prompts and whole answers.
        first_weight: Weight in the loss, times their own, of tokens of an answer's first stage (with the second one's
            first token) that are read from a perturbed state. The first stage follows upon the prompt, in a state that
            is intact: an update that carries it, too, misleads there, as about how much is to be written.
        start: Probability that a prompt is read from a state of the bank instead of the initial one (state passing).
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
    bank_start: Literal["", "prompt", "empty"] = ""
    bank_reads: Literal["story", "row"] = "story"
    first_weight: float = 1.0
    start: float = 0.0

    KINDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "wipe": ("wipe_first", "wipe_last"),
        "swap": ("swap",),
        "load": ("load", "load_story"),
        "age": ("age", "cut"),
        "start": ("start",),
    }
    """Kind of perturbation (as in `Backbone.perturbations`) -> the options with its probabilities."""

    def __post_init__(self) -> None:
        check_fields(self, "perturbation.")
        probabilities = [name for names in self.KINDS.values() for name in names]
        _check_range(self, "perturbation.", [*probabilities, "bank_restart"], 0, 1, "be a probability, 0 to 1")
        _check_range(
            self,
            "perturbation.",
            ["age_steps", "cut_steps", "load_weight", "first_weight"],
            0,
            math.inf,
            "not be negative",
        )
        _check_range(self, "perturbation.", ["weakest"], -math.inf, 0, "be 0 or less")
        if (self.load and self.age) or (self.load_story and self.cut):
            raise ValueError("perturbation: a place is aged or loaded, not both; set load or age, load_story or cut")
        _check_range(self, "perturbation.", ["bank_rows"], 1, self.bank_size, f"be 1 to bank_size ({self.bank_size})")

    @property
    def uses_bank(self) -> bool:
        """Whether states of other text are needed, to be loaded or to start from."""
        return self.load > 0 or self.load_story > 0 or self.start > 0

    @property
    def active(self) -> bool:
        """Whether any perturbation may occur."""
        return any(getattr(self, name) for names in self.KINDS.values() for name in names)


@dataclass(frozen=True)
class Anchoring:
    """The anchor that training acts under: states are pulled back to their prompts' after every token.

    Attributes:
        enabled: Whether there is one; always in phase anchor, which learns a window and a strength for every unit.
        tau: Window, tokens, the first one where it is learned; 0 takes the backbone's default.
        age: Empty tokens by which the prompt's memory is aged; below 0 the backbone's default.
    """

    enabled: bool = False
    tau: float = field(default=0.0, metadata=INFINITE)
    age: float = -1.0

    def __post_init__(self) -> None:
        check_fields(self, "anchor.")
        if self.tau and not self.tau >= 1:
            raise ValueError(f"anchor.tau is {self.tau}, must be at least 1 token, or 0 for the backbone's default")


@dataclass(frozen=True)
class StopRule:
    """Early stopping, judged on the rows of --validation.

    Attributes:
        metric: late_exact, the share of rows in which every token of the last stage is the likeliest one; exact, the
            same of whole answers; or late_perplexity, perplexity.
        value: Stop when the metric is at least this (perplexities: at most) in `times` evaluations in a row.
        times: Number of evaluations in a row that must reach `value`; 0 never stops at a value.
        patience: Stop after this many evaluations without a better value; 0 never does. The last weights are kept.
    """

    metric: Literal["late_exact", "exact", "late_perplexity", "perplexity"] = "late_exact"
    value: float = 0.99
    times: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "stop.")
        _check_range(self, "stop.", ["times", "patience"], 0, math.inf, "not be negative")
        if self.times:  # a value that is never reached, or always, would pass for a rule
            low, high, allowed = (1.0, math.inf, "be at least 1") if self.falling else (0.0, 1.0, "be a share, 0 to 1")
            _check_range(self, "stop.", ["value"], low, high, f"{allowed}, for {self.metric}")

    @property
    def falling(self) -> bool:
        """Whether smaller values of the metric are better."""
        return self.metric.endswith("perplexity")


@dataclass(frozen=True)
class Optimisation:
    """The optimiser and its schedule: AdamW, linear warm-up, cosine.

    Attributes:
        steps: Optimiser steps.
        batch_size: Rows per step, over all processes and accumulation steps.
        accumulation: Micro-batches per step.
        lr: Peak learning rate.
        final_lr: Learning rate at the last step, as a share of the peak.
        warmup_steps: Steps of linear warm-up.
        beta1: AdamW's first coefficient.
        beta2: AdamW's second coefficient.
        weight_decay: AdamW's weight decay.
        clip: Largest gradient norm; 0 does not clip.
        skip_above: A step whose gradient norm is not finite, or above this many times its running mean, is skipped and
            counted.
        late_weight: Weight of the last stage's tokens in the loss, where rows have stages.
        scale_rates: Lower the rates of a module's matrices in a backbone that is wider or deeper than those that `lr`
            was chosen with, so that one `lr` serves all sizes; for modules that read positions.
        checkpointing: Gradient checkpointing: keep only the blocks' inputs and recompute the rest in the backward pass.
            Less memory and the same gradients, for one more forward pass. Native backbones only.
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
    scale_rates: bool = True
    checkpointing: bool = False

    def epochs(self, rows: int) -> float:
        """How often each of so many rows is read; a step has no more rows than there are."""
        return self.steps * min(self.batch_size, rows) / rows

    def __post_init__(self) -> None:
        check_fields(self, "optim.")
        _check_range(self, "optim.", ["steps", "batch_size", "accumulation"], 1, math.inf, "be at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(f"optim.batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}")
        if not self.lr > 0:
            raise ValueError(f"optim.lr is {self.lr}, must be above 0")
        if not self.skip_above > 1:
            raise ValueError(f"optim.skip_above is {self.skip_above}, must be above 1")
        not_negative = ["warmup_steps", "weight_decay", "clip", "late_weight"]
        _check_range(self, "optim.", not_negative, 0, math.inf, "not be negative")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"optim.beta1 and beta2 are {self.beta1}, {self.beta2}; must be at least 0 and below 1")
        _check_range(self, "optim.", ["final_lr"], 0, 1, "be a share of lr, 0 to 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        model: Backbone to train, or to train a module on: a .pth or .st file, or a folder.
        recipe: A set of defaults for module, perturbation, anchor and optim, each of which can still be set
            (`train_config` in Python).
        init: An adapter, or the output of a training, whose module's weights training begins with (synthesize only): to
            go on from a finished run, or from other rows. Its module has to be of the same options and sizes.
        train: A jsonl file of {"prompt", "answer"}, {"messages"} or {"text"} rows, or RWKV-LM's binidx data of the
            model's token ids (data.idx beside data.bin); or several.
        out: Folder for the trained model, checkpoints and logs.
        validation: As train, to evaluate on; none by default.
        tokenizer: world, a tokenizer.json, an RWKV vocabulary, or a folder with one; by default the one beside the
            model, else world for a vocabulary of 65536.
        module: The synthesis module (phase 2 and static).
        perturbation: Changes of the recurrent state in training.
        anchor: The anchor that training acts under.
        optim: Optimiser and schedule.
        stop: Early stopping.
        eval_steps: Steps between evaluations.
        save_steps: Steps between checkpoints; the two newest complete ones are kept.
        log_steps: Steps between lines in TensorBoard and on the screen. steps.jsonl has every step.
        dtype: Arithmetic: fp32, bf16 (autocast), or auto, the one that a one-second probe finds faster.
        device: cpu, cuda, or auto.
        seed: Seed of initial weights, order of rows and perturbations.
        known: Share of prompts like the training's that the module is to know (synthesize only). It makes no update of
            others, under which the model would do worse than without one; 1 makes one of every prompt.
        mix: Shares of the kinds of training rows, as kind=weight, like passage=2 code=1; composed-*=1 stands for all
            kinds that match, together; kinds that are not named are left out. By default all rows, each once an
            epoch. For jsonl rows.
        distil: Which rows' answers the module learns from the model that has its prompt, instead of from their tokens:
            open, running text, which has no answer (see data passages); all; or none. The loss of a token is then the
            Kullback-Leibler divergence from that model's prediction. For synthesize and static.
        replay: Share of the training rows in which the prompt is read again, unscored, before the last stage: a
            baseline that spends tokens instead of a module.
        end_token: Ids of tokens that end an answer, of which rows end with the first; by default the model's own.
        begin_token: Id of a token that stands before every prompt, or none; by default the model's own.
        sliding_window: Tokens that attention sees in every layer of a Llama-like model, whose memory is then bounded;
            0: as its files say. It goes with what is trained.
        template: How rows are written: none, world, pile, raven, or model: the model's own. By default the one that a
            text row is written in, the model's own for chats (world under World's tokenizer), and none for a prompt
            and an answer. It goes with what is trained.
        max_tokens: Longest row, prompt and answer together; longer ones are left out and counted. 0 keeps all.
        truncate: Cut longer rows instead: the prompt's beginning, and the end of an answer that is too long by itself.
        cache_taps: Folder in which what the frozen backbone leaves of each prompt is kept, so that it reads none twice:
            for synthesize, on a model that reads prompt and answer in one call (mamba). Runs may share it; none by
            default.
        cache_taps_gb: Most gigabytes of that folder; what is beyond is read anew each time.
        threads: CPU threads; 0 takes all cores where a probe finds that faster right now, else one.
        progress: Show a bar on a terminal; false prints a line every `log_steps` there, too, as in a file or a pipe.
        report_to: Loggers for the lines of `log_steps`: any of transformers' integrations, one or several,
            or none.
        lora: Rank of a LoRA trained instead of the backbone's own weights (finetune only) and merged into them at the
            end; 0 trains the weights themselves.
        lora_alpha: Numerator of the LoRA's scale, lora_alpha / lora; 0 takes twice the rank.
        lora_modules: Projections that get a LoRA, by name, like key; by default all that an update may act on.
    """

    model: UserPath
    train: Annotated[list[str] | str, PATH]
    out: UserPath
    recipe: str = ""
    init: UserPath = ""
    validation: Annotated[list[str] | str, PATH] = field(default_factory=list)
    tokenizer: UserPath = ""
    module: ProSGConfig = field(default_factory=ProSGConfig)
    perturbation: Perturbation = field(default_factory=Perturbation)
    anchor: Anchoring = field(default_factory=Anchoring)
    optim: Optimisation = field(default_factory=Optimisation)
    stop: StopRule = field(default_factory=StopRule)
    eval_steps: int = 100
    save_steps: int = 200
    log_steps: int = 20
    dtype: Literal["auto", "fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    known: float = 0.99
    mix: list[str] = field(default_factory=list)
    distil: Literal["open", "all", "none"] = "open"
    replay: float = 0.0
    end_token: list[int] = field(default_factory=list)
    begin_token: str = ""
    sliding_window: int = 0
    template: str = ""
    max_tokens: int = 0
    truncate: bool = False
    cache_taps: UserPath = ""
    cache_taps_gb: float = 10.0
    threads: int = 0
    progress: bool = True
    report_to: list[str] | str = "tensorboard"
    lora: int = 0
    lora_alpha: float = 0.0
    lora_modules: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        expand_paths(self)
        check_fields(self)
        _check_range(self, "", ["eval_steps", "save_steps", "log_steps"], 1, math.inf, "be at least 1")
        _check_range(
            self,
            "",
            ["max_tokens", "sliding_window", "cache_taps_gb", "threads", "lora", "lora_alpha"],
            0,
            math.inf,
            "not be negative",
        )
        _check_range(self, "", ["seed"], 0, 2**32 - 1, "be 0 to 2^32 - 1")
        _check_range(self, "", ["replay"], 0, 1, "be a share of the rows, 0 to 1")
        _check_range(self, "", ["known"], 0, 1, "be a share of prompts, 0 to 1")
        if (self.lora_alpha or self.lora_modules) and not self.lora:
            raise ValueError("lora_alpha and lora_modules belong to a LoRA; give its rank with --lora")
        known_template(self.template)
        parse_mix(self.mix)
        if self.truncate and self.max_tokens < 2:
            raise ValueError(f"truncate cuts rows to max_tokens, which is {self.max_tokens}, must be at least 2")
        if not self.train:
            raise ValueError("train is empty; name at least one file")
        if (self.stop.times or self.stop.patience) and not self.validation:
            raise ValueError("stop judges validation rows; name a file with --validation")
