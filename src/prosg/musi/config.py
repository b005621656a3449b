"""Options of a build, as dataclasses whose docstrings are the help, and the checks of a configuration file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prosg.llm.config import BudgetConfig, EndpointConfig, check_budget, check_endpoint, check_top_p
from prosg.utils.options import build, check_at_least, option, read_yaml
from prosg.utils.paths import UserPath, UserPaths, expand_paths

__all__ = [
    "AnswersConfig",
    "BuildConfig",
    "ExportConfig",
    "FilterConfig",
    "PromptsConfig",
    "VerifyConfig",
    "load_config",
]


@dataclass(frozen=True)
class PromptsConfig:
    """Stage 1: instructions, several per request.

    Attributes:
        count: Wanted number of well-formed instructions before the filter.
        per_request: Instructions per request.
        rounds: How often further requests may follow for instructions that were not well-formed.
        categories: Names of categories, which requests take in turn; by default all in English.
        category_files: YAML files of more categories, in the form of the package's own.
        examples: A jsonl file of more examples: {"category", "prompt", "sub_instructions"}.
        shots: Examples that a request shows.
        temperature: Of sampling; null leaves it to the server.
        top_p: Of sampling, likewise.
        max_tokens: Longest reply in tokens, likewise.
    """

    count: int = 500
    per_request: int = 5
    rounds: int = 8
    categories: list[str] = field(default_factory=list)
    category_files: UserPaths = field(default_factory=list)
    examples: UserPath = ""
    shots: int = 2
    temperature: float | None = 1.0
    top_p: float | None = None
    max_tokens: int | None = 3000

    def __post_init__(self) -> None:
        expand_paths(self)


@dataclass(frozen=True)
class FilterConfig:
    """Stage 2: which instructions are kept.

    Attributes:
        shortest: Least number of words (in Chinese: characters) of an instruction.
        longest: Greatest number.
        stages: Least number of sub-instructions.
        knowledge: Greatest domain knowledge as the model rates it: 0 none, 1 a little, 2 some, 3 an expert's.
        domain_words: A text file of more expert words, one per line; an instruction may have one such word at most.
        similar_above: ROUGE-L F1 above which an instruction is a near-duplicate of an earlier one.
        decontaminate: Evaluation files (jsonl, json, txt); no instruction may be a near-duplicate of their texts.
        ngram: Length of a run of words that an instruction must not share with an evaluation text.
    """

    shortest: int = 8
    longest: int = 250
    stages: int = 2
    knowledge: int = 1
    domain_words: UserPath = ""
    similar_above: float = 0.7
    decontaminate: UserPaths = field(default_factory=list)
    ngram: int = 13

    def __post_init__(self) -> None:
        expand_paths(self)


@dataclass(frozen=True)
class AnswersConfig:
    """Stage 3: answers, one request each.

    Attributes:
        samples: Answers per instruction.
        system: A system message; none by default.
        temperature: Of sampling; null leaves it to the server.
        top_p: Of sampling, likewise.
        max_tokens: Longest answer in tokens, likewise; one that is truncated there is rejected.
    """

    samples: int = 1
    system: str = ""
    temperature: float | None = 0.7
    top_p: float | None = None
    max_tokens: int | None = 2000


@dataclass(frozen=True)
class VerifyConfig:
    """Stage 4: which answers follow their instruction.

    Attributes:
        judge: Whether a model judges every sub-instruction. Without it only programmatic checks run, and rows have no
            stages.
        endpoint: Options that differ from the build's endpoint, if another model judges; with another server's base_url
            the name of its key's variable has to be among them.
        tries: How often the judge is asked, each time with another seed, until its verdict is usable.
        temperature: Of sampling; null leaves it to the server, for models that refuse 0.
        top_p: Of sampling, likewise.
        max_tokens: Longest verdict in tokens, likewise.
    """

    judge: bool = True
    endpoint: dict[str, Any] = field(default_factory=dict)
    tries: int = 3
    temperature: float | None = 0.0
    top_p: float | None = None
    max_tokens: int | None = 1500


@dataclass(frozen=True)
class ExportConfig:
    """Stage 5: the data set.

    Attributes:
        name: Its name in the data card.
        licence: Its licence, for the data card.
        sources: Sources of other people's text in it: {"name", "licence", "url"} each.
        cluster_above: ROUGE-L F1 above which two instructions are put into the same split.
    """

    name: str = "MuSI"
    licence: str = ""
    sources: list[dict[str, str]] = field(default_factory=list)
    cluster_above: float = 0.7


@dataclass(frozen=True)
class BuildConfig:
    """A build.

    Attributes:
        out: Folder of all files, created if missing. Paths are relative to the folder in which the command runs.
        seed: Of requests and random draws; another seed gives other instructions.
    """

    out: UserPath = ""
    seed: int = 0
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        expand_paths(self)

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def judge(self) -> EndpointConfig:
        """The endpoint that judges."""
        return dataclasses.replace(self.endpoint, **self.verify.endpoint)


def load_config(path: str | Path, out: str | None = None) -> BuildConfig:
    """Reads the YAML file of a build.

    Args:
        path: The file.
        out: Another folder than the file's, which then need not name one.

    Raises:
        ValueError: for a value that is not allowed; the message names the file, the key and what is allowed.
    """
    content = read_yaml(path)
    if out is not None:
        _check_folder("--out", out)
    try:
        config = build(BuildConfig, {} if content is None else content)
        if out is not None:
            config = dataclasses.replace(config, out=out)
        build(EndpointConfig, config.verify.endpoint, "verify.endpoint.")
        _check(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


AT_LEAST_ONE = [
    "prompts.count",
    "prompts.per_request",
    "prompts.rounds",
    "prompts.max_tokens",
    "filter.shortest",
    "filter.ngram",
    "answers.samples",
    "answers.max_tokens",
    "verify.tries",
    "verify.max_tokens",
]
NOT_NEGATIVE = [
    "seed",
    "prompts.shots",
    "prompts.temperature",
    "answers.temperature",
    "verify.temperature",
    "filter.knowledge",
]


def _check_folder(name: str, out: str) -> None:
    if not out:
        raise ValueError(f"{name} is missing; it names the folder of the build")
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"{name} is {out!r}, which is a file; it names a folder")


def _check(config: BuildConfig) -> None:
    _check_folder("out", config.out)
    check_at_least(config, [name for name in AT_LEAST_ONE if option(config, name) is not None], 1)
    check_at_least(config, [name for name in NOT_NEGATIVE if option(config, name) is not None], 0)
    for name in ("prompts", "answers", "verify"):
        check_top_p(getattr(config, name).top_p, f"{name}.")
    if config.filter.stages < 2:
        raise ValueError(f"filter.stages is {config.filter.stages}; an instruction in stages has at least 2")
    if config.filter.longest < config.filter.shortest:
        raise ValueError(f"filter.longest is {config.filter.longest}, less than filter.shortest")
    for name in ("filter.similar_above", "export.cluster_above"):
        if not 0 < option(config, name) < 1:
            raise ValueError(f"{name} is {option(config, name)}; it must lie between 0 and 1")
    for place, source in enumerate(config.export.sources):
        if "name" not in source or set(source) - {"name", "licence", "url"}:
            keys = ", ".join(source) or "nothing"
            raise ValueError(f"export.sources[{place}] has {keys}; it needs a name and may have a licence and a url")
    check_endpoint("endpoint", config.endpoint)
    check_endpoint("verify.endpoint", config.judge)
    same_server = urlsplit(config.judge.base_url)[:2] == urlsplit(config.endpoint.base_url)[:2]
    if config.endpoint.api_key_env and not same_server and "api_key_env" not in config.verify.endpoint:
        raise ValueError(
            "verify.endpoint.base_url is another server's, and the key of endpoint is not sent to it unasked; name the "
            "variable of its key in verify.endpoint.api_key_env, or '' for a server without keys"
        )
    check_budget(config.budget, config.endpoint, config.judge)
