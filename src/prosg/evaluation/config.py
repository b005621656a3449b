"""Every option of an evaluation, as dataclasses whose docstrings are the help."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prosg.data.templates import known_template
from prosg.llm.config import BudgetConfig, EndpointConfig, check_endpoint
from prosg.utils.options import build, option, read_yaml

__all__ = [
    "MEASURES",
    "CapacityConfig",
    "CurveConfig",
    "DataConfig",
    "EvalConfig",
    "GenerationConfig",
    "OverheadConfig",
    "SystemConfig",
    "load_config",
]

MEASURES = ("accuracy", "perplexity", "curve", "capacity", "overhead")
CAPS = tuple(one.name for one in dataclasses.fields(BudgetConfig))


@dataclass(frozen=True)
class SystemConfig:
    """One system under test: a model and what is done to its prompt and its memory, or a model behind an endpoint.

    Attributes:
        model: An adapter, a backbone (.pth or folder), a Hugging Face folder, a training's output, or "demo".
        base: The adapter's backbone, where it has moved.
        tokenizer: "world", a tokenizer.json, or a folder with one, where none lies beside the model.
        dtype: fp32, bf16, fp16 or fp64; the file's own by default.
        initial: A learned initial state (state tuning): a .pth, or the output of its training.
        update: Whose update acts. A model without a module has none.
        state: Whether the prompt's recurrent state is kept, or replaced by the initial one before the answer.
        prompt: Whether the prompt is read once or twice.
        replay_every: Read the prompt again each time so many tokens of the answer have been written; 0: never.
        late_replay: In curves, read the prompt again before the late stage.
        window: Show the module the prompt in windows of this many tokens; 0: all at once.
        template: How a prompt is written for this model: none, world, pile or raven; "" as the rows are.
        endpoint: Options of a server that speaks the OpenAI API, instead of `model`; `requests` and `tokens` cap what
            is asked.
        label: What reports call it; systems of the same label and other seeds are one line. Its name by default.
        seed: Of its training, to tell such systems apart.
    """

    model: str = ""
    base: str = ""
    tokenizer: str = ""
    dtype: str = ""
    initial: str = ""
    update: Literal["own", "other", "mean", "none"] = "own"
    state: Literal["kept", "wiped"] = "kept"
    prompt: Literal["once", "twice"] = "once"
    replay_every: int = 0
    late_replay: bool = False
    window: int = 0
    template: str = ""
    endpoint: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    seed: int = 0

    @property
    def remote(self) -> tuple[EndpointConfig, BudgetConfig] | None:
        """The endpoint and its caps, for a system that is one."""
        if not self.endpoint:
            return None
        known = [*(one.name for one in dataclasses.fields(EndpointConfig)), *CAPS]
        if unknown := [key for key in self.endpoint if key not in known]:
            raise ValueError(f"unknown key endpoint.{unknown[0]}; known are {', '.join(known)}")
        caps = {key: value for key, value in self.endpoint.items() if key in CAPS}
        kept = {key: value for key, value in self.endpoint.items() if key not in CAPS}
        return build(EndpointConfig, kept, "endpoint."), build(BudgetConfig, caps, "endpoint.")


@dataclass(frozen=True)
class DataConfig:
    """What is asked.

    Attributes:
        file: jsonl rows, with answers or of prompts alone; "" makes rows of kinds.
        suite: ifeval, for a file in IFEval's published format; its instructions are then checked.
        train: jsonl rows whose prompts the mean update is taken over; for made rows it is made, too.
        kinds: Kinds of instruction, for made rows and for the curve; the demo's by default.
        rows: Rows that are made; of a file, at most so many of its first, 0 for all.
        sentences: Shortest and longest story of made rows.
        split: Of made rows.
        seed: Of made rows, of stories and of whose update is another's.
    """

    file: str = ""
    suite: Literal["", "ifeval"] = ""
    train: str = ""
    kinds: list[str] = field(default_factory=list)
    rows: int = 64
    sentences: list[int] = field(default_factory=lambda: [1, 5])
    split: Literal["train", "validation", "test"] = "test"
    seed: int = 0


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are written.

    Attributes:
        max_tokens: Longest answer.
        temperature: Until the late stage's marker; 0 takes the likeliest token.
        late_temperature: From the marker on, where a row has stages.
        top_k: Draw from the k likeliest tokens; 0: all.
        top_p: Draw from the likeliest tokens that hold this probability.
        seed: Of the random numbers, which are a function of it, the row and the step.
        end_token: Id that ends an answer.
    """

    max_tokens: int = 256
    temperature: float = 0.8
    late_temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    end_token: int = 0


