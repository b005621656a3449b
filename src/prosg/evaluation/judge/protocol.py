"""The judge's protocol: requests that ask about answers, and how replies are parsed.

Steps: for each step of an instruction the judge says whether the answer follows it and quotes where, *pass* or *fail*.
A reply without a usable verdict (no JSON, other keys, a refusal, cut off, or a quote that is not in the answer) is
*unparsed*, which counts as neither.

Comparisons: two answers are compared in both orders, since judges favour a position. A preference counts only where
both orders agree, else it is a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prosg.data.row import Row
from prosg.evaluation.judge.config import JudgeConfig
from prosg.llm.completion import ChatRequest
from prosg.llm.structured import request_seed, strict_object
from prosg.musi.verdicts import Verdict, json_request, read_json_reply, read_verdicts, verdict_request

__all__ = [
    "FAIL",
    "PASS",
    "UNPARSED",
    "InstructionStep",
    "StepResult",
    "comparison_request",
    "preference",
    "read_comparison",
    "read_step_verdicts",
    "read_steps",
    "row_result",
    "row_steps",
    "step_results",
    "steps_request",
    "verdicts_request",
]

PASS, FAIL, UNPARSED = "pass", "fail", "unparsed"
POSITIONS = ("first", "second", "tie")


class InstructionStep(NamedTuple):
    """One thing that an instruction asks for; `number` counts the row's stages from 1."""

    number: int
    instruction: str


class StepResult(NamedTuple):
    """The result of one step, with the fields of its record in `RUN/judge/NAME.jsonl`.

    Attributes:
        stage: The step's number.
        instruction: The step's text.
        result: PASS, FAIL or UNPARSED.
        quote: The part of the answer that the judge quotes for a pass, else "".
        why: Why it is not a pass, as far as known, else "".
    """

    stage: int
    instruction: str
    result: str
    quote: str
    why: str


def row_steps(row: Row) -> list[InstructionStep]:
    """The steps that a row itself lists: its stages except given ones, else its `sub_instructions`; [] if unknown."""
    if row.stages:
        steps = [InstructionStep(n, stage.instruction) for n, stage in enumerate(row.stages, 1) if not stage.given]
    else:
        listed = row.extra.get("sub_instructions")
        texts = listed if isinstance(listed, list) and all(isinstance(text, str) for text in listed) else []
        steps = [InstructionStep(number, text) for number, text in enumerate(texts, 1)]
    return steps if all(step.instruction.strip() for step in steps) else []


def steps_request(config: JudgeConfig, prompt: str, attempt: int) -> ChatRequest:
    """Asks the judge to split an instruction into its steps."""
    schema = strict_object(sub_instructions={"type": "array", "minItems": 1, "items": {"type": "string"}})
    seed = request_seed(config.seed, "steps", prompt, attempt)
    return json_request(config.endpoint, "steps", prompt, {}, schema, stage="steps", seed=seed, sampling=config)


def read_steps(reply: Mapping[str, Any]) -> list[InstructionStep] | str:
    """Parses the reply to `steps_request`: the steps, or why there are none."""
    try:
        content = read_json_reply(reply)
    except ValueError as error:
        return str(error)
    listed = content.get("sub_instructions") if isinstance(content, Mapping) else content
    if not isinstance(listed, list) or not listed or not all(isinstance(text, str) and text.strip() for text in listed):
        return "the judge's reply has no list of steps"
    return [InstructionStep(number, text.strip()) for number, text in enumerate(listed, 1)]


def verdicts_request(
    config: JudgeConfig, prompt: str, steps: Sequence[InstructionStep], answer: str, attempt: int
) -> ChatRequest:
    """Asks which steps an answer follows, all in one request."""
    texts = [step.instruction for step in steps]
    seed = request_seed(config.seed, "verdicts", prompt, texts, answer, attempt)
    return verdict_request(config.endpoint, prompt, texts, answer, seed=seed, sampling=config)


def read_step_verdicts(reply: Mapping[str, Any], steps: Sequence[InstructionStep], answer: str) -> list[Verdict | str]:
    """Parses the reply to `verdicts_request`: for each step a verdict, or why there is none."""
    try:
        return read_verdicts(reply, len(steps), answer)
    except ValueError as error:
        return [str(error)] * len(steps)


def step_results(
    steps: Sequence[InstructionStep], answer: str, attempts: Sequence[Sequence[Verdict | str]]
) -> list[StepResult]:
    """Combines the attempts at judging one answer: for each step its first verdict counts.

    An empty answer fails every step without a judge.

    Args:
        steps: The instruction's steps.
        answer: The answer's text.
        attempts: What `read_step_verdicts` gave for each reply, in the order of the attempts.
    """
    results = []
    for index, (number, instruction) in enumerate(steps):
        candidates = [attempt[index] for attempt in attempts]
        verdict = next((candidate for candidate in candidates if isinstance(candidate, Verdict)), None)
        if not answer.strip():
            results.append(StepResult(number, instruction, FAIL, "", "the answer is empty"))
        elif verdict is None:
            why = str(candidates[-1]) if candidates else "not asked"
            results.append(StepResult(number, instruction, UNPARSED, "", why))
        elif verdict.followed:
            results.append(StepResult(number, instruction, PASS, verdict.quote, ""))
        else:
            results.append(StepResult(number, instruction, FAIL, "", ""))
    return results


def row_result(results: Sequence[StepResult]) -> str:
    """PASS where every step passes, FAIL where one fails, else UNPARSED."""
    occurring = {step.result for step in results}
    return FAIL if FAIL in occurring else PASS if occurring == {PASS} else UNPARSED


def comparison_request(config: JudgeConfig, prompt: str, first: str, second: str, attempt: int) -> ChatRequest:
    """Asks which of two answers is better, shown in this order."""
    schema = strict_object(reason={"type": "string"}, better={"type": "string", "enum": [*POSITIONS]})
    return json_request(
        config.endpoint,
        "comparison",
        prompt,
        {"first": first, "second": second},
        schema,
        stage="comparison",
        seed=request_seed(config.seed, "comparison", prompt, first, second, attempt),
        sampling=config,
    )


def read_comparison(reply: Mapping[str, Any]) -> str:
    """Parses the reply to `comparison_request`: "first", "second", "tie" or UNPARSED."""
    try:
        content = read_json_reply(reply)
    except ValueError:
        return UNPARSED
    better = content.get("better") if isinstance(content, Mapping) else None
    position = better.strip().lower() if isinstance(better, str) else ""
    return position if position in POSITIONS else UNPARSED


def preference(forward: str, swapped: str) -> str:
    """The preference that both orders of a comparison support.

    Args:
        forward: What `read_comparison` gave with the pair in its order.
        swapped: The same with the two answers swapped.

    Returns:
        "first" or "second" of the pair's order, "tie" where the two disagree or both say so, UNPARSED where one is.
    """
    if UNPARSED in (forward, swapped):
        return UNPARSED
    swapped_back = {"first": "second", "second": "first", "tie": "tie"}[swapped]
    return forward if forward == swapped_back else "tie"
