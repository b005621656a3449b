"""A system behind an endpoint that speaks the OpenAI API: it answers, and that is all that it can be asked.

OUT/endpoints/NAME/answers.jsonl   every reply as it came
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
from prosg.evaluation.measures import write_answers
from prosg.evaluation.runner import write_part
from prosg.evaluation.systems.local import read_twice
from prosg.llm.client import Request, need_key
from prosg.llm.config import BudgetConfig, EndpointConfig, check_budget
from prosg.llm.ledger import Asking
from prosg.llm.structured import request_body, request_seed
from prosg.utils.store import record_id

__all__ = ["check_endpoint_system", "evaluate_endpoint"]

CANNOT = "an endpoint gives texts, not probabilities or states"
NO_ANSWER = ("error", "malformed")
"""ends of replies in which the model did not speak"""


def check_endpoint_system(config: EvalConfig, name: str) -> tuple[EndpointConfig, BudgetConfig]:
    """Its options. ValueError where a cap or a key is missing."""
    system = config.system(name)
    remote = system.remote
    assert remote is not None
    endpoint, caps = remote
    try:
        check_budget(caps, endpoint)
        need_key("endpoint", endpoint)
    except ValueError as error:
        raise ValueError(f"systems.{name}: {str(error).replace('budget.', 'endpoint.')}") from None
    return endpoint, caps


def evaluate_endpoint(config: EvalConfig, name: str, rows: Sequence[Row], stale: Sequence[str]) -> int:
    """Ask for what is missing; 1 where replies are missing in the end (a cap, a dead server)."""
    endpoint, caps = check_endpoint_system(config, name)
    about = {"backbone": "endpoint", "fingerprint": ""}
    for measure in stale:
        if measure != "accuracy":
            write_part(config, name, measure, rows, {"left_out": CANNOT}, 0.0, about)
    if "accuracy" not in stale:
        return 0
    start = time.perf_counter()
    answers, short = asyncio.run(_ask(config, name, endpoint, caps, rows))
    write_answers(config, name, answers)
    if not short:
        result = {"answers": len(answers), "refused": len(rows) - len(answers)}
        write_part(config, name, "accuracy", rows, result, time.perf_counter() - start, about)
    return short


async def _ask(
    config: EvalConfig, name: str, endpoint: EndpointConfig, caps: BudgetConfig, rows: Sequence[Row]
) -> tuple[list[Answer], int]:
    system, generation = config.system(name), config.generation
    asking = Asking(config.folder / "endpoints" / name, ("answers",), caps)
    requests = []
    for row in rows:
        shown = read_twice(row) if system.prompt == "twice" else row
        messages: list[dict[str, Any]] = (
            as_messages(shown.turns, "")[:-1] if shown.turns else [{"role": "user", "content": shown.prompt}]
        )
        seed = request_seed(generation.seed, "eval", shown.prompt, 0)
        body = request_body(endpoint, messages, generation.temperature, generation.max_tokens, seed)
        if generation.top_p < 1 and "top_p" not in body:
            body["top_p"] = generation.top_p
        requests.append(Request(record_id(stage="eval", body=body, seed=seed), body))
    replies = asking.replies["answers"]
    try:
        await asking.all(f"asking {name}", "answers", endpoint, requests, lambda r: None if r.id in replies else r)
        short = asking.tell()
    finally:
        await asking.close()
    answers = []
    for row, request in zip(rows, requests, strict=True):
        if (reply := replies.get(request.id)) is not None and reply["finish"] not in NO_ANSWER:
            reason = {"stop": "end"}.get(reply["finish"], reply["finish"])
            answers.append(Answer(row.id, reply["reply"], reply["tokens_out"], reason))
    return answers, short
