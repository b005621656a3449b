"""Chat and completions: texts equal the model's own, whole and streamed; what is refused, and how."""

from __future__ import annotations

from typing import Any

import pytest

from prosg.core.encoded import Memory
from prosg.model.conversation import Conversation
from prosg.model.prosg import ProSG
from support.api import CODE, Served, events, served

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": CODE, "max_tokens": 24} | more


def chat(*messages: str, **more: Any) -> dict[str, Any]:
    """Messages of the user and the assistant in turn; a first one that begins with "system:" is the system's."""
    turns = list(messages)
    said = [{"role": "system", "content": turns.pop(0)[7:]}] if turns and turns[0].startswith("system:") else []
    said += [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    return {"model": "demo", "messages": said, "max_tokens": 12, "temperature": 0} | more


@pytest.mark.parametrize("memory", ["none", "anchor", "update", "both", "auto"])
def test_a_completion_is_the_models_own_text(server: Served, demo: ProSG, memory: Memory) -> None:
    reply = server.post(COMPLETE, completion(memory=memory, seed=5, temperature=0.7, n=2))
    wanted = demo.generate(CODE, n=2, memory=memory, seed=5, temperature=0.7, max_tokens=24)
    assert [choice["text"] for choice in reply["choices"]] == wanted
    assert reply["prosg"]["memory"] == memory
    assert reply["prosg"]["held_tokens"] == reply["usage"]["prompt_tokens"] == len(demo.prepare([CODE])[0].ids)


def test_several_prompts_and_token_ids(server: Served, demo: ProSG) -> None:
    prompts = [CODE, "Tell a story."]
    reply = server.post(COMPLETE, completion(prompt=prompts, seed=3, n=2))
    wanted = demo.generate(prompts, n=2, seed=3, temperature=1.0, max_tokens=24)
    assert [choice["text"] for choice in reply["choices"]] == [text for texts in wanted for text in texts]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    ids = [prompt.ids for prompt in demo.prepare(prompts)]
    assert reply["usage"]["prompt_tokens"] == sum(map(len, ids))
    again = server.post(COMPLETE, completion(prompt=ids, seed=3, n=2))
    assert [c["text"] for c in again["choices"]] == [c["text"] for c in reply["choices"]]


def test_a_stream_is_the_same_text(server: Served) -> None:
    body = completion(n=2, seed=1, logprobs=2, stream_options={"include_usage": True}, stream=True)
    chunks = events(server.client.post(COMPLETE, json=body).text)
    whole = server.post(COMPLETE, completion(n=2, seed=1, logprobs=2))
    for choice in (0, 1):
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice]
        assert "".join(part["text"] for part in parts) == whole["choices"][choice]["text"]
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [
            whole["choices"][choice]["finish_reason"]
        ]
        for name in ("tokens", "token_logprobs", "text_offset"):
            streamed = [value for part in parts if part["logprobs"] for value in part["logprobs"][name]]
            assert streamed == pytest.approx(whole["choices"][choice]["logprobs"][name])
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_stop_strings_are_not_written(server: Served) -> None:
    whole = server.post(COMPLETE, completion(temperature=0, max_tokens=40))["choices"][0]["text"]
    stop = whole[10:14]
    reply = server.post(COMPLETE, completion(temperature=0, max_tokens=40, stop=[stop, "\n\nNever"]))["choices"][0]
    assert reply["text"] == whole[: whole.index(stop)] and reply["finish_reason"] == "stop"
    body = completion(temperature=0, stop=whole[:4], logprobs=1)
    nothing = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}  # of no token, but asked for
    assert server.post(COMPLETE, body)["choices"][0]["logprobs"] == nothing


@pytest.mark.parametrize("memory", ["none", "anchor", "update", "both"])
def test_a_conversation_is_read_as_prosg_chat_reads_it(chat_server: Served, demo: ProSG, memory: Memory) -> None:
    for system in ("", "You are Ada, a pilot."):
        talk = Conversation(demo, "world", memory=memory, system=system)
        said = [f"system:{system}"] if system else []
        for question in (CODE, "And now?", "Once more."):
            answer = "".join(talk.ask(question, temperature=0.0, max_tokens=12))
            said.append(question)
            reply = chat_server.post(CHAT, chat(*said, memory=memory))
            assert reply["choices"][0]["message"]["content"] == answer.removeprefix(" ")
            said.append(talk.turns[-1].text or "-")
            if not talk.turns[-1].text:
                break
        turns = [{"role": "system", "content": system}] if system else [{"role": "user", "content": CODE}]
        assert reply["prosg"]["held_tokens"] < reply["usage"]["prompt_tokens"], turns


def test_a_chat_stream(chat_server: Served) -> None:
    more = {"stream": True, "logprobs": True, "top_logprobs": 3}
    chunks = events(chat_server.client.post(CHAT, json=chat(CODE, **more)).text)
    whole = chat_server.post(CHAT, chat(CODE, logprobs=True, top_logprobs=3))["choices"][0]
    deltas = [chunk["choices"][0] for chunk in chunks]
    assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(part["delta"].get("content", "") for part in deltas) == whole["message"]["content"]
    assert deltas[-1]["finish_reason"] == whole["finish_reason"] and deltas[-1]["delta"] == {}
    tokens = [token for part in deltas if part["logprobs"] for token in part["logprobs"]["content"]]
    assert [token["token"] for token in tokens] == [token["token"] for token in whole["logprobs"]["content"]]
    for token in tokens:
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0]["logprob"] >= token["logprob"]


