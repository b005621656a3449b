"""Bodies of requests, with the JSON schema of the reply, and the JSON or the refusal in a reply's text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prosg.llm.config import EndpointConfig
from prosg.utils.outside import parse_json, whole_text
from prosg.utils.store import record_id

__all__ = ["find_json", "refuses", "request_body", "request_seed", "strict_object"]

JSON_START = re.compile(r"""\{(?=\s*["}]) | \[(?=\s*(?:[]\[{"]|-?\d|-?Infinity|NaN|true|false|null))""", re.VERBOSE)
"""A bracket that may open JSON, by what follows it. A parser that fails counts the lines before, and a model that
repeats itself writes brackets by the ten thousand."""
REFUSAL = re.compile(
    r"""^\W*(?:
        (?:i['’]?m|i\ am|we['’]?re)\ (?:very\ |really\ |truly\ )?(?:sorry|afraid|unable)\b
      | (?:i\ )?apologi[sz]e\b | (?:my|our)\ apologies\b | sorry,?\ (?:but\ )?(?:i|as)\b
      | (?:unfortunately,?\ )?(?:i|we)\ (?:can['’]?t|can\ ?not|cannot|won['’]?t|will\ not|am\ not\ able|must\ decline)\b
      | as\ an?\ (?:ai|artificial|large\ language|language\ model)\b
      | (?:对不起|很?抱歉|非常抱歉|我无法|我不能|作为一[个名](?:AI|人工智能|语言模型))
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def refuses(text: str) -> bool:
    """Whether a reply opens as refusals do: "I'm sorry, but I can't ...", "抱歉，..."."""
    return REFUSAL.match(text) is not None


def strict_object(**properties: Any) -> dict[str, Any]:
    """Returns the JSON schema of an object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def find_json(text: str) -> Any:
    """Returns the first JSON object or list in a reply, which may stand in a code fence or behind other words.

    Words may have brackets, too: one that opens no JSON, as in "[sic]", is passed over, and a list of numbers alone, as
    notes have them, counts only where there is nothing else.

    Raises:
        ValueError: if there is none; the message is "a refusal" or begins with "not JSON".
    """
    decoder = json.JSONDecoder(parse_int=len)  # however many digits
    fault, numbers, position = "", "", 0
    while bracket := JSON_START.search(text, position):
        start = bracket.start()
        try:
            value, position = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            if text[start + 1 : error.pos].strip() or error.pos == len(text):  # JSON that is broken or cut off
                raise ValueError(f"not JSON ({error.msg})") from None
            fault, position = fault or f"not JSON ({error.msg})", start + 1
            continue
        except RecursionError:
            raise ValueError("not JSON (too many brackets)") from None
        if isinstance(value, dict) or any(isinstance(item, dict | str) for item in value):
            return parse_json(text[start:position], "not JSON that is read")
        numbers = numbers or text[start:position]
    if numbers:
        return parse_json(numbers, "not JSON that is read")
    raise ValueError("a refusal" if refuses(text) else fault or "not JSON")


def request_seed(*parts: object) -> int:
    """Returns a seed of 31 bits, a hash of whatever the request depends on."""
    return int(record_id(parts=list(parts))[:8], 16) >> 1


def request_body(
    endpoint: EndpointConfig,
    messages: Sequence[Mapping[str, str]],
    temperature: float | None,
    max_tokens: int | None,
    seed: int,
    json_schema: Mapping[str, Any] | None = None,
    *,
    top_p: float | None = None,
) -> dict[str, Any]:
    """Returns the body of a request for a chat completion.

    Args:
        endpoint: Options that decide the names of parameters.
        messages: The conversation: {"role", "content"} each.
        temperature: Of sampling; 0 for greedy decoding, None to leave it to the server.
        max_tokens: Longest reply in tokens; None to leave it to the server.
        seed: Of sampling.
        json_schema: {"name", "schema"} of the JSON that the reply shall hold, if any.
        top_p: Of sampling; None to leave it to the server.

    Returns:
        The body. What the endpoint's `extra` says comes last, and what is None there is left out.
    """
    told = [{name: whole_text(text) for name, text in message.items()} for message in messages]
    body: dict[str, Any] = {"model": endpoint.model, "messages": told, "temperature": temperature}
    body |= {endpoint.token_parameter or "max_tokens": max_tokens if endpoint.token_parameter else None}
    body |= {"seed": seed if endpoint.send_seed else None, "top_p": top_p}
    if json_schema is not None and endpoint.json == "schema":
        body["response_format"] = {"type": "json_schema", "json_schema": {**json_schema, "strict": True}}
    elif json_schema is not None and endpoint.json == "object":
        body["response_format"] = {"type": "json_object"}
    return {name: value for name, value in (body | endpoint.extra).items() if value is not None}
