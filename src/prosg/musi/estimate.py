"""`prosg data build --dry-run`: the requests that are left and their cost, from the requests and the replies so far."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from prosg.llm.budget import LEDGER, UNLIMITED_TOKENS, Account, Cost, Totals, highest_cost
from prosg.llm.completion import ReplyRecord
from prosg.llm.config import EndpointConfig
from prosg.llm.recorded import read_replies
from prosg.musi.answers import AnswerRequest, answer_requests
from prosg.musi.categories import Category
from prosg.musi.config import BuildConfig
from prosg.musi.filter import known_decisions
from prosg.musi.prompts import DraftedInstruction, PromptRequest, drafted_instructions, prompt_requests, request_rounds
from prosg.musi.text import words
from prosg.musi.verify import judge_attempts, judge_request, visible_fault
from prosg.utils.store import read_log

__all__ = ["estimate_table"]

PER_PROMPT, PER_ANSWER, PER_STEP = 130, 350, 45
"""Tokens that models usually write: an instruction with its fields, an answer, a verdict."""
EXAMPLE = "Describe a day at the sea in five sentences, then list three things to take along, and end with good wishes."


class _StageEstimate(NamedTuple):
    """The number of a stage's requests that are left, and the likely and the highest cost of one."""

    requests: int
    likely: Cost
    highest: Cost


class _PairCounts(NamedTuple):
    """The number of pairs that are expected in the end, and of those that are answered and judged already."""

    wanted: int
    answered: int
    judged: int


def _pairs_so_far(
    config: BuildConfig,
    instructions: Sequence[DraftedInstruction],
    replies: Mapping[str, Mapping[str, ReplyRecord]],
    expected: int,
) -> _PairCounts:
    """Counts the pairs of the instructions so far; only replies to requests of this configuration count.

    expected: instructions in the end; of those without a decision as many are kept as of the others.
    """
    file = config.folder / "filter.jsonl"
    ids, decisions = known_decisions(config, instructions, file, read_log(file))
    drafted = [name for name, item in zip(ids, instructions, strict=True) if item.draft]
    decided = [decisions[name] for name in drafted if name in decisions]
    requests = answer_requests(config, decided)
    kept = sum(decision["kept"] for decision in decided)
    undecided = max(0, expected - len(decided)) * (kept / len(decided) if decided else 1.0)
    answered = [request for request in requests if request.request.id in replies["answers"]]
    judged = [request for request in answered if _is_judged(config, request, replies)]
    return _PairCounts(len(requests) + round(undecided) * config.answers.samples, len(answered), len(judged))


def _is_judged(config: BuildConfig, request: AnswerRequest, replies: Mapping[str, Mapping[str, ReplyRecord]]) -> bool:
    """Whether the judge need not be asked about an answer any more."""
    reply = replies["answers"][request.request.id]
    return bool(visible_fault(request, reply)) or not judge_attempts(config, request, reply, replies["verify"]).missing


def _tokens(body: Mapping[str, Any]) -> int:
    """Estimated tokens of a request: a word has 4 / 3 tokens."""
    return sum(len(words(message["content"])) for message in body["messages"]) * 4 // 3 + 10


def _likely(endpoint: EndpointConfig, records: Sequence[Mapping[str, Any]], tokens_in: int, tokens_out: int) -> Cost:
    """The mean cost of the replies so far; without replies, that of the given guess."""
    if records:
        tokens_in = sum(record["tokens_in"] for record in records) // len(records)
        tokens_out = sum(record["tokens_out"] for record in records) // len(records)
    return Cost.of(endpoint, tokens_in, tokens_out)


