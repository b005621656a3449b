"""Bodies of requests, and JSON or refusals in replies."""

from __future__ import annotations

import pytest

from prosg.llm.config import EndpointConfig
from prosg.llm.structured import find_json, refuses, request_body, request_seed, strict_object

SCHEMA = {"name": "thing", "schema": strict_object(a={"type": "integer"})}


def test_refusals() -> None:
    for text in ("I'm sorry, but I can't.", "I cannot do that.", "As an AI, I", "很抱歉，我不能", "Sorry, I will not"):
        assert refuses(text)
    for text in ("I can see the sea.", "Sorrow is a song.", "The apology: I'm sorry.", "As an example, take"):
        assert not refuses(text)


@pytest.mark.parametrize("text", ['{"a": [1]}', '```json\n{"a": [1]}\n```', 'Here it is:\n{"a": [1]}\nEnjoy!'])
def test_json_is_found_behind_words_and_in_code_fences(text: str) -> None:
    assert find_json(text) == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "fault"), [("I'm sorry, but I can't.", "a refusal"), ("Nothing.", "not JSON"), ('{"a": [', r"not JSON \(")]
)
def test_a_reply_without_json(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"^{fault}"):
        find_json(text)


def test_endpoints_decide_how_a_request_is_written() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    body = request_body(EndpointConfig(model="m"), messages, 0.5, 9, 7, SCHEMA)
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("m", 0.5, 9, 7)
    assert body["response_format"]["json_schema"] == SCHEMA | {"strict": True}
    other = EndpointConfig(
        model="m", json="object", token_parameter="max_completion_tokens", send_seed=False, extra={"top_k": 3}
    )
    body = request_body(other, messages, 0.5, 9, 7, SCHEMA)
    assert body["response_format"] == {"type": "json_object"}
    assert (body["max_completion_tokens"], body["top_k"]) == (9, 3) and not {"seed", "max_tokens"} & body.keys()
    assert "response_format" not in request_body(EndpointConfig(json="none"), messages, 0.5, 9, 7, SCHEMA)
    assert "response_format" not in request_body(EndpointConfig(), messages, 0.5, 9, 7)


def test_seeds_depend_on_every_part() -> None:
    seeds = {request_seed(0, "prompts", number) for number in range(50)} | {request_seed(1, "prompts", 0)}
    assert len(seeds) == 51 and all(0 <= seed < 2**31 for seed in seeds)
    assert request_seed(0, "prompts", 1) == request_seed(0, "prompts", 1)
