"""The registry of commands, help, the start of the program, pipes and Ctrl-C."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from prosg.cli import COMMANDS
from prosg.cli.main import GROUPS
from prosg.cli.parser import Group
from support.commands import case, status
from support.training_folder import TrainingFolder


def commands() -> Iterator[str]:
    for name, command in COMMANDS.items():
        yield name
        if isinstance(command, Group):
            yield from (f"{name} {inner}" for inner in command.commands)


@pytest.mark.parametrize("command", ["", *commands()])
def test_help_everywhere(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: prosg {command}".rstrip())
    assert len(out.splitlines()) > 5 and "_" not in "".join(word for word in out.split() if word.startswith("--"))


def test_without_a_command_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert status([]) == 2
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert status(["--version"]) == 0
    assert capsys.readouterr().out.startswith("prosg ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        case("nonsense", "nonsense", "generate", "lm-eval"),
        case("--nonsense", "--nonsense"),
        case("train nonsense", "nonsense", "finetune", "state"),
        case("train", "finetune", "state"),
        case("data", "make", "stats"),
    ],
)
def test_a_command_that_does_not_exist(
    refused: Callable[..., None], command: list[str], words: tuple[str, ...]
) -> None:
    refused(command, *words)


@pytest.mark.parametrize("command", ["--help", "generate --help", "train synthesize --help", "eval --example"])
def test_help_does_not_wait_for_torch(command: str) -> None:
    code = (
        "import sys\nfrom prosg.cli import main\n"
        f"try: main({command.split()})\nexcept SystemExit: pass\n"
        "slow = {'torch', 'numpy', 'transformers', 'rich', 'tqdm'} & {*sys.modules}\n"
        "print('slow:', *slow)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "slow:"


# Pipes and Ctrl-C need processes of their own.


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the program; whatever becomes of a test, its processes end with it."""
    with ExitStack() as stack:

        def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            program = [sys.executable, "-m", "prosg", *command]
            # Tests that were started in the background have Ctrl-C ignored, and would hand that on.
            options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
            process = subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, **options)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


LONG = ["generate", "start", "--prompt", "x", "--max-tokens", "1000000"]


def test_a_reader_that_has_enough_is_no_error(here: Path, start: Start) -> None:
    process = start(LONG, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""


def test_ctrl_c_stops_in_one_line(here: Path, start: Start) -> None:
    process = start(LONG, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(60) == 130
    assert process.stderr.read() == b"\nstopped\n"


def test_ctrl_c_while_training_says_how_to_go_on(shop: TrainingFolder, tmp_path: Path, start: Start) -> None:
    command = shop.command("finetune", tmp_path / "run", "--optim.steps", 100000)
    process = start(command, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint-3").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    words = process.stderr.read().decode().split()
    assert "stopped;" in words and "command" in words


def ran(command: list[str], closed: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command by a shell, with redirections."""
    line = shlex.join([sys.executable, "-m", "prosg", *command])
    return subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, text=True, timeout=200, **options)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--version", "eval --example", "data options", "info demo"])
def test_output_that_cannot_be_written_is_one_line(command: str, unbuffered: str) -> None:
    for redirection in ("> /dev/full", ">&-"):
        found = ran(command.split(), redirection, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
        assert found.returncode == 2
        assert found.stderr.startswith("error: standard output") and found.stderr.count("\n") == 1


def test_an_error_stays_the_error_where_output_cannot_be_written_either() -> None:
    found = ran(["data", "check", "no-such-file"], "> /dev/full")
    assert found.returncode == 2 and found.stderr.startswith("error: no-such-file") and found.stderr.count("\n") == 1


def test_closed_input_and_errors_are_no_reason_to_fail(tmp_path: Path) -> None:
    found = ran(["data", "make", str(tmp_path / "rows.jsonl"), "--size", "2"], "<&- 2>&-")
    assert found.returncode == 0 and len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2
    assert ran(["data", "check", "no-such-file"], "2>&-").returncode == 2
    found = ran(["data", "review", str(tmp_path / "rows.jsonl")], "<&-")
    assert found.returncode == 0 and found.stderr == ""


def test_what_a_terminal_cannot_show_is_escaped() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    found = ran(["generate", "demo", "--encoded", "Zürich"], env=environment)
    assert found.returncode == 2 and r"Z\xfcrich" in found.stderr
    found = ran(["inspect", "demo", "--prompt", "Zürich ☃"], env=environment)
    assert found.returncode == 0 and r"Z\xfcrich \u2603" in found.stdout


class PanicException(BaseException):
    """As libraries written in Rust raise it."""


def broken_by(error: BaseException) -> Callable[..., int]:
    def run(_: Any) -> int:
        raise error

    return run


def interrupted() -> BaseException:
    error = RuntimeError("a library's")
    error.__context__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (PanicException("index out of bounds"), 2, "index out of bounds"),
        (interrupted(), 130, "stopped"),
        (EOFError("EOF when reading a line"), 2, "standard input"),
        (OSError(28, "No space left on device", "here/model"), 2, "here/model: No space left"),
        (FileExistsError("here: exists"), 2, "here: exists"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_libraries_are_one_line(
    error: BaseException,
    expected: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = COMMANDS["info"]
    assert not isinstance(command, Group)
    monkeypatch.setitem(COMMANDS, "info", command._replace(run=broken_by(error)))
    assert status(["info", "demo"]) == expected
    err = capsys.readouterr().err.strip()
    assert words in err and "\n" not in err


def test_other_errors_are_one_line_and_their_traceback_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS["info"]
    assert not isinstance(command, Group)
    monkeypatch.setitem(COMMANDS, "info", command._replace(run=broken_by(RuntimeError("a fault"))))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert status(["info", "demo"]) == 1
    err = capsys.readouterr().err
    (kept,) = tmp_path.iterdir()
    assert err.startswith("error: RuntimeError: a fault; ") and err.endswith(f"{kept}\n") and err.count("\n") == 1
    assert "raise error" in kept.read_text() and "RuntimeError: a fault" in kept.read_text()


@pytest.mark.parametrize("error", [RuntimeError("a fault"), ValueError("a mistake")])
def test_with_debug_set_errors_show_where(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    command = COMMANDS["info"]
    assert not isinstance(command, Group)
    monkeypatch.setitem(COMMANDS, "info", command._replace(run=broken_by(error)))
    monkeypatch.setenv("PROSG_DEBUG", "1")
    with pytest.raises(type(error), match=str(error)):
        status(["info", "demo"])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["generate", "demo", "--prompt", "x", "--temperature", "nan"], ("--temperature", "finite")),
        (["generate", "demo", "--prompt", "x", "--temperature", "1e308"], ("--temperature", "at most")),
        (["generate", "demo", "--prompt", "x", "--max-tokens", "9" * 5000], ("--max-tokens", "at most")),
        (["train", "x.yaml"], ("a command comes first", "synthesize", "'x.yaml'")),
        (["train", "--model", "x"], ("a command comes first", "synthesize", "'--model'")),
        (["train", "synthesize"], ("prosg train synthesize: ", "--model, --train, --out", "--help")),
    ],
)
def test_bad_numbers_and_missing_words_are_one_line(
    command: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 400
    assert all(word in err for word in words)


def test_the_help_lists_every_command_under_one_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    assert status(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert all(len(line) < 80 for line in out.splitlines())
    assert all(f"\n{heading}:\n" in out for heading in GROUPS)