@dataclass(frozen=True)
class CurveConfig:
    """The forgetting curve: late-stage accuracy against distance, length-controlled, on made rows.

    Every combination of prompt lengths, turns and items is measured.

    Attributes:
        rows: Prompts per cell.
        sentences: Lengths of the story; the first is in range.
        prompt_tokens: Prompts of these lengths, the instruction among irrelevant sentences; as they are by default.
        turns: So many other turns of the kind, read with their answers, between story and late stage; none by default.
        items: So many digits, names or pairs in a prompt; the kind's own by default.
        filler: A text file that stories are read from, sentence by sentence, instead of sampled.
    """

    rows: int = 64
    sentences: list[int] = field(default_factory=lambda: [5, 20, 60, 125, 250])
    prompt_tokens: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    filler: str = ""


@dataclass(frozen=True)
class CapacityConfig:
    """The capacity curve: late-stage accuracy against the number of items that a prompt gives, length-controlled.

    Attributes:
        kind: A kind whose number of items can be set.
        items: How many.
        sentences: Length of the story.
        rows: Prompts per cell.
    """

    kind: str = "code"
    items: list[int] = field(default_factory=lambda: [4, 6, 8, 10, 12])
    sentences: int = 20
    rows: int = 64


@dataclass(frozen=True)
class OverheadConfig:
    """What encoding and the update cost, beside the same backbone without.

    Attributes:
        batch: Prompts at once.
        tokens: Tokens of each prompt.
        steps: Tokens that are written.
        repeats: Times that each is measured; the quickest counts.
    """

    batch: int = 8
    tokens: int = 64
    steps: int = 32
    repeats: int = 3


