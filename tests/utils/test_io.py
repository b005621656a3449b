"""Files are written whole or not at all, and nothing else is replaced."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from prosg.checkpoints.torch_file import save_torch
from prosg.utils import staging
from prosg.utils.io import write_json, write_lines, written_whole
from prosg.utils.replaceable import FolderKind
from prosg.utils.staging import staging_folder

KIND = FolderKind("a thing", "thing.json", ("size",), ("part-*.txt",))


def write_thing(path: Path, size: int = 1, overwrite: bool = True) -> None:
    with written_whole(path, overwrite=overwrite, kind=KIND) as temporary:
        temporary.mkdir()
        (temporary / "thing.json").write_text(json.dumps({"size": size}))
        (temporary / "part-1.txt").write_text(str(size))


def size_of(path: Path) -> int:
    size: int = json.loads((path / "thing.json").read_text())["size"]
    return size


@pytest.fixture(params=[True, False], ids=["one step", "two steps"])
def rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a system that exchanges two names in one step."""
    if not request.param:
        monkeypatch.setattr(staging, "_rename", lambda *_: False)


@pytest.mark.usefixtures("rename")
def test_folders_and_files_are_replaced_when_asked(tmp_path: Path) -> None:
    for path, write in ((tmp_path / "thing", write_thing), (tmp_path / "file", write_json)):
        write(path, 1)
        write(path, 2)
        with pytest.raises(FileExistsError, match=f"{path.name}: exists"):
            write(path, 3, overwrite=False)
    assert size_of(tmp_path / "thing") == 2 and (tmp_path / "file").read_text() == "2\n"
    (tmp_path / "empty").mkdir()
    write_thing(tmp_path / "empty", overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "thing"]


@pytest.mark.usefixtures("rename")
def test_an_interrupted_write_leaves_things_as_they_were(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    write_thing(target)

    def interrupted() -> None:
        with written_whole(target, overwrite=True, kind=KIND) as temporary:
            temporary.mkdir()
            (temporary / "thing.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert size_of(target) == 1
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("file", ["notes.txt", ".hidden", "checkpoint-1/weights", "thing.json"])
def test_a_folder_with_anything_else_in_it_is_not_replaced(tmp_path: Path, file: str) -> None:
    write_thing(tmp_path / "thing")
    (tmp_path / "thing" / file).parent.mkdir(exist_ok=True)
    (tmp_path / "thing" / file).write_text('{"another": "kind"}')
    with pytest.raises(FileExistsError, match=file.partition("/")[0]):
        write_thing(tmp_path / "thing", 2)
    assert (tmp_path / "thing" / file).exists() and (tmp_path / "thing" / "part-1.txt").read_text() == "1"


def test_files_and_folders_do_not_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match="file: is a file"):
        write_thing(tmp_path / "file")
    with pytest.raises(FileExistsError, match="folder: is a folder"):
        write_json(tmp_path / "folder", {})


def test_devices_and_pipes_are_refused_and_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", Path("/dev/null"), tmp_path / "link"):
        before = path.lstat()
        with pytest.raises(FileExistsError, match=f"{path.name}|/dev/null"):
            write_json(path, {})
        assert path.lstat().st_ino == before.st_ino


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, write in (("file", write_json), ("thing", write_thing)):
        (tmp_path / name).symlink_to(tmp_path / "there" / name)
        for size in (1, 2):
            write(tmp_path / name, size)
        assert (tmp_path / name).is_symlink() and (tmp_path / "there" / name).exists()
    assert size_of(tmp_path / "there" / "thing") == 2


def test_a_replaced_file_keeps_its_mode_and_a_new_one_has_the_umasks(tmp_path: Path) -> None:
    write_json(tmp_path / "file", 1)
    write_thing(tmp_path / "thing")
    umask = os.umask(0o022)
    os.umask(umask)
    assert mode(tmp_path / "file") == mode(tmp_path / "thing" / "part-1.txt") == 0o666 & ~umask
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "thing").chmod(0o700)
    (tmp_path / "thing" / "part-1.txt").chmod(0o640)
    write_json(tmp_path / "file", 2)
    write_thing(tmp_path / "thing", 2)
    modes = [mode(tmp_path / name) for name in ("file", "thing", "thing/part-1.txt")]
    assert modes == [0o600, 0o700, 0o640]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_dead_processes_left_is_removed_and_what_live_ones_write_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".other.{dead.pid}.prosg" / "other").mkdir(parents=True)
    (tmp_path / f".file.{dead.pid}.tmp").write_text("half")
    kept = [f".file.{os.getppid()}.tmp", f".another-program.{dead.pid}.tmp", ".file.txt"]
    for name in kept:
        (tmp_path / name).write_text("")
    write_json(tmp_path / "file", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "file"])