def test_a_developer_is_the_system_and_parts_are_joined(chat_server: Served) -> None:
    parts = [{"type": "text", "text": "You are "}, {"type": "text", "text": "Ada."}]
    messages = [{"role": "developer", "content": parts}, {"role": "user", "content": CODE}]
    reply = chat_server.post(CHAT, chat() | {"messages": messages})
    assert reply["choices"] == chat_server.post(CHAT, chat("system:You are Ada.", CODE))["choices"]


def test_fields_that_ask_for_nothing_are_taken(chat_server: Served) -> None:
    nothing = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "user": "x"}
    nothing |= {"response_format": {"type": "text"}, "store": False, "stop": None, "metadata": {"a": "b"}}
    assert chat_server.post(CHAT, chat(CODE, **nothing))["choices"] == chat_server.post(CHAT, chat(CODE))["choices"]


@pytest.mark.parametrize(
    ("path", "more", "words", "param"),
    [
        (CHAT, {"temprature": 1}, ["temprature", "temperature"], "temprature"),
        (CHAT, {"temperature": 3}, ["temperature"], "temperature"),
        (CHAT, {"temperature": "1"}, ["temperature", "number"], "temperature"),
        (CHAT, {"n": True}, ["n"], "n"),
        (CHAT, {"n": 17}, ["17", "16"], "n"),
        (CHAT, {"max_tokens": 5000}, ["5000", "4096"], "max_tokens"),
        (CHAT, {"max_completion_tokens": 3}, ["max_completion_tokens"], None),
        (CHAT, {"presence_penalty": 0.5}, ["presence_penalty", "cannot", "or 0"], "presence_penalty"),
        (CHAT, {"tools": [{}]}, ["tools", "cannot"], "tools"),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, ["text"], "response_format.type"),
        (CHAT, {"response_format": {"type": "json_object"}}, ["text"], "response_format.type"),
        (CHAT, {"top_logprobs": 2}, ["top_logprobs"], None),
        (CHAT, {"stream_options": {"include_usage": True}}, ["stream"], None),
        (CHAT, {"messages": []}, ["no message"], "messages"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, ["text"], None),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, ["role"], "messages.0.role"),
        (CHAT, {"messages": [{"role": "assistant", "content": "x"}]}, ["assistant"], "messages"),
        (CHAT, {"memory": "much"}, ["memory"], "memory"),
        (CHAT, {"memory": "none", "tau": 5}, ["tau"], "tau"),
        (CHAT, {"model": "gpt-9"}, ["gpt-9", "demo"], "model"),
        (COMPLETE, {"prompt": ""}, ["empty"], "prompt"),
        (COMPLETE, {"prompt": []}, ["prompt", "at least 1 item"], "prompt"),
        (COMPLETE, {"prompt": [99999]}, ["99999", "1023"], "prompt"),
        (COMPLETE, {"prompt": [-1]}, ["greater than or equal to 0"], "prompt.0"),
        (COMPLETE, {"best_of": 2}, ["best_of"], None),
        (COMPLETE, {"echo": True}, ["echo"], "echo"),
        (COMPLETE, {"stop": ""}, ["stop"], "stop"),
        (COMPLETE, {"stop": ["x"] * 17}, ["at most 16"], "stop"),
        (COMPLETE, {"prompt": ["x"] * 65}, ["at most 64"], "prompt"),
    ],
)
def test_what_cannot_be_had_is_refused(
    chat_server: Served, path: str, more: dict[str, Any], words: list[str], param: str | None
) -> None:
    body = (chat(CODE) if path == CHAT else completion()) | more
    chat_server.refused(path, body, *words, param=param, status=404 if "model" in more else 400)


def test_a_template_without_a_system_turn_says_so(server: Served) -> None:
    server.refused(CHAT, chat("system:You are Ada.", CODE), "system", param="messages")


def test_long_prompts_are_refused(demo: ProSG) -> None:
    with served(demo, max_prompt_tokens=10) as server:
        server.refused(COMPLETE, completion(), "at most 10", param="prompt")


def test_a_full_queue_is_429(demo: ProSG) -> None:
    with served(demo, rows=1, queue=1) as server:
        reply = server.client.post(COMPLETE, json=completion(n=8, max_tokens=500))
        assert reply.status_code == 429 and int(reply.headers["retry-after"]) >= 1
        for _ in range(100):  # what was taken in before is cancelled at the next step
            if server.client.post(COMPLETE, json=completion()).status_code == 200:
                break
        else:
            pytest.fail("the queue stays full")


def test_a_deadline_ends_an_answer(demo: ProSG) -> None:
    with served(demo, timeout=0.05) as server:
        body = completion(max_tokens=4000, temperature=2.0, memory="none", seed=2)
        reply = server.client.post(COMPLETE, json=body)
        assert reply.status_code == 504 and reply.json()["error"]["code"] == "timeout"
        text = server.client.post(COMPLETE, json=body | {"stream": True}).text
        assert '"code":"timeout"' in text and "[DONE]" not in text


def test_the_log_has_no_prompts_unless_asked_for(demo: ProSG, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "prosg.serve")
    for wanted in (False, True):
        caplog.clear()
        with served(demo, log_prompts=wanted) as server:
            server.post(COMPLETE, completion())
            server.refused(COMPLETE, completion(secret=CODE), "secret")
        assert "read=" in caplog.text
        assert ("4821937" in caplog.text) == wanted