def _estimates(config: BuildConfig, categories: Sequence[Category]) -> dict[str, _StageEstimate]:
    replies = {name: read_replies(config.folder / f"{name}.jsonl") for name in ("prompts", "answers", "verify")}
    logs = {name: list(by_id.values()) for name, by_id in replies.items()}
    prompt_replies = replies["prompts"]
    requested: list[PromptRequest] = []
    left = []
    for new in request_rounds(config, categories, prompt_replies):
        requested += new
        left = [request for _, request in new if request.id not in prompt_replies]
        if left:
            break  # what follows depends on these replies
    body = left[0].body if left else prompt_requests(config, categories, 0, 1)[0].request.body
    guess = min(config.prompts.max_tokens or UNLIMITED_TOKENS, PER_PROMPT * config.prompts.per_request)
    likely = _likely(config.endpoint, logs["prompts"], _tokens(body), guess)
    estimates = {"prompts": _StageEstimate(len(left), likely, highest_cost(config.endpoint, body))}

    instructions = drafted_instructions(requested, prompt_replies)
    drafts = [item.draft for item in instructions if item.draft]
    pairs = _pairs_so_far(config, instructions, replies, len(drafts) if not left else config.prompts.count)
    steps = round(sum(len(draft.sub_instructions) for draft in drafts) / len(drafts)) if drafts else 3
    decision = {"prompt": EXAMPLE, "sub_instructions": [EXAMPLE] * steps, "category": "", "kept": True}
    example = answer_requests(config, [decision])[0]
    longest = Cost.of(config.endpoint, 6 * config.filter.longest, 0)  # a word or a Chinese character is 6 bytes at most
    highest = highest_cost(config.endpoint, example.request.body)
    highest = Cost.of(config.endpoint, highest.tokens_in + longest.tokens_in, highest.tokens_out)
    guess = min(config.answers.max_tokens or UNLIMITED_TOKENS, PER_ANSWER)
    likely = _likely(config.endpoint, logs["answers"], _tokens(example.request.body), guess)
    estimates["answers"] = _StageEstimate(pairs.wanted - pairs.answered, likely, highest)

    if config.verify.judge:
        body = judge_request(config, example, "word " * (likely.tokens_out * 3 // 4), 0).body
        guess = min(config.verify.max_tokens or UNLIMITED_TOKENS, PER_STEP * steps)
        likely = _likely(config.judge, logs["verify"], _tokens(body), guess)
        body = judge_request(config, example, "x" * 4 * (config.answers.max_tokens or UNLIMITED_TOKENS), 0).body
        highest = highest_cost(config.judge, body)
        highest = Cost.of(config.judge, highest.tokens_in + longest.tokens_in, highest.tokens_out)
        estimates["verify"] = _StageEstimate(pairs.wanted - pairs.judged, likely, highest)
    return estimates


def estimate_table(config: BuildConfig, categories: Sequence[Category], stages: Collection[str]) -> str:
    """Returns a printable table of what is left in some stages: requests, tokens and money, likely and at most.

    The caps stand below.
    """
    lines = [f"{'':10}{'requests':>10}{'tokens':>14}{'money':>12}   {'tokens at most':>15}{'money at most':>15}"]
    likely_total, highest_total = Totals(), Totals()
    estimates = {name: estimate for name, estimate in _estimates(config, categories).items() if name in stages}
    for name, (count, likely, highest) in estimates.items():
        stage_likely = Totals(count, count * (likely.tokens_in + likely.tokens_out), count * likely.money)
        stage_highest = Totals(count, count * (highest.tokens_in + highest.tokens_out), count * highest.money)
        likely_total, highest_total = likely_total.plus(*stage_likely), highest_total.plus(*stage_highest)
        lines.append(_line(name, stage_likely, stage_highest))
    lines.append(_line("all", likely_total, highest_total))
    caps, spent = config.budget, Account(config.folder / LEDGER).spent
    money = "none" if caps.money is None else f"{caps.money:,.2f}"
    if spent.requests:
        lines.append(f"{'spent':10}{spent.requests:>10,}{spent.tokens:>14,}{spent.money:>12,.2f}")
    lines.append(f"{'caps':10}{caps.requests:>10,}{caps.tokens:>14,}{money:>12}")
    lines.append("Without attempts that fail and repeat. Nothing was asked.")
    for name, value, used in zip(Totals._fields, likely_total, spent, strict=True):
        cap = getattr(caps, name)
        if cap is not None and value + used > cap:
            what = "what is spent and what is likely" if used else "what is likely"
            lines.append(f"budget.{name} is {cap:,}, less than {what}: the build will stop there.")
    return "\n".join(lines)


def _line(name: str, likely: Totals, highest: Totals) -> str:
    return (
        f"{name:10}{likely.requests:>10,}{likely.tokens:>14,}{likely.money:>12,.2f}   "
        f"{highest.tokens:>15,}{highest.money:>15,.2f}"
    )
