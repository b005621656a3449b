"""Configuration of `prosg judge`: the model that judges, its caps, and the pairs of systems to compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from prosg.llm.config import BudgetConfig, EndpointConfig, check_budget, check_endpoint, check_top_p
from prosg.utils.options import build, read_yaml
from prosg.utils.paths import UserPath, expand_paths

__all__ = ["JudgeConfig", "load_judge"]


@dataclass(frozen=True)
class JudgeConfig:
    """Options of a judge.

    Attributes:
        out: Folder of recorded replies and of the ledger, created if missing. A recorded request is not sent again, and
            the caps hold over all requests ever recorded in the same folder.
        seed: Seed of the requests; with another seed every request is sent anew.
        endpoint: The model, and how requests are sent to it.
        budget: Hard caps. The most that a request can cost is booked before it is sent.
        pairs: Pairs of systems to compare, by the names of their files of answers, like [[plus, phase1]].
        tries: Attempts per question, each with another seed, until a reply holds a usable verdict.
        temperature: Of sampling; null leaves it to the server, for models that refuse 0.
        top_p: Of sampling, likewise.
        max_tokens: Longest reply in tokens, likewise.
    """

    out: UserPath = ""
    seed: int = 0
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    pairs: list[list[str]] = field(default_factory=list)
    tries: int = 3
    temperature: float | None = 0.0
    top_p: float | None = None
    max_tokens: int | None = 1500

    def __post_init__(self) -> None:
        expand_paths(self)


def load_judge(path: str | Path) -> JudgeConfig:
    """Reads and checks the YAML file of a judge.

    Raises:
        ValueError: For a file that cannot be read and for options that are unknown, missing or out of range; the
            message names the file, the key and what is allowed.
    """
    content = read_yaml(path)
    try:
        config = build(JudgeConfig, {} if content is None else content)
        if not config.out:
            raise ValueError("out is missing; it names the folder for the judge's replies and the ledger")
        if Path(config.out).exists() and not Path(config.out).is_dir():
            raise ValueError(f"out is {config.out!r}, which is a file; it names a folder")
        check_top_p(config.top_p)
        for name, least in (("seed", 0), ("tries", 1), ("max_tokens", 1), ("temperature", 0)):
            if getattr(config, name) is not None and not getattr(config, name) >= least:
                raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {least}")
        for index, pair in enumerate(config.pairs):
            if len(set(pair)) != 2 or len(pair) != 2:
                raise ValueError(f"pairs[{index}] is {pair}; it must name two systems, like [plus, phase1]")
            if pair in config.pairs[:index]:
                raise ValueError(f"pairs[{index}] is {pair}, as an earlier one; each pair stands once")
        check_endpoint("endpoint", config.endpoint)
        check_budget(config.budget, config.endpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config
