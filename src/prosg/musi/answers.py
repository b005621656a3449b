"""Stage 3: one answer, or several, to every instruction that the filter kept (figure 2 of the paper, phase 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prosg.llm.completion import ChatRequest
from prosg.llm.structured import request_body, request_seed
from prosg.musi.config import BuildConfig
from prosg.utils.store import record_id

__all__ = ["AnswerRequest", "answer_requests"]


class AnswerRequest(NamedTuple):
    """A request for an answer; `decision`: the filter's record of the instruction; `sample`: which answer, from 0."""

    decision: Mapping[str, Any]
    sample: int
    request: ChatRequest


def answer_requests(config: BuildConfig, decisions: Sequence[Mapping[str, Any]]) -> list[AnswerRequest]:
    """Returns a request for each sample of each instruction that the filter kept, in order."""
    return [
        AnswerRequest(decision, sample, _request(config, decision["prompt"], sample))
        for decision in decisions
        if decision["kept"]
        for sample in range(config.answers.samples)
    ]


def _request(config: BuildConfig, prompt: str, sample: int) -> ChatRequest:
    system = [{"role": "system", "content": config.answers.system}] if config.answers.system else []
    seed = request_seed(config.seed, "answers", prompt, sample)
    body = request_body(
        config.endpoint,
        [*system, {"role": "user", "content": prompt}],
        config.answers.temperature,
        config.answers.max_tokens,
        seed,
        top_p=config.answers.top_p,
    )
    return ChatRequest(record_id(stage="answers", body=body, seed=seed), body)
