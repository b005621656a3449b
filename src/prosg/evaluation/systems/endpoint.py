"""Remote systems: models behind an endpoint with the OpenAI API, which give answers but no probabilities or states.

OUT/endpoints/NAME/answers.jsonl   every reply as it was received
OUT/endpoints/NAME/ledger.jsonl    every request: booked, settled, lost
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from prosg.data.chat import as_messages
from prosg.data.row import Row
from prosg.evaluation.answer_cache import Answer
from prosg.evaluation.config import EvalConfig
from prosg.evaluation.store import write_answers, write_part
from prosg.evaluation.systems.prompts import read_twice
from prosg.llm.completion import ChatRequest
from prosg.llm.config import BudgetConfig, EndpointConfig, check_budget, require_key
from prosg.llm.request_log import RequestLog
from prosg.llm.structured import request_body, request_seed
from prosg.utils.store import record_id

__all__ = ["check_endpoint_system", "evaluate_endpoint"]

LEFT_OUT = "an endpoint gives texts, not probabilities or states"
NO_ANSWER = ("error",)
"""Finish reasons of replies without an answer of the model."""


def check_endpoint_system(config: EvalConfig, name: str) -> tuple[EndpointConfig, BudgetConfig]:
    """Checks the endpoint, the caps and the API key of a remote system.

    Args:
        config: The evaluation.
        name: The system's name; it must have an endpoint.

    Returns:
        The endpoint and the caps on its requests.

    Raises:
        ValueError: Where a cap is missing or the key is not set; the message names the option.
    """
    remote = config.system(name).remote
    assert remote is not None
    endpoint, caps = remote
    try:
        check_budget(caps, endpoint)
        require_key("endpoint", endpoint)
    except ValueError as error:
        raise ValueError(f"systems.{name}: {str(error).replace('budget.', 'endpoint.')}") from None
    return endpoint, caps


def evaluate_endpoint(config: EvalConfig, name: str, rows: Sequence[Row], stale: Sequence[str]) -> int:
    """Obtains a remote system's answers, as far as they are not recorded yet, and writes its parts of the evaluation.

    Args:
        config: The evaluation.
        name: The system's name.
        rows: The rows to be answered.
        stale: Names of the measures to take; all but accuracy are recorded as left out.

    Returns:
        0, or 1 where replies are missing in the end (a cap was reached, or the server failed); then accuracy gets no
        part, and the same call continues.
    """
    endpoint, caps = check_endpoint_system(config, name)
    about = {"backbone": "endpoint", "fingerprint": ""}
    for measure in stale:
        if measure != "accuracy":
            write_part(config, name, measure, rows, {"left_out": LEFT_OUT}, 0.0, about)
    if "accuracy" not in stale:
        return 0
    start = time.perf_counter()
    answers, status = asyncio.run(_ask(config, name, endpoint, caps, rows))
    write_answers(config, name, answers)
    if status == 0:
        result = {"answers": len(answers), "refused": len(rows) - len(answers)}
        write_part(config, name, "accuracy", rows, result, time.perf_counter() - start, about)
    return status


async def _ask(
    config: EvalConfig, name: str, endpoint: EndpointConfig, caps: BudgetConfig, rows: Sequence[Row]
) -> tuple[list[Answer], int]:
    """Sends the requests without a recorded reply; returns the answers there are and the exit status."""
    requests = [_request(config, name, endpoint, row) for row in rows]
    log = RequestLog(config.folder / "endpoints" / name, ("answers",), caps, f"systems.{name}.endpoint")
    replies = log.replies["answers"]
    try:
        await log.request_all(f"asking {name}", "answers", endpoint, requests, lambda r: None if r.id in replies else r)
        status = log.print_summary()
    finally:
        await log.close()
    answers = []
    for row, request in zip(rows, requests, strict=True):
        reply = replies.get(request.id)
        if reply is not None and reply["finish"] not in NO_ANSWER:
            reason = "end" if reply["finish"] == "stop" else reply["finish"]
            answers.append(Answer(row.id, reply["reply"], reply["tokens_out"], reason))
    return answers, status


def _request(config: EvalConfig, name: str, endpoint: EndpointConfig, row: Row) -> ChatRequest:
    generation = config.generation
    if config.system(name).prompt == "twice":
        row = read_twice(row)
    messages: list[dict[str, Any]] = (
        as_messages(row.turns, "")[:-1] if row.turns else [{"role": "user", "content": row.prompt}]
    )
    seed = request_seed(generation.seed, "eval", row.prompt, 0)
    top_p = generation.top_p if generation.top_p < 1 else None
    body = request_body(endpoint, messages, generation.temperature, generation.max_tokens, seed, top_p=top_p)
    return ChatRequest(record_id(stage="eval", body=body, seed=seed), body)
