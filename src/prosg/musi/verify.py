"""Stage 4: which answers follow their instruction, by programmatic checks and by a judge's verdict on every step.

A pair is kept only if the judge says that every step was followed, and quotes where. The quotes give the stages their
places in the answer, and each stage's check runs on exactly its part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from prosg.data.checks import check_stages
from prosg.data.row import Row
from prosg.llm.attempts import Attempts, replay_attempts
from prosg.llm.completion import ChatRequest, ReplyRecord
from prosg.llm.structured import refuses, request_seed
from prosg.musi.answers import AnswerRequest
from prosg.musi.config import BuildConfig
from prosg.musi.draft import DRAFT_FIELDS, Draft, draft_from_dict
from prosg.musi.stages import can_pass, leaks, place_stages, words_before
from prosg.musi.text import language
from prosg.musi.verdicts import Verdict, read_verdicts, verdict_request

__all__ = ["RejectedPair", "judge_attempts", "judge_request", "parse_verdicts", "verify_pair", "visible_fault"]

ANYTHING = {"type": "words", "min": 1}
"""The check of a stage that no program can judge."""


class RejectedPair(NamedTuple):
    """An instruction and an answer that are not kept, with the reasons."""

    decision: Mapping[str, Any]
    answer: str
    sample: int
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the line of `rejected.jsonl`."""
        return {
            "prompt": self.decision["prompt"],
            "answer": self.answer,
            "category": self.decision["category"],
            "sample": self.sample,
            "reasons": [*self.reasons],
        }


def visible_fault(request: AnswerRequest, reply: ReplyRecord) -> str:
    """Returns what is wrong with an answer, as far as a program can tell without a judge; "" if nothing is."""
    answer = reply["reply"]
    if reply["finish"] == "error":
        return f"no answer: {reply['refusal']}"
    if reply["refusal"] or reply["finish"] == "content_filter" or refuses(answer):
        return "a refusal"
    if reply["finish"] == "length":
        return "cut off at max_tokens"
    if not answer.strip():
        return "empty"
    for stage, check in sorted(_draft(request).checks.items()):
        if not can_pass(check, answer):
            return f"check of step {stage + 1} ({check['type']}) cannot pass"
    return ""


def _draft(request: AnswerRequest) -> Draft:
    return draft_from_dict({field: request.decision[field] for field in DRAFT_FIELDS})


def judge_request(config: BuildConfig, request: AnswerRequest, answer: str, attempt: int) -> ChatRequest:
    """Returns the request that asks the judge about all steps of an answer."""
    prompt = request.decision["prompt"]
    return verdict_request(
        config.judge,
        prompt,
        request.decision["sub_instructions"],
        answer,
        seed=request_seed(config.seed, "verify", prompt, answer, attempt),
        sampling=config.verify,
    )


def judge_attempts(
    config: BuildConfig, request: AnswerRequest, reply: ReplyRecord, judge_replies: Mapping[str, ReplyRecord]
) -> Attempts[list[Verdict] | str]:
    """Returns the attempts at judging an answer; each gives the verdicts, or why the judge's reply is unusable."""
    answer = reply["reply"].strip()
    steps = len(request.decision["sub_instructions"])
    return replay_attempts(
        lambda attempt: judge_request(config, request, answer, attempt),
        lambda judge_reply: parse_verdicts(judge_reply, steps, answer),
        lambda verdicts: not isinstance(verdicts, str),
        config.verify.tries,
        judge_replies,
    )


def parse_verdicts(reply: ReplyRecord, steps: int, answer: str) -> list[Verdict] | str:
    """Returns the verdicts in a judge's reply, or why the reply is unusable."""
    try:
        verdicts = read_verdicts(reply, steps, answer)
    except ValueError as error:
        return str(error)
    usable = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
    return usable if len(usable) == steps else next(verdict for verdict in verdicts if isinstance(verdict, str))


def verify_pair(
    request: AnswerRequest, reply: ReplyRecord, judged: Sequence[list[Verdict] | str] | None
) -> Row | RejectedPair:
    """Returns the row of an instruction and its answer, or the reasons against it.

    judged: the results of the attempts at judging; None if no judge is used, and then the row has no stages.
    """
    answer = reply["reply"].strip()
    draft = _draft(request)

    def reject(*reasons: str) -> RejectedPair:
        return RejectedPair(request.decision, reply["reply"], request.sample, reasons)

    if fault := visible_fault(request, reply):
        return reject(fault)
    row = Row(
        id=request.request.id,
        prompt=request.decision["prompt"],
        answer=answer,
        kind=request.decision["category"],
        leaks=True,
        extra={"sub_instructions": list(draft.sub_instructions), "language": language(request.decision["prompt"])},
    )
    if judged is None:
        return row
    verdicts = judged[-1] if judged else "the judge was not asked"
    if isinstance(verdicts, str):
        return reject(verdicts)
    if not all(verdict.followed for verdict in verdicts):
        steps = enumerate(verdicts, 1)
        return reject(*(f"step {number} not followed" for number, verdict in steps if not verdict.followed))
    checks = [draft.checks.get(step, ANYTHING) for step in range(len(draft.sub_instructions))]
    stages = place_stages(answer, draft.sub_instructions, checks, [verdict.quote for verdict in verdicts])
    if not stages:
        return row
    row = replace(row, stages=stages, distance_words=words_before(answer, stages[-1].start))
    failed = [f"check of step {number}" for number, passes in enumerate(check_stages(row, answer), 1) if not passes]
    return reject(*failed) if failed else replace(row, leaks=leaks(row.prompt, answer, stages[-1]))
