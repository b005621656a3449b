"""Every option of an evaluation, as dataclasses whose docstrings are the help."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prosg.llm.config import BudgetConfig, EndpointConfig
from prosg.utils.options import build
from prosg.utils.paths import UserPath, expand_paths
from prosg.utils.values import INFINITE

__all__ = [
    "MEASURES",
    "CapacityConfig",
    "CurveConfig",
    "DataConfig",
    "EvalConfig",
    "GenerationConfig",
    "OverheadConfig",
    "SystemConfig",
]

MEASURES = ("accuracy", "perplexity", "curve", "capacity", "overhead")
CAPS = tuple(one.name for one in dataclasses.fields(BudgetConfig))


@dataclass(frozen=True)
class SystemConfig:
    """One system under test: a model and what is done to its prompt and its memory, or a model behind an endpoint.

    Attributes:
        model: An adapter, a backbone (.pth, .st or folder), a Hugging Face folder, a training's output, or "demo".
        base: The adapter's backbone, where it has moved.
        tokenizer: "world", a tokenizer.json, or a folder with one, where none lies beside the model.
        dtype: fp32, bf16, fp16 or fp64; the file's own by default.
        end_token: Ids of tokens that end an answer; by default what the model's files say.
        begin_token: Id of a token that stands before every prompt, or none; likewise.
        initial: A learned initial state (state tuning): a .pth, or the output of its training.
        memory: What holds the prompt: none; anchor, which pulls the state back to the prompt's; update, the module's;
            or both. By default what the model was trained for.
        anchor: Learned windows of an anchor: a file, or the output of their training.
        tau: Window of the anchor, tokens; 0 takes the model's own or the backbone's default.
        age: Empty tokens by which the anchor's memory is aged; below 0 likewise.
        update: Whose update and anchor act.
        state: Whether the prompt's recurrent state is kept, or replaced by the initial one before the answer.
        prompt: Whether the prompt is read once or twice.
        replay_every: Read the prompt again each time so many tokens of the answer have been written; 0: never.
        late_replay: In curves, read the prompt again before the late stage.
        refresh_every: Begin the state anew from the prompt's end each time so many tokens of the answer have been
            written; 0: never.
        late_refresh: In curves, begin it anew before the late stage.
        refresh_keep: Tokens at the answer's end that are then read once more.
        window: Show the module the prompt in windows of this many tokens; 0: all at once.
        template: How a prompt is written for this model: none, world, pile, raven, or model, its own; "" as the rows
            are, and as it was trained.
        endpoint: Options of a server that speaks the OpenAI API, instead of `model`; `requests` and `tokens` cap what
            is asked.
        label: What reports call it; systems of the same label and other seeds are one line. Its name by default.
        seed: Of its training, to tell such systems apart.
    """

    model: UserPath = ""
    base: UserPath = ""
    tokenizer: UserPath = ""
    dtype: str = ""
    end_token: list[int] = field(default_factory=list)
    begin_token: str = ""
    initial: UserPath = ""
    memory: Literal["", "none", "anchor", "update", "both", "auto"] = ""
    anchor: UserPath = ""
    tau: float = field(default=0.0, metadata=INFINITE)
    age: float = -1.0
    update: Literal["own", "other", "mean", "none"] = "own"
    state: Literal["kept", "wiped"] = "kept"
    prompt: Literal["once", "twice"] = "once"
    replay_every: int = 0
    late_replay: bool = False
    refresh_every: int = 0
    late_refresh: bool = False
    refresh_keep: int = 50
    window: int = 0
    template: str = ""
    endpoint: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        expand_paths(self)

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
        kinds: Kinds of instruction, for made rows and for the curve; natural stands for those of everyday language;
            the demo's by default.
        rows: Rows that are made; of a file, at most so many of its first, 0 for all.
        sentences: Shortest and longest story of made rows.
        split: Of made rows.
        seed: Of made rows, of stories and of whose update is another's.
    """

    file: UserPath = ""
    suite: Literal["", "ifeval"] = ""
    train: UserPath = ""
    kinds: list[str] = field(default_factory=list)
    rows: int = 64
    sentences: list[int] = field(default_factory=lambda: [1, 5])
    split: Literal["train", "validation", "test"] = "test"
    seed: int = 0

    def __post_init__(self) -> None:
        expand_paths(self)


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
    """

    max_tokens: int = 256
    temperature: float = 0.8
    late_temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


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
        tokens_per_sentence: A story that has not ended its sentences after so many tokens each is judged where it is.
    """

    rows: int = 64
    sentences: list[int] = field(default_factory=lambda: [5, 20, 60, 125, 250])
    prompt_tokens: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    filler: UserPath = ""
    tokens_per_sentence: int = 24

    def __post_init__(self) -> None:
        expand_paths(self)


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

    out: UserPath = ""
    systems: dict[str, Any] = field(default_factory=dict, metadata=INFINITE)
    measures: list[str] = field(default_factory=lambda: list(MEASURES))
    reference: str = ""
    batch_size: int = 64
    device: str = "auto"
    cache: UserPath = ""
    title: str = "Evaluation"
    data: DataConfig = field(default_factory=DataConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    curve: CurveConfig = field(default_factory=CurveConfig)
    capacity: CapacityConfig = field(default_factory=CapacityConfig)
    overhead: OverheadConfig = field(default_factory=OverheadConfig)

    def __post_init__(self) -> None:
        expand_paths(self)

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
            raise ValueError(f"systems has no {name!r}; it has {', '.join(self.systems)}")
        options = self.systems[name]
        options = {"model": options} if isinstance(options, str) else options
        config = build(SystemConfig, options, f"systems.{name}.")
        return config if config.label else dataclasses.replace(config, label=name)
