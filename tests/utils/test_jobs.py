"""Commands side by side: order, what is skipped, what a failure shows, and that nothing is left running."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from prosg.utils.jobs import Job, read_progress, run_jobs, write_progress


@pytest.fixture(autouse=True)
def _commands_are_shell_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m prosg LINE` runs LINE in a shell, in the test's folder."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\nshift 2\nexec sh -c "$1"\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    monkeypatch.chdir(tmp_path)


def job(name: str, line: str, *needs: str) -> Job:
    path = Path(name)
    return Job(
        name, (f"{line}",), path.with_suffix(".done"), path.with_suffix(".progress"), path.with_suffix(".log"), needs
    )


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists() or not path.read_text().strip():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_begins_when_what_it_needs_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        job("last", "cat first.done second.done > last.done", "first", "second"),
        job("first", "echo 1 > first.done"),
        job("second", "cat first.done > second.done", "first"),
    ]
    run_jobs(jobs, width=2, live=False)
    assert Path("last.done").read_text() == "1\n1\n"
    told = capsys.readouterr().err
    assert told.index("first done") < told.index("second ...") < told.index("last ...")


def test_jobs_run_side_by_side_up_to_the_width() -> None:
    # Each waits for the other: one after the other they would never end.
    jobs = [
        job("one", "touch one.here; until [ -e two.here ]; do sleep 0.02; done; touch one.done"),
        job("two", "touch two.here; until [ -e one.here ]; do sleep 0.02; done; touch two.done"),
    ]
    run_jobs(jobs, width=2, live=False)
    lock = "mkdir lock && sleep 0.1 && rmdir lock && touch {0}.done"
    run_jobs([job(name, lock.format(name)) for name in ("three", "four")], width=1, live=False)


def test_what_is_done_is_not_run_again() -> None:
    Path("first.done").write_text("before")
    run_jobs([job("first", "exit 1"), job("second", "cp first.done second.done", "first")], width=1, live=False)
    assert Path("second.done").read_text() == "before"


def test_a_failure_shows_the_end_of_its_log_and_keeps_what_is_done() -> None:
    jobs = [
        job("good", "touch good.done"),
        job("bad", "for i in $(seq 50); do echo line $i; done; echo 'error: no such thing' >&2; exit 2", "good"),
        job("never", "touch never.done", "bad"),
    ]
    with pytest.raises(ChildProcessError, match=r"(?s)bad failed.*bad\.log.*line 50\nerror: no such thing") as failure:
        run_jobs(jobs, width=2, live=False)
    assert "line 30\n" not in str(failure.value)
    assert Path("good.done").exists() and not Path("never.done").exists()


def test_a_failure_may_leave_the_others_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        job("bad", "echo 'error: no such thing' >&2; exit 2"),
        job("never", "touch never.done", "bad"),
        job("good", "touch good.done"),
        job("next", "touch next.done", "good"),
    ]
    failed = run_jobs(jobs, width=1, live=False, keep_going=True)
    assert list(failed) == ["bad"] and failed["bad"].endswith("error: no such thing")
    assert Path("good.done").exists() and Path("next.done").exists() and not Path("never.done").exists()
    assert "bad failed" in capsys.readouterr().err
    assert run_jobs(jobs[2:], width=1, live=False) == {}


def test_a_job_that_leaves_no_file_has_failed() -> None:
    with pytest.raises(ChildProcessError, match="quiet failed"):
        run_jobs([job("quiet", "true")], width=1, live=False)


def test_a_failure_stops_the_others() -> None:
    jobs = [
        job("long", "echo $$ > long.pid; exec sleep 60"),
        job("bad", "until [ -s long.pid ]; do sleep 0.02; done; exit 1"),
    ]
    start = time.monotonic()
    with pytest.raises(ChildProcessError, match="bad failed"):
        run_jobs(jobs, width=2, live=False)
    assert time.monotonic() - start < 20
    assert not alive(int(Path("long.pid").read_text()))


@pytest.mark.parametrize(
    "how",
    [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux"))],
)
def test_children_end_with_their_parent(how: signal.Signals) -> None:
    parent = os.fork()
    if parent == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            run_jobs([job("long", "echo $$ > long.pid; exec sleep 60")], width=1, live=False)
        finally:
            os._exit(1)
    wait_for(Path("long.pid"))
    child = int(Path("long.pid").read_text())
    assert alive(child)
    os.kill(parent, how)
    os.waitpid(parent, 0)
    end = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([job("one", "true", "missing")], "one needs missing"),
        ([job("one", "true", "two"), job("two", "true", "one")], "circle"),
        ([job("one", "true"), job("one", "true")], "same name"),
    ],
)
def test_jobs_that_could_never_end_are_refused(jobs: list[Job], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run_jobs(jobs, width=1, live=False)


def test_a_width_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        run_jobs([], width=0)


def test_progress_is_read_whatever_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.progress"
    assert read_progress(path) == (0.0, "")
    write_progress(path, 0.25, "step 3")
    assert read_progress(path) == (0.25, "step 3")
    for damaged in ("", "{", "[]", "{}", '{"share": null, "note": ""}'):
        path.write_text(damaged)
        assert read_progress(path) == (0.0, "")
