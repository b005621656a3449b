"""One folder of files for the tests of all commands, and how they are run there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import contents, make_command_folder, status
from support.training_folder import TrainingFolder


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    return make_command_folder(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def here(shop: TrainingFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shop.folder)
    return shop.folder


@pytest.fixture
def output(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command, run in the folder, prints; its status is 0."""

    def run(*command: object) -> str:
        capsys.readouterr()
        assert status([str(part) for part in command]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """The command ends with status 2 and one line on stderr that has these words; no file is made or changed."""

    def check(command: list[str], *words: str) -> None:
        before = contents(here)
        capsys.readouterr()
        assert status(command) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
        for word in words:
            assert word in err
        assert contents(here) == before

    return check
