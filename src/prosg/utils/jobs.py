"""Commands with dependencies, side by side in processes, with a live display.

Each job is a `prosg` command that leaves a file when it is done; a job whose file is there is not run again, and one
that was stopped goes on by itself. Each writes its progress beside, as {"share", "note"}.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from prosg.utils.io import write_json, written_whole

__all__ = ["Job", "check_plan", "read_progress", "run_jobs", "write_progress"]


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: For the display and for dependencies; unique.
        command: Arguments of `prosg`.
        done: The file that it leaves.
        progress: The file that it writes its progress to.
        log: Where its output goes.
        needs: Names of jobs that have to be done before.
        seconds: What it takes on one quiet core, for the time that is left.
    """

    name: str
    command: tuple[str, ...]
    done: Path
    progress: Path
    log: Path
    needs: tuple[str, ...] = ()
    seconds: float = 60.0


def write_progress(path: Path, share: float, note: str = "") -> None:
    """Tell how far a job is; written whole."""
    with written_whole(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps({"share": share, "note": note}), "utf-8")


def check_plan(path: Path, plan: Mapping[str, Any], option: str) -> None:
    """Keep in a file what is done in its folder, and refuse to go on there with something else: it would not compare.

    `option` names the folder on the command line. Raises ValueError naming what is other than it was.
    """
    now = json.loads(json.dumps(plan))
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        if changed := [name for name in now if before.get(name) != now[name]]:
            was = ", ".join(f"{name} {before.get(name)}, now {now[name]}" for name in changed)
            raise ValueError(
                f"{path.parent}: was begun with another plan ({was}); choose another {option}, or delete it"
            )
    write_json(path, now)


def read_progress(path: Path) -> tuple[float, str]:
    """(share, note); (0, "") where nothing was told yet."""
    try:
        told = json.loads(path.read_text("utf-8"))
        return float(told["share"]), str(told["note"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0, ""


def run_jobs(jobs: Sequence[Job], width: int, live: bool = True, *, keep_going: bool = False) -> dict[str, str]:
    """Run all, `width` at a time, each on one thread (on `width` threads where it is the only one that can run).

    Raises ChildProcessError, with the end of its log, for a job that fails; what is done stays done. keep_going: the
    others go on, and what was wrong is returned by job; jobs that need one that failed are left out.
    """
    if width < 1:
        raise ValueError(f"jobs is {width}, must be at least 1")
    _check_needs(jobs)
    done = {job.name for job in jobs if job.done.exists()}
    failed: dict[str, str] = {}
    running: dict[str, subprocess.Popen[bytes]] = {}
    began: dict[str, float] = {}
    start = time.monotonic()
    skipped = set(done)
    console = Console(stderr=True)
    display = Live(console=console, refresh_per_second=2, transient=False) if live and console.is_terminal else None

    try:
        if display is not None:
            display.start()
        while True:
            for name, process in list(running.items()):
                if process.poll() is None:
                    continue
                job = next(j for j in jobs if j.name == name)
                del running[name]
                if process.returncode != 0 or not job.done.exists():
                    failed[name] = f"{name} failed; the end of {job.log}:\n{_tail(job.log)}"
                    if not keep_going:
                        raise ChildProcessError(failed[name])
                    if display is None:
                        print(f"[{time.monotonic() - start:6.0f} s] {name} failed", file=sys.stderr, flush=True)
                    continue
                done.add(name)
                if display is None:
                    print(f"[{time.monotonic() - start:6.0f} s] {name} done", file=sys.stderr, flush=True)
            over = done | running.keys() | failed.keys()
            ready = [j for j in jobs if j.name not in over and set(j.needs) <= done]
            if not ready and not running:
                return failed
            free = width - len(running)
            for job in ready[:free]:
                alone = len(ready) == 1 and not running
                running[job.name] = _start(job, width if alone else 1)
                began[job.name] = time.monotonic()
                if display is None:
                    print(f"[{time.monotonic() - start:6.0f} s] {job.name} ...", file=sys.stderr, flush=True)
            if display is not None:
                display.update(_table(jobs, done, skipped, running.keys(), began, start, width))
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        if display is not None:
            display.update(_table(jobs, done, skipped, running.keys(), began, start, width))
            display.stop()


def _check_needs(jobs: Sequence[Job]) -> None:
    """ValueError for names that come twice, and for jobs that could never begin."""
    possible: set[str] = set()
    left = list(jobs)
    while ready := [job for job in left if set(job.needs) <= possible]:
        possible |= {job.name for job in ready}
        left = [job for job in left if job.name not in possible]
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError("two jobs have the same name")
    if left:
        raise ValueError(f"{left[0].name} needs {', '.join(left[0].needs)}: not among the jobs, or in a circle")


def _end_with(libc: ctypes.CDLL, parent: int) -> None:
    """In a child: end when the parent ends, however it does (Linux)."""
    libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGTERM)


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait for each other spin for some microseconds only: without spinning two are slower than one,
        # and with the usual milliseconds they are many times slower beside other work.
        "GOMP_SPINCOUNT": "30000",
        "TOKENIZERS_PARALLELISM": "false",
        # Freed memory that goes back to the system has to be faulted in again at the next step.
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
        "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_TOP_PAD_": "67108864",
    }
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "prosg", *job.command],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            preexec_fn=functools.partial(_end_with, LIBC, os.getpid()) if LIBC is not None else None,
        )


def _tail(path: Path, lines: int = 12) -> str:
    return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-lines:])


def _table(
    jobs: Sequence[Job],
    done: set[str],
    skipped: set[str],
    running: Collection[str],
    began: dict[str, float],
    start: float,
    width: int,
) -> Table:
    now = time.monotonic()
    table = Table(box=None, pad_edge=False)
    for title in ("", "", "elapsed", ""):
        table.add_column(title)
    expected_done, left = 0.0, 0.0
    for job in jobs:
        share, note = read_progress(job.progress)
        here = job.name in running
        if job.name in done:
            share = 1.0
        elif not here:
            share = 0.0
        expected_done += share * job.seconds if job.name not in skipped else 0.0
        left += (1 - share) * job.seconds
        if here or job.name in done - skipped:
            seconds = f"{now - began[job.name]:.0f} s" if here else ""
            table.add_row(job.name, ProgressBar(1.0, share, width=30), seconds, note if here else "done")
    speed = expected_done / max(now - start, 1.0) if expected_done > 20 else float(width) * 0.8
    waiting = len([j for j in jobs if j.name not in done])
    table.add_row(f"{waiting} to go", "", f"{now - start:.0f} s", f"about {left / max(speed, 0.1) / 60:.0f} min left")
    return table
