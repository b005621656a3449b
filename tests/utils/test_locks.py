"""Locks on folders: a second process, deleted locks, deleted folders, and what dead processes left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prosg.utils.io import write_json
from prosg.utils.locks import LOCK, check_locks, locked
from prosg.utils.store import Log

HOLD = "import sys; from pathlib import Path; from prosg.utils.locks import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.readline()"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A folder that another process has locked."""
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
    yield folder
    holder.communicate(b"\n")


def test_a_folder_is_locked_for_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(ValueError, match="run: "), locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match=r"cannot be written \(Not a directory\)") as error,
        locked(tmp_path / "file" / "run"),
    ):
        pass
    assert error.value.filename == str(tmp_path / "file" / "run")


@pytest.mark.parametrize("deleted", [False, True])
def test_another_process_keeps_its_lock_though_the_file_is_deleted(held: Path, deleted: bool) -> None:
    if deleted:
        (held / LOCK).unlink()
    with pytest.raises(ValueError, match="another command"), locked(held):
        pass


@pytest.mark.parametrize("made_again", [False, True])
def test_nothing_is_written_into_a_folder_that_was_deleted(tmp_path: Path, made_again: bool) -> None:
    folder = tmp_path / "run"
    with locked(folder):
        log = Log(folder / "log.jsonl")
        check_locks()
        shutil.rmtree(folder)
        if made_again:
            folder.mkdir()
        with pytest.raises(ValueError, match="run: was deleted"):
            write_json(folder / "file.json", {})
        with pytest.raises(ValueError, match="run: was deleted"):
            log.append({"id": 1})
        log.close()
    assert not folder.exists() or not list(folder.iterdir())
    check_locks()


def test_a_folder_is_swept_when_it_is_locked(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "a" / f".model.{dead_pid()}.prosg" / "model").mkdir(parents=True)
    (folder / "a" / f".old.{dead_pid()}.tmp").write_text("half")
    alive = folder / f".model.{os.getppid()}.prosg"
    alive.mkdir()
    with locked(folder):
        assert sorted(path.name for path in folder.rglob("*")) == sorted([alive.name, LOCK, "a"])


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
