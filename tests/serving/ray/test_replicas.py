"""Two replicas under Ray, as a user starts them: the texts of one engine, and one of them killed under load."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prosg.model.prosg import ProSG
from support.api import CODE, Live, events, live_server

pytest.importorskip("ray.serve")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # on a busy machine Ray takes minutes to start
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="replicas are found in /proc"),
]

COMPLETE, PROMPTS = "/v1/completions", "/v1/prompts"
WORKERS = 4
TEXTS = [f"Remember the code {4821930 + number}. Tell a story, then say the code." for number in range(3)]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("replicas")
    options = ("--replicas", "2", "--replica-cpus", "0.5", "--prompts", str(folder / "prompts"), "--drain", "2")
    with live_server(folder, *options) as live:
        yield live
        assert live.stop() == 0


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=200) as client:
        yield client


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": "", "max_tokens": 16, "temperature": 0} | more


def replicas(live: Live) -> list[int]:
    """Process ids of the replicas, of this server and no other."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(status[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue

    def is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == live.process.pid:
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid, name in names.items() if "ServeReplica:prosg:replica" in name and is_ours(pid)]


def test_texts_are_those_of_one_engine(client: httpx.Client, demo: ProSG) -> None:
    for text in TEXTS:
        wanted = demo.generate(text, memory="update", temperature=0.0, max_tokens=16)
        stored = client.post(PROMPTS, json={"text": text, "memory": "update"}).json()
        for body in (completion(prompt_id=stored["id"]), completion(prompt=text, memory="update")):
            for _ in range(3):
                assert client.post(COMPLETE, json=body).json()["choices"][0]["text"] == wanted
            streamed = events(client.post(COMPLETE, json=body | {"stream": True}).text)
            assert "".join(event["choices"][0]["text"] for event in streamed) == wanted
    assert client.post(COMPLETE, json={}).status_code == 400
    written = [line for line in client.get("/metrics").text.splitlines() if line.startswith("prosg_submitted_total{")]
    assert len(written) == 2


def test_a_replica_that_is_killed_under_load_loses_nothing(live: Live, client: httpx.Client, demo: ProSG) -> None:
    wanted = demo.generate(CODE, memory="update", temperature=0.0, max_tokens=16)
    prompt = client.post(PROMPTS, json={"text": CODE, "memory": "update"}).json()["id"]
    found: list[tuple[int, str]] = []
    confirmed: list[tuple[str, str]] = []
    ended = threading.Event()

    def work(worker: int) -> None:
        number = 0
        while not ended.is_set():
            reply = client.post(COMPLETE, json=completion(prompt_id=prompt))
            found.append((reply.status_code, reply.json()["choices"][0]["text"] if reply.is_success else reply.text))
            text = f"Remember the code {1000000 + 10000 * worker + number}. Tell a story, then say the code."
            stored = client.post(PROMPTS, json={"text": text, "memory": "update"})
            found.append((stored.status_code, wanted))
            confirmed.append((stored.json()["id"], text))
            number += 1

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    try:
        _wait(lambda: len(found) > 20)
        before = replicas(live)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        killed = len(found)
        _wait(lambda: len(found) > killed + 40)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in found} <= {200, 201}, [text for status, text in found if status > 201][:3]
    assert {text for _, text in found} == {wanted}
    listed = {one["id"] for one in client.get(PROMPTS).json()["data"]}
    assert listed >= {name for name, _ in confirmed}
    for name, text in confirmed[-3:]:
        reply = client.post(COMPLETE, json=completion(prompt_id=name)).json()
        assert reply["choices"][0]["text"] == demo.generate(text, memory="update", temperature=0.0, max_tokens=16)


def _wait(is_true: Any, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < until
        time.sleep(0.05)
