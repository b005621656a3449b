"""Names of the Hugging Face hub, with a hub that is a dictionary."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from prosg.checkpoints.hub import local_path, push
from prosg.checkpoints.load import demo_model, load_model
from prosg.cli import main
from prosg.utils.io import CheckpointError


class Hub:
    """What it holds by name, and what was asked of it."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.asked: list[Any] = []

    def snapshot_download(self, name: str, allow_patterns: list[str]) -> str:
        self.asked.append(name)
        if name not in self.folders:
            raise huggingface_hub.errors.LocalEntryNotFoundError("It is not in the cache.\nCheck your connection.")
        return str(self.folders[name])

    def hf_hub_download(self, name: str, file: str) -> str:
        self.asked.append((name, file))
        return str(Path(self.snapshot_download(name, [])) / file)

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
        self.asked.append((name, private))
        if name.startswith("others/"):
            raise OSError("403 Forbidden: not yours.")
        return f"https://hub/{name}"

    def upload_folder(self, repo_id: str, folder_path: Path) -> None:
        self.asked.append(sorted(path.name for path in folder_path.iterdir()))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    base = demo_model().parent / "base"
    bare = tmp_path / "bare"
    bare.mkdir()
    known = Hub({"us/base": base, "us/plus": demo_model(), "us/bare": bare})
    for name in ("snapshot_download", "hf_hub_download", "create_repo", "upload_folder"):
        monkeypatch.setattr(huggingface_hub, name, getattr(known, name))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    monkeypatch.chdir(tmp_path)
    return known


def test_models_come_by_their_names(hub: Hub) -> None:
    assert load_model("us/base").synthesizer is None
    assert load_model("hf://us/plus", base="us/base").synthesizer is not None
    assert local_path("us/base/config.json").name == "config.json"
    assert hub.asked == ["us/base", "us/plus", "us/base", ("us/base", "config.json"), "us/base"]


def test_what_is_here_is_not_looked_for_there(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(demo_model().parent / "base", tmp_path / "us" / "base")
    assert load_model("us/base").base == "us/base"
    for name in ("us/other", "./them/base", "/them/base", "them", "them/base/../x/", "demo"):
        local_path(name)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("them/base", "them/base: .*here, and .*It is not in the cache"),
        ("hf://them/base", "^hf://them/base: "),
        ("hf://base", "hf://owner/name"),
        ("us/bare", "us/bare/FILE.pth"),
    ],
)
def test_what_cannot_be_had(hub: Hub, name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_model(name)


def test_offline_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="them/base: .*hub"):
        local_path("them/base")  # tests run without a network


def test_a_folder_is_uploaded(hub: Hub) -> None:
    assert push(demo_model(), "us/new", private=True) == "https://hub/us/new"
    assert hub.asked == [("us/new", True), ["prosg_config.json", "prosg_model.safetensors"]]


def test_the_command_uploads(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(demo_model()), "us/new", "--private"]) == 0
    assert capsys.readouterr().out == "https://hub/us/new\n"


@pytest.mark.parametrize(
    ("folder", "name", "words"),
    [
        (Path("us"), "us/new", "us: .*prosg_config.json"),
        (demo_model(), "new", "owner/name"),
        (demo_model(), "others/new", "403 Forbidden: not yours"),
    ],
)
def test_what_cannot_be_uploaded(hub: Hub, folder: Path, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        push(folder, name)


def test_uploading_needs_a_login(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="hf auth login"):
        push(demo_model(), "us/new")
