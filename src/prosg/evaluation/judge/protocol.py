"""A model that judges answers: options, what it is asked, and what follows from what it says.

Of every step of an instruction it says whether the answer follows it, and quotes where: *pass* and *fail*. Whatever is
no verdict (no JSON, other keys, a refusal, a reply cut off, a quote that does not stand in the answer) is *unparsed*
and never counts as either. Two answers are compared in both orders, since judges lean towards a place: a preference
counts only where both orders agree, else it is a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.row import Row
from prosg.llm.client import Request
from prosg.llm.config import BudgetConfig, EndpointConfig, check_budget, check_endpoint
from prosg.llm.structured import request_seed, strict_object
from prosg.musi.verdicts import Verdict, json_request, read_json_reply, read_verdicts, verdict_request
from prosg.utils.options import build, read_yaml

__all__ = [
    "FAIL",
    "PASS",
    "UNPARSED",
    "JudgeConfig",
    "StageResult",
    "Step",
    "comparison_request",
    "known_steps",
    "load_judge",
    "preference",
    "read_comparison",
    "read_stages",
    "read_steps",
    "row_result",
    "stage_results",
    "stages_request",
    "steps_request",
]

PASS, FAIL, UNPARSED = "pass", "fail", "unparsed"
PLACES = ("first", "second", "tie")


@dataclass(frozen=True)
class JudgeConfig:
    """A judge.

    Attributes:
        out: Folder for its replies and the ledger, made where it is missing. What was asked once is not asked again,
            and the caps hold over all that was ever asked with the same folder.
        seed: Of requests; another seed asks anew.
        endpoint: The model, and how to ask it.
        budget: Hard caps. What a request can cost at most is booked before it is sent.
        pairs: Pairs of systems to compare, by the names of their files of answers, like [[plus, phase1]].
        tries: How often the judge is asked, each time with another seed, that gives no usable verdict.
        max_tokens: Longest reply.
    """

    out: str = ""
    seed: int = 0
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    pairs: list[list[str]] = field(default_factory=list)
    tries: int = 3
    max_tokens: int = 1500


def load_judge(path: str | Path) -> JudgeConfig:
    """Read a YAML file. ValueError names the file, the key, what was wrong and what is allowed."""
    content = read_yaml(path)
    try:
        config = build(JudgeConfig, {} if content is None else content)
        if not config.out:
            raise ValueError("out is missing; it names the folder for the judge's replies and the ledger")
        if Path(config.out).exists() and not Path(config.out).is_dir():
            raise ValueError(f"out is {config.out!r}, which is a file; it names a folder")
        for name, least in (("seed", 0), ("tries", 1), ("max_tokens", 1)):
            if getattr(config, name) < least:
                raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {least}")
        for place, pair in enumerate(config.pairs):
            if len(set(pair)) != 2 or len(pair) != 2:
                raise ValueError(f"pairs[{place}] is {pair}; it must name two systems, like [plus, phase1]")
        check_endpoint("endpoint", config.endpoint)
        check_budget(config.budget, config.endpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


# -- the steps of an instruction


class Step(NamedTuple):
    """What an answer has to do; `number` counts the row's stages from 1."""

    number: int
    instruction: str


def known_steps(row: Row) -> list[Step]:
    """The row's own steps: its stages, those of other turns left out, else its sub_instructions; none where unknown."""
    if row.stages:
        found = [Step(n, stage.instruction) for n, stage in enumerate(row.stages, 1) if not stage.given]
    else:
        listed = row.extra.get("sub_instructions")
        texts = listed if isinstance(listed, list) and all(isinstance(text, str) for text in listed) else []
        found = [Step(number, text) for number, text in enumerate(texts, 1)]
    return found if all(step.instruction.strip() for step in found) else []


def steps_request(config: JudgeConfig, prompt: str, attempt: int) -> Request:
    """Ask what an instruction asks for."""
    schema = strict_object(sub_instructions={"type": "array", "minItems": 1, "items": {"type": "string"}})
    seed = request_seed(config.seed, "steps", prompt, attempt)
    return json_request(
        config.endpoint, "steps", prompt, {}, schema, stage="steps", seed=seed, max_tokens=config.max_tokens
    )


