"""`--dry-run`: what is left to ask, and what it may cost, from the requests themselves and from replies so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prosg.llm.budget import Cost, Totals
from prosg.llm.client import Request, most
from prosg.llm.config import EndpointConfig
from prosg.musi import answers, prompts, verify
from prosg.musi.categories import Category
from prosg.musi.config import BuildConfig
from prosg.musi.text import plain, words
from prosg.utils.store import read_log

__all__ = ["estimate"]

PER_PROMPT, PER_ANSWER, PER_STEP = 130, 350, 45
"""tokens that models usually write: an instruction with its fields, an answer, a verdict"""
EXAMPLE = "Describe a day at the sea in five sentences, then list three things to take along, and end with good wishes."


class _Part(NamedTuple):
    """A stage's requests that are left: how many, and of one of them the likely and the highest cost."""

    requests: int
    likely: Cost
    highest: Cost


def _tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a request, about: a word and a third each."""
    return sum(len(words(message["content"])) for message in body["messages"]) * 4 // 3 + 10


def _likely(endpoint: EndpointConfig, records: Sequence[Mapping[str, Any]], tokens_in: int, tokens_out: int) -> Cost:
    """The mean of replies so far, else a guess."""
    if records:
        tokens_in = sum(record["tokens_in"] for record in records) // len(records)
        tokens_out = sum(record["tokens_out"] for record in records) // len(records)
    return Cost.of(endpoint, tokens_in, tokens_out)


def _parts(config: BuildConfig, categories: Sequence[Category]) -> dict[str, _Part]:
    logs = {name: read_log(config.folder / f"{name}.jsonl") for name in ("prompts", "filter", "answers", "verify")}
    replies = {name: {record["id"]: record for record in records} for name, records in logs.items()}
    asked: list[tuple[str, Request]] = []
    left = []
    for more in prompts.rounds(config, categories, replies["prompts"]):
        asked += more
        left = [request for _, request in more if request.id not in replies["prompts"]]
        if left:
            break  # what follows depends on these replies
    body = left[0].body if left else prompts.requests(config, categories, 0, 1)[0][1].body
    guess = min(config.prompts.max_tokens, PER_PROMPT * config.prompts.per_request)
    likely = _likely(config.endpoint, logs["prompts"], _tokens(body), guess)
    parts = {"prompts": _Part(len(left), likely, most(config.endpoint, body))}

    drafts = [one.draft for one in prompts.drafted(asked, replies["prompts"]) if one.draft]
    expected = max(len({plain(draft.prompt) for draft in drafts}), config.prompts.count)
    share = sum(record["kept"] for record in logs["filter"]) / len(logs["filter"]) if logs["filter"] else 1.0
    wanted = round(expected * share) * config.answers.samples
    steps = round(sum(len(draft.sub_instructions) for draft in drafts) / len(drafts)) if drafts else 3
    decision = {"prompt": EXAMPLE, "sub_instructions": [EXAMPLE] * steps, "category": "", "kept": True}
    one = answers.requests(config, [decision])[0]
    longest = Cost.of(config.endpoint, 6 * config.filter.longest, 0)  # a word or a Chinese character is 6 bytes at most
    above = most(config.endpoint, one.request.body)
    above = Cost.of(config.endpoint, above.tokens_in + longest.tokens_in, above.tokens_out)
    guess = min(config.answers.max_tokens, PER_ANSWER)
    likely = _likely(config.endpoint, logs["answers"], _tokens(one.request.body), guess)
    parts["answers"] = _Part(max(0, wanted - len(logs["answers"])), likely, above)

    if config.verify.judge:
        body = verify.judge_request(config, one, "word " * (likely.tokens_out * 3 // 4), 0).body
        guess = min(config.verify.max_tokens, PER_STEP * steps)
        likely = _likely(config.judge, logs["verify"], _tokens(body), guess)
        above = most(config.judge, verify.judge_request(config, one, "x" * 4 * config.answers.max_tokens, 0).body)
        above = Cost.of(config.judge, above.tokens_in + longest.tokens_in, above.tokens_out)
        parts["verify"] = _Part(max(0, wanted - len(logs["verify"])), likely, above)
    return parts


def estimate(config: BuildConfig, categories: Sequence[Category]) -> str:
    """A table for people: requests, tokens and money that are left, likely and at most, beside the caps."""
    lines = [f"{'':10}{'requests':>10}{'tokens':>14}{'money':>12}   {'tokens at most':>15}{'money at most':>15}"]
    total, highest = Totals(), Totals()
    for name, (count, likely, above) in _parts(config, categories).items():
        one = Totals(count, count * (likely.tokens_in + likely.tokens_out), count * likely.money)
        top = Totals(count, count * (above.tokens_in + above.tokens_out), count * above.money)
        total, highest = total.plus(*one), highest.plus(*top)
        lines.append(_line(name, one, top))
    lines.append(_line("all", total, highest))
    caps = config.budget
    money = "none" if caps.money is None else f"{caps.money:,.2f}"
    lines.append(f"{'caps':10}{caps.requests:>10,}{caps.tokens:>14,}{money:>12}")
    lines.append("Without attempts that fail and repeat. Nothing was asked.")
    for name, value in total._asdict().items():
        cap = getattr(caps, name)
        if cap is not None and value > cap:
            lines.append(f"budget.{name} is {cap:,}, less than what is likely: the build will stop there.")
    return "\n".join(lines)


def _line(name: str, likely: Totals, above: Totals) -> str:
    return (
        f"{name:10}{likely.requests:>10,}{likely.tokens:>14,}{likely.money:>12,.2f}   "
        f"{above.tokens:>15,}{above.money:>15,.2f}"
    )
