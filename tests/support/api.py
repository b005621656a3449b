"""Servers in tests: in this process, and as the command in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fastapi.testclient import TestClient

from prosg.model.prosg import ProSG
from prosg.serving.api.app import make_app
from prosg.serving.api.options import ApiOptions, KeyLimits
from prosg.serving.api.service import Service, open_service
from prosg.serving.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
CODE = "Remember the code 4821937. Tell a story, then say the code."
"""A prompt that the packaged model knows."""


class Served(NamedTuple):
    """A server in this process."""

    client: TestClient
    service: Service

    def post(self, path: str, body: Any, status: int = 200, **headers: str) -> Any:
        """Sends JSON, and returns JSON."""
        reply = self.client.post(path, json=body, headers=headers)
        assert reply.status_code == status, reply.text
        return reply.json()

    def get(self, path: str, status: int = 200, **headers: str) -> Any:
        reply = self.client.get(path, headers=headers)
        assert reply.status_code == status, reply.text
        return reply.json()

    def refused(self, path: str, body: Any, *words: str, status: int = 400, param: str | None = None) -> None:
        """The request is refused in OpenAI's form, with these words."""
        error = self.post(path, body, status)["error"]
        assert sorted(error) == ["code", "message", "param", "type"]
        for word in words:
            assert word in error["message"]
        if param is not None:
            assert error["param"] == param


@contextmanager
def served(model: ProSG, *, template: str = "", rows: int = 32, queue: int = 256, **options: Any) -> Iterator[Served]:
    """Serves a model in this process."""
    limits = KeyLimits(**options.pop("limits", {}))
    api = ApiOptions(limits=limits, **options)
    engine = Engine(model, max_rows=rows, queue=queue)
    with open_service(model, engine, api, name="demo", template=template) as service:
        engine.start()
        try:
            with TestClient(make_app(service), "http://127.0.0.1:8000", raise_server_exceptions=False) as client:
                yield Served(client, service)
        finally:
            engine.stop(0.0)


def events(text: str) -> list[dict[str, Any]]:
    """The JSON values of server-sent events; the last event has to be [DONE]."""
    *lines, last = [line for line in text.split("\n\n") if line]
    assert last == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


class Live(NamedTuple):
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def stop(self) -> int:
        """Sends SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def live_server(folder: Path, *options: str) -> Iterator[Live]:
    """Runs `prosg serve demo` on a free port, its log in a file of the folder."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "prosg", "serve", "demo", "--port", "0", *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *filter(None, sys.path)])}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if "Ctrl-C" in line), "")  # Ray has more to say before that
        assert "http://" in line, log.read_text()
        yield Live(process, next(word for word in line.split() if word.startswith("http")), log)
    finally:
        process.kill()
        process.wait()