def read_steps(reply: Mapping[str, Any]) -> list[Step] | str:
    """The steps in a reply, or why there are none."""
    try:
        content = read_json_reply(reply)
    except ValueError as error:
        return str(error)
    listed = content.get("sub_instructions") if isinstance(content, Mapping) else content
    if not isinstance(listed, list) or not listed or not all(isinstance(one, str) and one.strip() for one in listed):
        return "the judge's reply has no list of steps"
    return [Step(number, text.strip()) for number, text in enumerate(listed, 1)]


# -- whether they were followed


class StageResult(NamedTuple):
    """What came of one step: pass, fail or unparsed; the quote of a pass; why it is not a pass where that is known."""

    stage: int
    instruction: str
    result: str
    quote: str
    why: str


def stages_request(config: JudgeConfig, prompt: str, steps: Sequence[Step], answer: str, attempt: int) -> Request:
    """Ask about all steps of an answer at once."""
    texts = [step.instruction for step in steps]
    seed = request_seed(config.seed, "verdicts", prompt, texts, answer, attempt)
    return verdict_request(config.endpoint, prompt, texts, answer, seed=seed, max_tokens=config.max_tokens)


def read_stages(reply: Mapping[str, Any], steps: Sequence[Step], answer: str) -> list[Verdict | str]:
    """A verdict for each step, or why there is none."""
    try:
        return read_verdicts(reply, len(steps), answer)
    except ValueError as error:
        return [str(error)] * len(steps)


def stage_results(steps: Sequence[Step], answer: str, attempts: Sequence[Sequence[Verdict | str]]) -> list[StageResult]:
    """The results from what was read of the replies, in order: of each step the first verdict counts.

    An empty answer follows no step, whatever a judge would say.
    """
    results = []
    for place, (number, instruction) in enumerate(steps):
        said = [one[place] for one in attempts]
        verdict = next((one for one in said if isinstance(one, Verdict)), None)
        if not answer.strip():
            results.append(StageResult(number, instruction, FAIL, "", "the answer is empty"))
        elif verdict is None:
            results.append(StageResult(number, instruction, UNPARSED, "", str(said[-1]) if said else "not asked"))
        else:
            quote = verdict.quote if verdict.followed else ""
            results.append(StageResult(number, instruction, PASS if verdict.followed else FAIL, quote, ""))
    return results


def row_result(stages: Sequence[StageResult]) -> str:
    """pass where every step passes; fail where one fails; else unparsed."""
    found = {stage.result for stage in stages}
    return FAIL if FAIL in found else PASS if found == {PASS} else UNPARSED


# -- which of two answers is better


def comparison_request(config: JudgeConfig, prompt: str, first: str, second: str, attempt: int) -> Request:
    """Ask which answer is better, in this order."""
    schema = strict_object(reason={"type": "string"}, better={"type": "string", "enum": [*PLACES]})
    return json_request(
        config.endpoint,
        "comparison",
        prompt,
        {"first": first, "second": second},
        schema,
        stage="comparison",
        seed=request_seed(config.seed, "comparison", prompt, first, second, attempt),
        max_tokens=config.max_tokens,
    )


def read_comparison(reply: Mapping[str, Any]) -> str:
    """first, second or tie; unparsed for whatever else it says."""
    try:
        content = read_json_reply(reply)
    except ValueError:
        return UNPARSED
    better = content.get("better") if isinstance(content, Mapping) else None
    said = better.strip().lower() if isinstance(better, str) else ""
    return said if said in PLACES else UNPARSED


def preference(one_order: str, other_order: str) -> str:
    """first, second, tie or unparsed, of the answer that stood first in `one_order` and second in `other_order`."""
    if UNPARSED in (one_order, other_order):
        return UNPARSED
    turned = {"first": "second", "second": "first", "tie": "tie"}[other_order]
    return one_order if one_order == turned else "tie"
