"""Stage 1: instructions of the categories, several per request (figure 2 of the paper, phase 1).

Requests are numbered from 0. The number decides category, examples, subjects and seed, so that an interrupted build
continues with equal requests. Where replies hold too few well-formed instructions, a further round of requests follows;
it depends on the replies alone, not on when they arrived.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

from prosg.llm.completion import ChatRequest, ReplyRecord
from prosg.llm.structured import request_body, request_seed
from prosg.musi.categories import Category, topics
from prosg.musi.config import BuildConfig
from prosg.musi.draft import Draft, check_types, drafts_schema, parse_drafts
from prosg.musi.packaged import packaged_yaml
from prosg.musi.text import plain
from prosg.utils.store import record_id

__all__ = ["DraftedInstruction", "PromptRequest", "drafted_instructions", "prompt_requests", "request_rounds"]

SUBJECTS = 3
"""Subjects that a request proposes."""


class PromptRequest(NamedTuple):
    """A request for instructions of a category."""

    category: str
    request: ChatRequest


class DraftedInstruction(NamedTuple):
    """An instruction by its reply's id and its index there: `draft`, or `fault`, which says why there is none."""

    source: str
    place: int
    category: str
    draft: Draft | None
    fault: str


def _request(config: BuildConfig, category: Category, number: int) -> ChatRequest:
    seed = request_seed(config.seed, "prompts", number)
    rng = Random(seed)
    shown = rng.sample(category.examples, min(config.prompts.shots, len(category.examples)))
    text = packaged_yaml("requests.yaml")["drafts"][category.language].format(
        name=category.name,
        description=category.description,
        count=config.prompts.per_request,
        least=category.stages[0],
        most=category.stages[1],
        subjects=("、" if category.language == "zh" else ", ").join(rng.sample(topics(category.language), SUBJECTS)),
        checks=check_types(),
        examples="\n".join(json.dumps(example.to_dict(), ensure_ascii=False) for example in shown),
    )
    body = request_body(
        config.endpoint,
        [{"role": "user", "content": text}],
        config.prompts.temperature,
        config.prompts.max_tokens,
        seed,
        {"name": "musi_prompts", "schema": drafts_schema(config.prompts.per_request)},
        top_p=config.prompts.top_p,
    )
    return ChatRequest(record_id(stage="prompts", body=body, seed=seed), body)


def prompt_requests(config: BuildConfig, categories: Sequence[Category], first: int, last: int) -> list[PromptRequest]:
    """Returns the requests with numbers `first` to `last` - 1; they take turns through the categories."""
    chosen = [(number, categories[number % len(categories)]) for number in range(first, last)]
    return [PromptRequest(category.name, _request(config, category, number)) for number, category in chosen]


def request_rounds(
    config: BuildConfig, categories: Sequence[Category], replies: Mapping[str, ReplyRecord]
) -> Iterator[list[PromptRequest]]:
    """Yields rounds of requests until there are enough different instructions, or no more rounds are allowed.

    replies: recorded ones by the request's id; the caller adds those of a round before it takes the next one.
    """
    requested: list[PromptRequest] = []
    for _ in range(config.prompts.rounds):
        different = {plain(item.draft.prompt) for item in drafted_instructions(requested, replies) if item.draft}
        missing = config.prompts.count - len(different)
        if missing <= 0:
            return
        added = -(-missing // config.prompts.per_request)
        new = prompt_requests(config, categories, len(requested), len(requested) + added)
        requested += new
        yield new


def drafted_instructions(
    requested: Sequence[PromptRequest], replies: Mapping[str, ReplyRecord]
) -> list[DraftedInstruction]:
    """Parses the replies to some requests, in the order of the requests; a request without a reply gives nothing."""
    instructions = []
    for category, request in requested:
        reply = replies.get(request.id)
        if reply is None:
            continue
        fault = f"a refusal: {reply['refusal']}" if reply["refusal"] else ""
        if reply["finish"] == "length":
            fault = "cut off at max_tokens"
        parsed: list[Draft | str] = [fault] if fault else parse_drafts(reply["reply"])
        for place, item in enumerate(parsed):
            draft, fault = (None, item) if isinstance(item, str) else (item, "")
            instructions.append(DraftedInstruction(request.id, place, category, draft, fault))
    return instructions
