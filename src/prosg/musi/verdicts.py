"""Requests to a judge about the steps of an instruction that an answer follows, and the parsing of its replies.

For each step the judge says whether the answer follows it, and quotes where. A quote that is not in the answer, or is
next to nothing, makes the verdict unusable. What is wrong with a reply becomes the recorded reason of a rejection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from prosg.llm.completion import ChatRequest, ReplyRecord
from prosg.llm.config import EndpointConfig
from prosg.llm.structured import find_json, request_body, strict_object
from prosg.musi.packaged import packaged_yaml
from prosg.musi.stages import is_evidence
from prosg.musi.text import language
from prosg.utils.store import record_id

__all__ = ["Sampled", "Verdict", "json_request", "read_json_reply", "read_verdicts", "verdict_request"]


FENCE = 3
"""Length of the rows of angle brackets between which `requests.yaml` shows a text."""
FENCE_IN_TEXT = re.compile("<{3,}|>{3,}")


@runtime_checkable
class Sampled(Protocol):
    """Options of whoever judges; None leaves a parameter to the server."""

    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def max_tokens(self) -> int | None: ...


class Verdict(NamedTuple):
    """Whether an answer follows a step, and the judge's quote of the place."""

    followed: bool
    quote: str


def json_request(
    endpoint: EndpointConfig,
    kind: str,
    prompt: str,
    fields: Mapping[str, str],
    schema: Mapping[str, Any],
    *,
    stage: str,
    seed: int,
    sampling: Sampled,
) -> ChatRequest:
    """Returns a request for JSON, worded in the language of the prompt.

    Args:
        endpoint: The judge.
        kind: Name of the wording in `requests.yaml`.
        prompt: The instruction that the request is about.
        fields: Further texts of the wording.
        schema: JSON schema of the reply.
        stage: Part of the request's id, beside body and seed.
        seed: Of sampling; distinguishes attempts.
        sampling: The options of the judge that have `temperature`, `top_p` and `max_tokens`.
    """
    template = packaged_yaml("requests.yaml")[kind]["zh" if language(prompt) == "zh" else "en"]
    texts = {"prompt": prompt, **fields}
    messages = [{"role": "user", "content": _with_longer_fences(template, texts.values()).format(**texts)}]
    body = request_body(
        endpoint,
        messages,
        sampling.temperature,
        sampling.max_tokens,
        seed,
        {"name": f"musi_{kind}", "schema": schema},
        top_p=sampling.top_p,
    )
    return ChatRequest(record_id(stage=stage, body=body, seed=seed), body)


def _with_longer_fences(template: str, texts: Iterable[str]) -> str:
    """The template with its fences, <<< and >>>, longer than any row of such brackets in the texts.

    So no text closes its own fence: what an answer says behind a ">>>" stays part of the answer.
    """
    longest = max((len(row) for text in texts for row in FENCE_IN_TEXT.findall(text)), default=0)
    length = max(FENCE, longest + 1)
    return template.replace("<" * FENCE, "<" * length).replace(">" * FENCE, ">" * length)


def read_json_reply(reply: ReplyRecord) -> Any:
    """Returns the JSON value of a judge's reply. Raises ValueError, with the reason, if there is none."""
    if reply["refusal"] or reply["finish"] in ("length", "error"):
        raise ValueError("the judge gave no verdict")
    try:
        return find_json(reply["reply"])
    except ValueError as error:
        raise ValueError(f"the judge's reply is {error}") from None


def _schema(steps: int) -> dict[str, Any]:
    item = strict_object(
        step={"type": "integer", "minimum": 1, "maximum": steps},
        followed={"type": "string", "enum": ["yes", "no"]},
        quote={"type": "string"},
    )
    return strict_object(verdicts={"type": "array", "minItems": steps, "maxItems": steps, "items": item})


def verdict_request(
    endpoint: EndpointConfig, prompt: str, steps: Sequence[str], answer: str, *, seed: int, sampling: Sampled
) -> ChatRequest:
    """Returns a request for verdicts on all steps of an answer.

    Args:
        endpoint: The judge.
        prompt: The instruction.
        steps: Its steps.
        answer: The answer to be judged.
        seed: Of sampling; distinguishes attempts.
        sampling: As for `json_request`.
    """
    listed = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    fields = {"answer": answer, "steps": listed}
    return json_request(
        endpoint, "verdicts", prompt, fields, _schema(len(steps)), stage="verify", seed=seed, sampling=sampling
    )


def read_verdicts(reply: ReplyRecord, steps: int, answer: str) -> list[Verdict | str]:
    """Parses the reply to `verdict_request`.

    Args:
        reply: The judge's reply.
        steps: Number of steps.
        answer: The judged answer.

    Returns:
        For each step a verdict, or why it is unusable (the quote is invented).

    Raises:
        ValueError: with the reason, for a reply that has no verdict for each step.
    """
    content = read_json_reply(reply)
    listed = content.get("verdicts") if isinstance(content, Mapping) else content
    if not isinstance(listed, list) or len(listed) != steps or not all(isinstance(item, Mapping) for item in listed):
        raise ValueError("the judge's reply has not one verdict for each step")
    verdicts: list[Verdict | str] = []
    for number, item in enumerate(listed, 1):
        followed, quote = item.get("followed"), item.get("quote", "")
        if isinstance(followed, str):
            followed = {"yes": True, "no": False}.get(followed.strip().lower())
        numbered = str(item.get("step", number)).strip() == str(number)  # "1" where no schema asks for a number
        if not numbered or not isinstance(followed, bool) or not isinstance(quote, str):
            raise ValueError("the judge's reply is not as its schema has it")
        if followed and not is_evidence(quote, answer):
            verdicts.append(f"step {number}: what the judge quotes does not stand in the answer, or shows nothing")
        else:
            verdicts.append(Verdict(followed, quote))
    return verdicts
