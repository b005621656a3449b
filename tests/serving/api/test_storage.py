"""Storages of prompts: the same by path and by URL, and files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.model.prosg import ProSG
from prosg.serving.api.prompts import PromptRecord, PromptStore
from prosg.serving.api.storage import Bucket, Folder, Storage, open_storage
from support.api import CODE, served
from support.models import same_encoded

MEMORY = "memory://prompts-of-tests"


@pytest.fixture(params=["folder", "file", "memory", "local"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    places = {
        "folder": str(tmp_path),
        "file": f"file://{tmp_path}",
        "memory": f"{MEMORY}/{tmp_path.name}",
        "local": f"local://{tmp_path}",
    }
    opened = open_storage(places[request.param])
    assert isinstance(opened, Folder if request.param in ("folder", "file") else Bucket)
    return opened


def put(storage: Storage, name: str, text: str) -> None:
    with storage.written(name) as path:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def got(storage: Storage, name: str) -> str:
    with storage.fetched(name) as path:
        return path.read_text()


def test_what_is_written_is_there(storage: Storage) -> None:
    assert storage.names("anna") == []
    put(storage, "anna/one", "1")
    put(storage, "anna/one", "1 again")
    put(storage, "anna/two", "2")
    assert sorted(storage.names("anna")) == ["one", "two"]
    assert got(storage, "anna/one") == "1 again"
    for _ in range(2):
        storage.remove("anna/one")
    assert storage.names("anna") == ["two"]
    with pytest.raises(FileNotFoundError):
        got(storage, "anna/one")


def test_an_upload_that_breaks_off_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    storage = open_storage(f"{MEMORY}/{tmp_path.name}")
    assert isinstance(storage, Bucket)
    whole = storage._files.pipe_file
    monkeypatch.setattr(storage._files, "pipe_file", lambda path, content: whole(path, content[:-1]))
    with pytest.raises(OSError, match="bytes"):
        put(storage, "anna/one", "123")
    assert storage.names("anna") == []
    assert storage._files.find(storage._root) == []  # nor what was uploaded of it


@pytest.mark.parametrize("name", ["a[1]", "st*r", "what?", "a b", "é#%20", "[!a]"])
@pytest.mark.parametrize("kind", ["memory://prompts-of-tests", "local://", ""])
def test_characters_of_patterns_stand_for_themselves(kind: str, name: str, tmp_path: Path) -> None:
    other, storage = (open_storage(f"{kind}{tmp_path}/{folder}") for folder in ("a1", name))
    put(other, "anna/one", "another's")
    put(storage, "anna/one", "1")
    put(storage, "anna/one", "1 again")
    assert got(storage, "anna/one") == "1 again" and storage.names("anna") == ["one"]
    storage.remove("anna/one")
    assert storage.names("anna") == [] and got(other, "anna/one") == "another's"


def test_kinds_of_urls(tmp_path: Path) -> None:
    chained = open_storage(f"simplecache::{MEMORY}/{tmp_path.name}")
    assert isinstance(chained, Bucket)
    put(chained, "anna/one", "1")
    assert got(open_storage(f"{MEMORY}/{tmp_path.name}"), "anna/one") == "1"
    on_this_machine = open_storage(f"file://localhost{tmp_path}")
    assert isinstance(on_this_machine, Folder) and on_this_machine.path == tmp_path


@pytest.mark.parametrize("url", ["file://", "nowhere://prompts", "sftp://"])
def test_a_place_that_cannot_be_reached_is_named(url: str) -> None:
    with pytest.raises(ValueError, match=url):
        open_storage(url)


def test_stores_share_prompts_by_url(demo: ProSG, tmp_path: Path) -> None:
    fingerprint, encoded = model_fingerprint(demo), demo.encode(CODE, memory="update")
    one, two = (PromptStore(open_storage(f"{MEMORY}/{tmp_path.name}"), demo, fingerprint) for _ in range(2))
    record = PromptRecord("prompt-" + "1" * 24, 1, "", "text", 3, 0, fingerprint, "auto", None, True, "")
    added = one.add("anna", record, encoded)
    assert two.owned_by("anna") == [added]
    assert two.find("ben", record.id) is None
    assert same_encoded(two.load("anna", added).encoded, encoded)
    assert len(two.content("anna", record.id)) == added.bytes
    assert two.delete("anna", record.id)
    assert one.find("anna", record.id) is None


def test_a_server_stores_prompts_at_a_url(demo: ProSG, tmp_path: Path) -> None:
    place = f"{MEMORY}/{tmp_path.name}"
    body = {"model": "demo", "prompt": "", "max_tokens": 12, "temperature": 0}
    with served(demo, prompts=place) as server:
        stored = server.post("/v1/prompts", {"text": CODE}, 201)
    with served(demo, prompts=place) as server:
        assert server.get("/v1/prompts")["data"] == [stored]
        reply = server.post("/v1/completions", body | {"prompt_id": stored["id"]})
    assert reply["choices"][0]["text"] == demo.generate(CODE, temperature=0.0, max_tokens=12)
