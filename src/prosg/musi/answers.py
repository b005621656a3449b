"""Stage 3: one answer, or several, to every instruction that stayed (the paper's figure 2, phase 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prosg.llm.client import Request
from prosg.llm.structured import request_body, request_seed
from prosg.musi.config import BuildConfig
from prosg.utils.store import record_id

__all__ = ["Asked", "requests"]


@dataclass(frozen=True)
class Asked:
    """A request for an answer: `prompt` is the filter's record, `sample` which of several it is."""

    prompt: Mapping[str, Any]
    sample: int
    request: Request


def requests(config: BuildConfig, decisions: Sequence[Mapping[str, Any]]) -> list[Asked]:
    """One request per instruction that was kept and per sample, in order."""
    return [
        Asked(decision, sample, _request(config, decision["prompt"], sample))
        for decision in decisions
        if decision["kept"]
        for sample in range(config.answers.samples)
    ]


def _request(config: BuildConfig, prompt: str, sample: int) -> Request:
    system = [{"role": "system", "content": config.answers.system}] if config.answers.system else []
    seed = request_seed(config.seed, "answers", prompt, sample)
    body = request_body(
        config.endpoint,
        [*system, {"role": "user", "content": prompt}],
        config.answers.temperature,
        config.answers.max_tokens,
        seed,
    )
    return Request(record_id(stage="answers", body=body, seed=seed), body)
