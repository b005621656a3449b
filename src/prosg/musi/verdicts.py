"""Asking a judge which steps of an instruction an answer follows, and reading what it says.

The judge says of each step whether it was followed, and quotes where. A quote that does not stand in the answer is no
verdict. Where a reply is of no use the judge is asked again with another seed, a number of times at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from prosg.llm.client import Request
from prosg.llm.config import EndpointConfig
from prosg.llm.structured import find_json, request_body, strict_object
from prosg.musi.packaged import packaged
from prosg.musi.stages import find_quote
from prosg.musi.text import language
from prosg.utils.store import record_id

__all__ = ["Tried", "Verdict", "json_request", "read_json_reply", "read_verdicts", "tried", "verdict_request"]

T = TypeVar("T")


class Verdict(NamedTuple):
    """Whether a step was followed, and the quoted span."""

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
    max_tokens: int,
) -> Request:
    """Ask for JSON, greedily, in the language of the prompt.

    kind: which of the package's requests; fields: what is filled in beside the prompt; stage: what the request's id
    follows from beside its body and seed.
    """
    template = packaged("requests.yaml")[kind]["zh" if language(prompt) == "zh" else "en"]
    messages = [{"role": "user", "content": template.format(prompt=prompt, **fields)}]
    body = request_body(endpoint, messages, 0.0, max_tokens, seed, {"name": f"musi_{kind}", "schema": schema})
    return Request(record_id(stage=stage, body=body, seed=seed), body)


def read_json_reply(reply: Mapping[str, Any]) -> Any:
    """The JSON value of a recorded reply. ValueError says why there is none."""
    if reply["refusal"] or reply["finish"] in ("length", "malformed", "error"):
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
    endpoint: EndpointConfig, prompt: str, steps: Sequence[str], answer: str, *, seed: int, max_tokens: int
) -> Request:
    """Ask about all steps of an answer at once."""
    listed = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    fields = {"answer": answer, "steps": listed}
    return json_request(
        endpoint, "verdicts", prompt, fields, _schema(len(steps)), stage="verify", seed=seed, max_tokens=max_tokens
    )


def read_verdicts(reply: Mapping[str, Any], steps: int, answer: str) -> list[Verdict | str]:
    """A verdict for each step, or why it is none (the quote is invented). ValueError for a reply of no use at all."""
    content = read_json_reply(reply)
    listed = content.get("verdicts") if isinstance(content, Mapping) else content
    if not isinstance(listed, list) or len(listed) != steps or not all(isinstance(one, Mapping) for one in listed):
        raise ValueError("the judge's reply has not one verdict for each step")
    found: list[Verdict | str] = []
    for number, one in enumerate(listed, 1):
        followed, quote = one.get("followed"), one.get("quote", "")
        if isinstance(followed, str):
            followed = {"yes": True, "no": False}.get(followed.strip().lower())
        if one.get("step", number) != number or not isinstance(followed, bool) or not isinstance(quote, str):
            raise ValueError("the judge's reply is not as its schema has it")
        if followed and find_quote(quote, answer) < 0:
            found.append(f"step {number}: what the judge quotes does not stand in the answer")
        else:
            found.append(Verdict(followed, quote))
    return found


@dataclass(frozen=True)
class Tried(Generic[T]):
    """What came of asking: what was read of each reply, the replies, and the request that is still to be made."""

    said: list[T]
    replies: list[Mapping[str, Any]]
    missing: Request | None


def tried(
    make: Callable[[int], Request],
    read: Callable[[Mapping[str, Any]], T],
    usable: Callable[[T], bool],
    tries: int,
    replies: Mapping[str, Mapping[str, Any]],
) -> Tried[T]:
    """What came of asking so far, in order. It ends with the first reply that is usable, or the last of the tries.

    make: attempt, from 0 on -> request; replies: recorded ones by the request's id.
    """
    said: list[T] = []
    found: list[Mapping[str, Any]] = []
    for attempt in range(tries):
        request = make(attempt)
        if request.id not in replies:
            return Tried(said, found, request)
        found.append(replies[request.id])
        said.append(read(found[-1]))
        if usable(said[-1]):
            break
    return Tried(said, found, None)
