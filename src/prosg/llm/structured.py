"""Structured replies: JSON schemas that are asked for, and JSON that is found in what a model says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prosg.llm.config import EndpointConfig
from prosg.musi.text import refuses
from prosg.utils.store import record_id

__all__ = ["find_json", "request_body", "request_seed", "strict_object"]


def strict_object(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object that has exactly these properties."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def find_json(text: str) -> Any:
    """The JSON value in a reply, in a code fence or behind some words perhaps. ValueError where there is none."""
    decoder = json.JSONDecoder()
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    if not starts:
        raise ValueError("a refusal" if refuses(text) else "not JSON")
    try:
        return decoder.raw_decode(text, min(starts))[0]
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from None


def request_seed(*parts: object) -> int:
    """A seed of 31 bits from whatever it depends on."""
    return int(record_id(parts=list(parts))[:8], 16) >> 1


def request_body(
    endpoint: EndpointConfig,
    messages: Sequence[Mapping[str, str]],
    temperature: float,
    max_tokens: int,
    seed: int,
    json_schema: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A request as it is sent. json_schema: {"name", "schema"} where JSON is wanted."""
    body: dict[str, Any] = {"model": endpoint.model, "messages": [*messages], "temperature": temperature}
    body[endpoint.token_parameter] = max_tokens
    if endpoint.send_seed:
        body["seed"] = seed
    if json_schema is not None and endpoint.json == "schema":
        body["response_format"] = {"type": "json_schema", "json_schema": {**json_schema, "strict": True}}
    elif json_schema is not None and endpoint.json == "object":
        body["response_format"] = {"type": "json_object"}
    return body | endpoint.extra
