"""Stage 4: which answers do what they were asked: programmatic checks, then a judge for every sub-instruction.

A pair stays only where the judge (`verdicts`) says of every sub-instruction that it was followed, and where. From the
quotes the stages get their places in the answer, and their checks are run on exactly these parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from prosg.data.checks import check_stages
from prosg.data.row import Row
from prosg.llm.client import Request
from prosg.llm.structured import request_seed
from prosg.musi.answers import Asked
from prosg.musi.config import BuildConfig
from prosg.musi.draft import draft_from_dict
from prosg.musi.stages import distance, leaks, place_stages, possible
from prosg.musi.text import language, refuses
from prosg.musi.verdicts import Verdict, read_verdicts, verdict_request

__all__ = ["Rejected", "conclude", "fault", "judge_request", "verdicts"]

ANYTHING = {"type": "words", "min": 1}
"""the check of a stage that no program can judge"""


class Rejected(NamedTuple):
    """A pair that goes, with the reasons."""

    prompt: Mapping[str, Any]
    answer: str
    sample: int
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        data = {"prompt": self.prompt["prompt"], "answer": self.answer, "category": self.prompt["category"]}
        return data | {"sample": self.sample, "reasons": [*self.reasons]}


def fault(asked: Asked, reply: Mapping[str, Any]) -> str:
    """What can be seen to be wrong with an answer without a judge; "" where nothing is."""
    answer = reply["reply"]
    if reply["finish"] in ("malformed", "error"):
        return f"no answer: {reply['refusal']}"
    if reply["refusal"] or reply["finish"] == "content_filter" or refuses(answer):
        return "a refusal"
    if reply["finish"] == "length":
        return "cut off at max_tokens"
    if not answer.strip():
        return "empty"
    for stage, check in sorted(_draft(asked).checks.items()):
        if not possible(check, answer):
            return f"check of step {stage + 1} ({check['type']}) cannot pass"
    return ""


def _draft(asked: Asked) -> Any:
    fields = ("prompt", "sub_instructions", "domain_knowledge", "checks")
    return draft_from_dict({field: asked.prompt[field] for field in fields})


def judge_request(config: BuildConfig, asked: Asked, answer: str, attempt: int) -> Request:
    """Ask about all sub-instructions of a pair at once."""
    prompt = asked.prompt["prompt"]
    return verdict_request(
        config.judge,
        prompt,
        asked.prompt["sub_instructions"],
        answer,
        seed=request_seed(config.seed, "verify", prompt, answer, attempt),
        max_tokens=config.verify.max_tokens,
    )


def verdicts(reply: Mapping[str, Any], steps: int, answer: str) -> list[Verdict] | str:
    """The verdicts in a judge's reply, or why it is of no use."""
    try:
        found = read_verdicts(reply, steps, answer)
    except ValueError as error:
        return str(error)
    good = [one for one in found if isinstance(one, Verdict)]
    return good if len(good) == steps else next(one for one in found if isinstance(one, str))


def conclude(
    asked: Asked, reply: Mapping[str, Any], judged: Sequence[list[Verdict] | str], *, judge: bool = True
) -> Row | Rejected:
    """The row of a pair, or why it goes. judged: what came of asking the judge, in order."""
    answer = reply["reply"].strip()
    draft = _draft(asked)

    def reject(*reasons: str) -> Rejected:
        return Rejected(asked.prompt, reply["reply"], asked.sample, reasons)

    if wrong := fault(asked, reply):
        return reject(wrong)
    row = Row(
        id=asked.request.id,
        prompt=asked.prompt["prompt"],
        answer=answer,
        kind=asked.prompt["category"],
        leaks=True,
        extra={"sub_instructions": list(draft.sub_instructions), "language": language(asked.prompt["prompt"])},
    )
    if not judge:
        return row
    final = judged[-1] if judged else "the judge was not asked"
    if isinstance(final, str):
        return reject(final)
    if not all(verdict.followed for verdict in final):
        return reject(*(f"step {number} not followed" for number, one in enumerate(final, 1) if not one.followed))
    checks = [draft.checks.get(place, ANYTHING) for place in range(len(draft.sub_instructions))]
    stages = place_stages(answer, draft.sub_instructions, checks, [verdict.quote for verdict in final])
    if not stages:
        return row
    row = replace(row, stages=stages, distance_words=distance(answer, stages[-1].start))
    failed = [f"check of step {place}" for place, right in enumerate(check_stages(row, answer), 1) if not right]
    return reject(*failed) if failed else replace(row, leaks=leaks(row.prompt, answer, stages[-1]))
