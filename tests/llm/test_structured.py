"""Bodies of requests, and JSON or refusals in replies."""

from __future__ import annotations

import json
from typing import Any

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


@pytest.mark.parametrize("before", ["As asked [sic], in {UTF-8}: ", "See [1] and [2, 3].\n", "- [ ] to do\n```json\n"])
def test_brackets_in_words_are_no_json(before: str) -> None:
    assert find_json(f'{before}{{"a": [1]}} [4]') == {"a": [1]}
    assert find_json(f'{before}["a"]') == ["a"]


@pytest.mark.parametrize("brackets", ["[a", "- [x] it is done\n", "{name} ", "{ "])
def test_brackets_without_end_are_not_each_tried_as_json(brackets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that fails counts the lines before it: as many tries as brackets would take a minute and a half."""
    tried, decode = [], json.JSONDecoder.raw_decode

    def counted(self: json.JSONDecoder, s: str, idx: int = 0) -> tuple[Any, int]:
        tried.append(idx)
        return decode(self, s, idx)

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", counted)
    with pytest.raises(ValueError, match=r"^not JSON"):
        find_json(brackets * 50_000)
    assert not tried
    assert find_json(brackets * 50_000 + '{"a": [1]}') == {"a": [1]}
    assert tried == [len(brackets) * 50_000, 0]  # where it opens, and once more what was found there


@pytest.mark.parametrize("text", ['{"a": ["b"], c: 1}', '{"a": ["b"], "c": "', '{"a": ["b"], "c', '["b", {"a": 1}, '])
def test_a_part_of_broken_json_is_not_taken_for_the_whole(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not JSON \("):
        find_json(text)


@pytest.mark.parametrize("text", ["[" * 5000, "[" * 90 + "]" * 90, '{"a": ' + "1" * 5000 + "}", '{"a": NaN}'])
def test_json_that_would_break_what_comes_after_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="^not JSON") as error:
        find_json(text)
    assert len(str(error.value)) < 200


def test_half_letters_in_json_are_replaced() -> None:
    assert find_json('{"a": "\\ud83d"}') == {"a": "\ufffd"}


def test_half_letters_are_not_sent() -> None:
    body = request_body(EndpointConfig(), [{"role": "user", "content": "a \ud83d"}], 0.0, 9, 7)
    assert body["messages"] == [{"role": "user", "content": "a \ufffd"}]


def test_parameters_can_be_left_out_and_replaced() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert request_body(
        EndpointConfig(model="m", token_parameter=None, send_seed=False, json=None), messages, None, 9, 7, SCHEMA
    ) == {"model": "m", "messages": messages}
    assert "max_tokens" not in request_body(EndpointConfig(), messages, 0.0, None, 7)
    assert request_body(EndpointConfig(), messages, 0.0, 9, 7, top_p=0.5)["top_p"] == 0.5
    extra = {"temperature": None, "top_p": 0.1, "seed": 3, "response_format": None, "max_tokens": None}
    body = request_body(EndpointConfig(model="m", extra=extra), messages, 0.5, 9, 7, SCHEMA)
    assert body == {"model": "m", "messages": messages, "seed": 3, "top_p": 0.1}


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
