"""The ingress' application in front of replicas that are calls in this process: replies, retries, ends."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Message

from prosg.checkpoints.load import load_model
from prosg.serving.api.app import inner_app, make_app
from prosg.serving.api.edge import layers
from prosg.serving.api.options import ApiOptions
from prosg.serving.api.service import Plan, Service, run_service
from prosg.serving.ray.calls import Call, answered, named_prompt
from prosg.serving.ray.metrics import merged
from prosg.serving.ray.relay import LostReplicaError, Relay
from support.api import CODE, events

COMPLETE, CHAT, PROMPTS = "/v1/completions", "/v1/chat/completions", "/v1/prompts"
ID = "prompt-" + "0" * 24


@dataclass
class Cluster:
    """An ingress and a replica, whose calls can be lost."""

    service: Service
    losses: list[int] = field(default_factory=list)
    """after how many messages each of the next calls is lost"""
    calls: list[Call] = field(default_factory=list)
    timeout: float = 30.0

    async def answer(self, call: Call) -> AsyncGenerator[Message]:
        self.calls.append(call)
        left = self.losses.pop(0) if self.losses else -1
        async for message in answered(inner_app(self.service), call, {}):
            if not left:
                raise LostReplicaError("killed")
            left -= 1
            yield message

    async def metrics(self) -> bytes:
        return merged({"": "", "one": self.service.metrics.text().decode()})

    def client(self) -> TestClient:
        app: ASGIApp = Relay(self.answer, self.metrics, self.timeout)
        for layer, options in layers(self.service):
            app = layer(app, **options)
        return TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    plan = Plan(
        lambda: load_model("demo"),
        {"max_rows": 8, "cache_bytes": 0},
        ApiOptions(allow_origin=("http://x.test",)),
        "demo",
    )
    with run_service(plan) as service:
        yield service


@pytest.fixture
def cluster(service: Service, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr("prosg.serving.ray.relay.PAUSE", 0.01)
    return Cluster(service)


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": CODE, "max_tokens": 12, "temperature": 0} | more


def comparable(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in ("id", "created")}


def joined(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events whose pieces of text are one: how many there are depends on how quickly they are read."""
    found: list[dict[str, Any]] = []
    for event in events:
        pieces = [one for one in event["choices"] if one["finish_reason"] is None]
        if found and pieces and found[-1]["choices"] and found[-1]["choices"][0]["finish_reason"] is None:
            found[-1]["choices"][0]["text"] += pieces[0]["text"]
        else:
            found.append(comparable(event))
    return found


def test_replies_are_those_of_one_server(cluster: Cluster) -> None:
    one, several = TestClient(make_app(cluster.service), "http://127.0.0.1:8000"), cluster.client()
    requests: list[tuple[str, str, Any]] = [
        ("POST", COMPLETE, completion()),
        ("POST", COMPLETE, completion(n=2, temperature=1, seed=3)),
        ("POST", COMPLETE, completion(prompt="")),
        ("POST", COMPLETE, {"model": "demo"}),
        ("POST", PROMPTS, {"text": CODE}),
        ("GET", PROMPTS, None),
        ("GET", f"{PROMPTS}/{ID}", None),
        ("GET", "/v1/models", None),
        ("GET", "/openapi.json", None),
        ("GET", "/nothing", None),
        ("DELETE", COMPLETE, None),
    ]
    for method, path, body in requests:
        wanted, found = (client.request(method, path, json=body) for client in (one, several))
        assert found.status_code == wanted.status_code, path
        assert comparable(found.json()) == comparable(wanted.json()), path
        assert {*found.headers} >= {*wanted.headers}
    assert several.get("/").text == one.get("/").text


def test_streams_are_those_of_one_server(cluster: Cluster) -> None:
    one, several = TestClient(make_app(cluster.service), "http://127.0.0.1:8000"), cluster.client()
    body = completion(stream=True, stream_options={"include_usage": True})
    wanted, found = (events(client.post(COMPLETE, json=body).text) for client in (one, several))
    assert joined(found) == joined(wanted)


