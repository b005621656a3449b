"""Stage 1: instructions of the categories, several per request (the paper's figure 2, phase 1).

Requests have numbers, from 0 on. A number gives the category, examples, subjects and seed, so the same configuration
asks for the same, however often it is stopped. Where replies hold fewer well-formed instructions than are wanted, a
further round of requests is added; what a round holds follows from the replies alone, not from when they came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from prosg.llm.client import Request
from prosg.llm.structured import request_body, request_seed
from prosg.musi.categories import Category, topics
from prosg.musi.config import BuildConfig
from prosg.musi.draft import Draft, check_types, parse_drafts, schema
from prosg.musi.packaged import packaged
from prosg.musi.text import plain
from prosg.utils.store import record_id

__all__ = ["Drafted", "drafted", "requests"]

SUBJECTS = 3


class Drafted(NamedTuple):
    """An instruction of a reply, or what is wrong with it: `draft` or `fault`."""

    source: str
    place: int
    category: str
    draft: Draft | None
    fault: str


def _request(config: BuildConfig, category: Category, number: int) -> Request:
    seed = request_seed(config.seed, "prompts", number)
    rng = Random(seed)
    shown = rng.sample(category.examples, min(config.prompts.shots, len(category.examples)))
    text = packaged("requests.yaml")["drafts"][category.language].format(
        name=category.name,
        description=category.description,
        count=config.prompts.per_request,
        least=category.stages[0],
        most=category.stages[1],
        subjects=("、" if category.language == "zh" else ", ").join(rng.sample(topics(category.language), SUBJECTS)),
        checks=check_types(),
        examples="\n".join(json.dumps(one.to_dict(), ensure_ascii=False) for one in shown),
    )
    body = request_body(
        config.endpoint,
        [{"role": "user", "content": text}],
        config.prompts.temperature,
        config.prompts.max_tokens,
        seed,
        {"name": "musi_prompts", "schema": schema(config.prompts.per_request)},
    )
    return Request(record_id(stage="prompts", body=body, seed=seed), body)


def requests(config: BuildConfig, categories: Sequence[Category], first: int, last: int) -> list[tuple[str, Request]]:
    """Requests number `first` to `last` - 1, each with the name of its category."""
    chosen = [(number, categories[number % len(categories)]) for number in range(first, last)]
    return [(category.name, _request(config, category, number)) for number, category in chosen]


def rounds(
    config: BuildConfig, categories: Sequence[Category], replies: Mapping[str, Mapping[str, Any]]
) -> Iterator[list[tuple[str, Request]]]:
    """One list of requests after the other; what is asked must be in `replies` before the next list is taken."""
    asked: list[tuple[str, Request]] = []
    for _ in range(config.prompts.rounds):
        found = {plain(one.draft.prompt) for one in drafted(asked, replies) if one.draft}
        missing = config.prompts.count - len(found)
        if missing <= 0:
            return
        more = -(-missing // config.prompts.per_request)
        added = requests(config, categories, len(asked), len(asked) + more)
        asked += added
        yield added


def drafted(asked: Sequence[tuple[str, Request]], replies: Mapping[str, Mapping[str, Any]]) -> list[Drafted]:
    """What the replies hold, in the order of the requests; a request without a reply holds nothing."""
    found = []
    for category, request in asked:
        reply = replies.get(request.id)
        if reply is None:
            continue
        fault = f"a refusal: {reply['refusal']}" if reply["refusal"] else ""
        if reply["finish"] == "length":
            fault = "cut off at max_tokens"
        parsed: list[Draft | str] = [fault] if fault else parse_drafts(reply["reply"])
        for place, one in enumerate(parsed):
            draft, wrong = (None, one) if isinstance(one, str) else (one, "")
            found.append(Drafted(request.id, place, category, draft, wrong))
    return found