def test_a_staging_folder_in_use_is_kept_whatever_the_number_of_its_process(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with staging_folder(tmp_path / "one") as folder:
        other = folder.rename(folder.with_name(f".one.{dead.pid}.prosg"))
        write_json(tmp_path / "two", 1)
        assert other.exists()
    write_json(tmp_path / "two", 1)
    assert not other.exists()


@pytest.mark.parametrize("finished", [False, True])
def test_an_exchange_that_a_kill_interrupted_is_undone(tmp_path: Path, finished: bool) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_thing(tmp_path / "thing", 1)
    (tmp_path / "thing").rename(tmp_path / f".thing.{dead.pid}.old")
    if finished:
        write_thing(tmp_path / "other", 2)
        (tmp_path / "other").rename(tmp_path / "thing")
    with pytest.raises(FileExistsError):
        write_thing(tmp_path / "thing", 3, overwrite=False)
    with staging_folder(tmp_path / "thing"):
        pass
    assert size_of(tmp_path / "thing") == 1 + finished
    assert list(tmp_path.iterdir()) == [tmp_path / "thing"]


def test_one_of_two_writers_that_may_not_replace_is_refused(tmp_path: Path) -> None:
    def write(target: Path, size: int, then: Callable[[], None] = lambda: None) -> None:
        with written_whole(target, kind=KIND if target.name == "thing" else None) as temporary:
            if target.name == "thing":
                temporary.mkdir()
                temporary = temporary / "thing.json"
            temporary.write_text(json.dumps({"size": size}))
            then()

    for target in (tmp_path / "file", tmp_path / "thing"):

        def other(target: Path = target) -> None:
            if not (child := os.fork()):
                write(target, 1)
                os._exit(0)
            os.waitpid(child, 0)

        with pytest.raises(FileExistsError, match=target.name):
            write(target, 2, other)
    assert size_of(tmp_path / "thing") == 1 and json.loads((tmp_path / "file").read_text()) == {"size": 1}


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files may not grow beyond 100 kB, which fails like a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


BIG = {"tensor": torch.zeros(100_000)}


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_torch(BIG, path),
        lambda path: torch.save(BIG, str(path)),
        lambda path: save_file(BIG, path),
        lambda path: path.write_text("x" * 200_000),
        lambda path: write_lines(path.parent / "inner", ["x" * 1000] * 1000),
    ],
    ids=["torch file", "torch path", "safetensors", "text", "lines"],
)
def test_a_full_disk_is_an_error_with_the_files_name(tmp_path: Path, save: Callable[[Path], None]) -> None:
    write_json(tmp_path / "file", 1)
    with (
        pytest.raises(OSError, match="make room") as caught,
        written_whole(tmp_path / "file", overwrite=True) as temporary,
    ):
        save(temporary)
    assert str(caught.value.filename).startswith(str(tmp_path))
    assert (tmp_path / "file").read_text() == "1\n" and len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_inside_torch_save_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(io.BufferedWriter):
        def write(self, data: Any) -> int:
            raise KeyboardInterrupt

    def opened(path: Path, mode: str = "r", **options: Any) -> Any:
        return Interrupting(io.FileIO(path, "w")) if mode == "wb" else open(path, mode, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "file") as temporary:
        save_torch(BIG, temporary)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_below_another_error_is_raised_as_one(tmp_path: Path) -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    error.__context__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "file"):
        raise error


def test_other_errors_come_out_as_they_are(tmp_path: Path) -> None:
    for error in (RuntimeError("shape"), ValueError("row 3"), FileNotFoundError(errno.ENOENT, "No such file", "else")):
        with pytest.raises(type(error)) as caught, written_whole(tmp_path / "file"):
            raise error
        assert caught.value is error


def test_threads_write_different_files_side_by_side(tmp_path: Path) -> None:
    threads = [threading.Thread(target=write_json, args=(tmp_path / str(i), i)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(i) for i in range(8)]
