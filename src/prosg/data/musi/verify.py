"""Stage 4: which answers do what they were asked: programmatic checks, then a judge for every sub-instruction.

The judge says of each sub-instruction whether it was followed, and quotes where. A quote that does not stand in the
answer is no verdict: the judge is asked again with another seed, `tries` times at most. From the quotes the stages get
their places in the answer, and their checks are run on exactly these parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from prosg.data.checks import score
from prosg.data.musi.answers import Asked
from prosg.data.musi.config import BuildConfig
from prosg.data.musi.draft import draft_from_dict, find_json
from prosg.data.musi.endpoint import Request
from prosg.data.musi.packaged import packaged
from prosg.data.musi.prompts import request_body, request_seed
from prosg.data.musi.stages import distance, find_quote, leaks, place_stages, possible
from prosg.data.musi.store import record_id
from prosg.data.musi.text import language, refuses
from prosg.data.record import Row

__all__ = ["Rejected", "Verdict", "conclude", "fault", "judge_request", "verdicts"]

ANYTHING = {"type": "words", "min": 1}
"""the check of a stage that no program can judge"""


class Verdict(NamedTuple):
    """Whether a sub-instruction was followed, and the quoted span."""

    followed: bool
    quote: str


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


def _schema(steps: int) -> dict[str, Any]:
    verdict = {
        "step": {"type": "integer", "minimum": 1, "maximum": steps},
        "followed": {"type": "string", "enum": ["yes", "no"]},
        "quote": {"type": "string"},
    }
    item = {"type": "object", "properties": verdict, "required": [*verdict], "additionalProperties": False}
    listed = {"type": "array", "minItems": steps, "maxItems": steps, "items": item}
    return {
        "type": "object",
        "properties": {"verdicts": listed},
        "required": ["verdicts"],
        "additionalProperties": False,
    }


def judge_request(config: BuildConfig, asked: Asked, answer: str, attempt: int) -> Request:
    """Ask about all sub-instructions of a pair at once."""
    steps = asked.prompt["sub_instructions"]
    prompt = asked.prompt["prompt"]
    text = packaged("requests.yaml")["verdicts"]["zh" if language(prompt) == "zh" else "en"].format(
        prompt=prompt, answer=answer, steps="\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    )
    seed = request_seed(config.seed, "verify", prompt, answer, attempt)
    body = request_body(
        config.judge,
        [{"role": "user", "content": text}],
        0.0,
        config.verify.max_tokens,
        seed,
        {"name": "musi_verdicts", "schema": _schema(len(steps))},
    )
    return Request(record_id(stage="verify", body=body, seed=seed), body)


def verdicts(reply: Mapping[str, Any], steps: int, answer: str) -> list[Verdict] | str:
    """The verdicts in a judge's reply, or why it is of no use."""
    if reply["refusal"] or reply["finish"] in ("length", "malformed", "error"):
        return "the judge gave no verdict"
    try:
        content = find_json(reply["reply"])
    except ValueError as error:
        return f"the judge's reply is {error}"
    listed = content.get("verdicts") if isinstance(content, Mapping) else content
    if not isinstance(listed, list) or len(listed) != steps or not all(isinstance(one, Mapping) for one in listed):
        return "the judge's reply has not one verdict for each step"
    found = []
    for number, one in enumerate(listed, 1):
        followed, quote = one.get("followed"), one.get("quote", "")
        if isinstance(followed, str):
            followed = {"yes": True, "no": False}.get(followed.strip().lower())
        if one.get("step", number) != number or not isinstance(followed, bool) or not isinstance(quote, str):
            return "the judge's reply is not as its schema has it"
        if followed and find_quote(quote, answer) < 0:
            return f"step {number}: what the judge quotes does not stand in the answer"
        found.append(Verdict(followed, quote))
    return found


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
    failed = [f"check of step {place}" for place, right in enumerate(score(row, answer), 1) if not right]
    return reject(*failed) if failed else replace(row, leaks=leaks(row.prompt, answer, stages[-1]))