@dataclass(frozen=True)
class EvalConfig:
    """An evaluation.

    Attributes:
        out: Folder for everything, made where it is missing.
        systems: What is tested, by name: a model, or its options. Names and options: see SYSTEM below.
        measures: Of accuracy, perplexity, curve, capacity, overhead; what a system cannot is left out and said.
        reference: The system that the others are compared with, by label; the first by default.
        batch_size: Rows at once.
        device: cpu, cuda, or auto.
        cache: File that answers are kept in; in the output folder by default. Several evaluations may share one.
        title: What the report is called.
    """

    out: str = ""
    systems: dict[str, Any] = field(default_factory=dict)
    measures: list[str] = field(default_factory=lambda: list(MEASURES))
    reference: str = ""
    batch_size: int = 64
    device: str = "auto"
    cache: str = ""
    title: str = "Evaluation"
    data: DataConfig = field(default_factory=DataConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    curve: CurveConfig = field(default_factory=CurveConfig)
    capacity: CapacityConfig = field(default_factory=CapacityConfig)
    overhead: OverheadConfig = field(default_factory=OverheadConfig)

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def cache_file(self) -> Path:
        """The file that answers are kept in."""
        return Path(self.cache) if self.cache else self.folder / "cache.sqlite"

    def system(self, name: str) -> SystemConfig:
        """The options of a system. ValueError for one that is not there."""
        if name not in self.systems:
            raise ValueError(f"there is no system {name!r}; there are {', '.join(self.systems)}")
        options = self.systems[name]
        options = {"model": options} if isinstance(options, str) else options
        config = build(SystemConfig, options, f"systems.{name}.")
        return config if config.label else dataclasses.replace(config, label=name)


AT_LEAST_ONE = (
    "batch_size",
    "generation.max_tokens",
    "curve.rows",
    "capacity.rows",
    "capacity.sentences",
    "overhead.batch",
    "overhead.tokens",
    "overhead.steps",
    "overhead.repeats",
)
NEVER_NEGATIVE = (
    "data.rows",
    "data.seed",
    "generation.temperature",
    "generation.late_temperature",
    "generation.top_k",
    "generation.seed",
    "generation.end_token",
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def load_config(path: str | Path, out: str | None = None) -> EvalConfig:
    """Read a YAML file; `out` replaces its own. ValueError names the file, the key and what is allowed."""
    content = read_yaml(path)
    try:
        config = build(EvalConfig, {} if content is None else content)
        if out is not None:
            config = dataclasses.replace(config, out=out)
        _check(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def _check(config: EvalConfig) -> None:
    if not config.out:
        raise ValueError("out is missing; it names the folder of the evaluation (or give --out)")
    if config.folder.exists() and not config.folder.is_dir():
        raise ValueError(f"out is {config.out!r}, which is a file; it names a folder")
    if not config.title.isprintable():
        raise ValueError(f"title is {config.title!r}; it must be one line of text")
    if not config.systems:
        raise ValueError("systems are missing; name at least one, like  phase1: runs/phase1/model")
    _among("measures", config.measures, MEASURES)
    for name in AT_LEAST_ONE:
        if option(config, name) < 1:
            raise ValueError(f"{name} is {option(config, name)}; it must be at least 1")
    for name in NEVER_NEGATIVE:
        if option(config, name) < 0:
            raise ValueError(f"{name} is {option(config, name)}; it must be 0 or more")
    if not 0 < config.generation.top_p <= 1:
        raise ValueError(f"generation.top_p is {config.generation.top_p}; it must be above 0 and at most 1")
    if config.data.suite and not config.data.file:
        raise ValueError(f"data.suite is {config.data.suite!r}, but data.file is missing: name the suite's file")
    if not config.data.file and config.data.rows < 1:
        raise ValueError("data.rows is 0; without a file, rows are made, at least 1")
    if len(config.data.sentences) != 2 or not 0 <= config.data.sentences[0] <= config.data.sentences[1]:
        raise ValueError(f"data.sentences is {config.data.sentences}; give the least and the greatest number")
    for name in ("curve.sentences", "capacity.items", "curve.prompt_tokens", "curve.turns", "curve.items"):
        values = option(config, name)
        wanted = name in ("curve.sentences", "capacity.items")
        if (wanted and not values) or (values and min(values) < 1) or sorted(set(values)) != list(values):
            raise ValueError(f"{name} is {values}; give rising numbers from 1 on")
    if config.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {config.device!r}; allowed: auto, cpu, cuda")
    labels: dict[tuple[str, int], str] = {}
    for name in config.systems:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"systems.{name}: a name has letters, digits, '.', '_' and '-', at most 64; what reports say is `label`"
            )
        system = config.system(name)
        _check_system(name, system)
        if (taken := labels.setdefault((system.label, system.seed), name)) != name:
            raise ValueError(f"systems.{name}: has the label and seed of {taken}; give another label or seed")
    if config.reference and config.reference not in {label for label, _ in labels}:
        known = ", ".join(dict.fromkeys(label for label, _ in labels))
        raise ValueError(f"reference is {config.reference!r}; allowed: {known}")


def _check_system(name: str, system: SystemConfig) -> None:
    where = f"systems.{name}"
    if bool(system.model) == bool(system.endpoint):
        raise ValueError(f"{where}: give either a model or an endpoint")
    if not system.label.isprintable():
        raise ValueError(f"{where}: label is {system.label!r}; it must be one line of text")
    if system.replay_every < 0 or system.window < 0:
        raise ValueError(f"{where}: replay_every and window must be 0 or more")
    try:
        known_template(system.template)
    except ValueError as error:
        raise ValueError(f"{where}.template: {error}") from None
    try:
        remote = system.remote
        if remote is not None:
            check_endpoint("endpoint", remote[0])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if remote is not None:
        changed = [one.name for one in dataclasses.fields(system) if getattr(system, one.name) != one.default]
        if wrong := set(changed) - {"endpoint", "label", "seed", "prompt"}:
            raise ValueError(f"{where}: {', '.join(sorted(wrong))} cannot be had from an endpoint")


def _among(name: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    if unknown := [one for one in given if one not in allowed]:
        raise ValueError(f"{name} has {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    if not given:
        raise ValueError(f"{name} is empty; allowed: {', '.join(allowed)}")
