"""Commands that are killed while they write: what they write is whole or as before, and the next one cleans up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prosg.checkpoints.load import load_model
from prosg.cli import main
from prosg.data.row import read_rows
from support.commands import make_command_folder
from support.kills_at import in_child, leftovers, moments

Command = tuple[list[str], str, Callable[[Path], object]]
COMMANDS: dict[str, Command] = {
    "data make": (["data", "make", "made/rows.jsonl", "--size", "20"], "made/rows.jsonl", read_rows),
    "data compose": (
        ["data", "compose", "tasks.jsonl", "--size", "10", "--out", "made/set"],
        "made/set/train.jsonl",
        read_rows,
    ),
    "convert to a folder": (["convert", "start", "made/model"], "made/model", load_model),
    "convert to a file": (["convert", "start", "made/model.pth"], "made/model.pth", load_model),
    "merge": (["merge", "run", "--prompt", "x", "--out", "made/merged"], "made/merged", load_model),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    make_command_folder(folder)
    tasks = [f'{{"instruction": "Say {word}.", "output": "{word}"}}' for word in map(str, range(100, 160))]
    (folder / "tasks.jsonl").write_text("\n".join(tasks))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_anywhere_nothing_is_half_there(
    shop: Path, monkeypatch: pytest.MonkeyPatch, name: str, overwrite: bool
) -> None:
    monkeypatch.chdir(shop)
    command, target, read = COMMANDS[name]
    made = shop / "made"

    def reset() -> None:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        if overwrite:
            assert main(command) == 0

    def run() -> None:
        assert main([*command, "--overwrite"]) == 0

    reset()
    for moment in moments(run, made, 8):
        reset()
        in_child(run, made, moment)
        if overwrite or (shop / target).exists():
            read(shop / target)
        assert main([*command, "--overwrite"]) == 0
        read(shop / target)
        assert leftovers(made) == []