def test_the_edge_stands_before_the_replicas(cluster: Cluster) -> None:
    client = cluster.client()
    assert client.get("/v1/models", headers={"host": "example.org"}).status_code == 421
    assert client.post(COMPLETE, content=b"x" * (2 << 20)).status_code == 413
    assert client.get("/health", headers={"origin": "http://x.test"}).headers["access-control-allow-origin"]
    assert [call.scope["path"] for call in cluster.calls] == ["/health"]


@pytest.mark.parametrize("losses", [[0], [1], [0, 1, 0]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_replica_is_lost_before_it_says_anything_is_sent_again(
    cluster: Cluster, losses: list[int], stream: bool
) -> None:
    client, tries = cluster.client(), len(losses) + 1
    wanted = client.post(COMPLETE, json=completion()).json()["choices"][0]["text"]
    cluster.losses = list(losses)
    cluster.calls.clear()
    reply = client.post(COMPLETE, json=completion(stream=stream))
    assert reply.status_code == 200
    choices = [event["choices"][0] for event in (events(reply.text) if stream else [reply.json()])]
    assert "".join(choice["text"] for choice in choices) == wanted
    assert len(cluster.calls) == tries
    assert len({call.request_id for call in cluster.calls}) == 1


def test_a_prompt_is_stored_once_however_often_its_replica_is_lost(cluster: Cluster) -> None:
    client, text = cluster.client(), "Stored once."
    before = len(client.get(PROMPTS).json()["data"])
    cluster.losses = [1, 1]
    assert client.post(PROMPTS, json={"text": text}).status_code == 201
    assert len(client.get(PROMPTS).json()["data"]) == before + 1


def test_a_stream_that_has_begun_ends_with_an_error(cluster: Cluster) -> None:
    cluster.losses = [3]
    reply = cluster.client().post(COMPLETE, json=completion(stream=True))
    *pieces, last = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
    assert pieces and last["error"]["code"] == "replica_lost"


def test_where_no_replica_answers_in_time_it_is_said(cluster: Cluster) -> None:
    cluster.timeout = 0.3
    cluster.losses = [0] * 1000
    reply = cluster.client().post(COMPLETE, json=completion())
    assert reply.status_code == 503
    assert "retry-after" in reply.headers
    assert reply.json()["error"]["type"] == "server_error"


def test_counters_are_those_of_each_replica(cluster: Cluster) -> None:
    client = cluster.client()
    client.post(COMPLETE, json=completion(stream=True))
    lines = client.get("/metrics").text.splitlines()
    assert any(line.startswith('prosg_written_tokens_total{replica="one"} ') for line in lines)
    assert any('route="/v1/completions"' in line for line in cluster.service.metrics.text().decode().splitlines())


def test_metrics_of_the_same_name_are_one_family() -> None:
    text = '# HELP a_total A\n# TYPE a_total counter\na_total{{x="1"}} {}\n'
    lines = merged({"": text.format(1), "r": text.format(2)}).decode().splitlines()
    assert lines == [
        "# HELP a_total A",
        "# TYPE a_total counter",
        'a_total{x="1"} 1.0',
        'a_total{replica="r",x="1"} 2.0',
    ]


@pytest.mark.parametrize(
    ("path", "body", "prompt"),
    [
        (COMPLETE, {"prompt_id": ID}, ID),
        (CHAT, {"model": f"demo:{ID}"}, ID),
        (CHAT, {"model": "demo"}, ""),
        (CHAT, {"prompt_id": [ID]}, ""),
        (CHAT, {"prompt_id": "x" * 99}, ""),
        (CHAT, [], ""),
        (PROMPTS, {"prompt_id": ID}, ""),
        (f"{PROMPTS}/{ID}", None, ID),
        (f"{PROMPTS}/{ID}/content", None, ID),
        (f"/v1/models/demo:{ID}", None, ID),
    ],
)
def test_a_request_is_routed_by_the_prompt_that_it_names(path: str, body: Any, prompt: str) -> None:
    assert named_prompt(path, b"" if body is None else json.dumps(body).encode()) == prompt
    assert named_prompt(path, b"\xff[") in ("", prompt)
