"""`prosg serve` and `prosg keys`: what they refuse, and the file of keys."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.commands import case

SERVING = pytest.mark.skipif(find_spec("prometheus_client") is None, reason="the extra `serve` is not installed")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        case("serve demo --host 0.0.0.0", "0.0.0.0", "--keys"),
        case("serve demo --port 70000", "port", "65535"),
        case("serve demo --name a:b", "name", "colon"),
        case("serve demo --limits.rows -1", "--limits.rows"),
        case("serve demo --rows 0", "--rows is 0"),
        case("serve demo --cache -1", "--cache is -1"),
        case("serve demo --time-out 3", "--time-out", "--timeout"),
        case("serve demo --replicas -1", "replicas", "-1"),
        case("serve demo --replica-cpus 0", "--replica-cpus"),
        case("serve demo --replicas 2", "--replicas", "--prompts"),
        case("serve demo --replicas 2 --prompts memory://prompts", "memory://prompts"),
        case("serve demo --replicas 2 --prompts new --cache-folder cache", "--cache-folder"),
        case("keys list nothing.json", "nothing.json"),
        case("keys revoke bad.jsonl anna", "bad.jsonl"),
        case("keys add new.json", "name"),
        case("keys", "add", "list", "revoke"),
    ],
)
def test_what_cannot_be_served(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


@SERVING
@pytest.mark.skipif(find_spec("ray") is not None, reason="the extra `ray` is installed")
def test_replicas_need_their_extra(refused: Callable[..., None]) -> None:
    refused(["serve", "demo", "--replicas", "2", "--prompts", "new"], "pip install 'prosg[ray]'", "ray is missing")


@SERVING
def test_what_only_the_server_can_tell(refused: Callable[..., None], here: Path) -> None:
    refused(["serve", "demo", "--port", "0", "--keys", "nothing.json"], "nothing.json")
    refused(["serve", "demo", "--port", "0", "--memory", "none", "--tau", "5"], "tau")
    refused(["serve", "demo", "--port", "0", "--rows", "0"], "--rows is 0")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        refused(["serve", "demo", "--port", port], "--port", port)


def test_keys_are_made_listed_and_revoked(output: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = output("keys", "add", file, "anna", "--rows", 3).strip()
    output("keys", "add", file, "ben")
    assert key.startswith("prosg-") and key not in file.read_text()
    listed = output("keys", "list", file)
    assert "anna" in listed and "rows 3" in listed and "the server's" in listed
    output("keys", "revoke", file, "anna")
    assert [one["name"] for one in json.loads(file.read_text())["keys"]] == ["ben"]
