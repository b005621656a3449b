"""Runs `prosg` commands that depend on each other, side by side in processes, with a live display.

Each job leaves a file when it is done. A job whose file exists is not run again, so a stopped run of jobs goes on where
it was. Each job may write its progress to another file, as {"share", "note"}.
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
from prosg.utils.locks import check_locks

__all__ = ["Job", "check_plan", "check_width", "read_progress", "run_jobs", "write_progress"]

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: For the display and for dependencies; unique.
        command: Arguments of `prosg`.
        done: The file that exists once the job is done.
        progress: The file to which it writes its progress.
        log: The file to which its output is appended.
        needs: Names of the jobs that have to be done before.
        seconds: Expected duration on one idle core, from which the remaining time is estimated.
    """

    name: str
    command: tuple[str, ...]
    done: Path
    progress: Path
    log: Path
    needs: tuple[str, ...] = ()
    seconds: float = 60.0


def write_progress(path: Path, share: float, note: str = "") -> None:
    """Writes which share of a job, 0 to 1, is done, with a note for the display."""
    with written_whole(path, overwrite=True, durable=False) as temporary:
        temporary.write_text(json.dumps({"share": share, "note": note}), "utf-8")


def read_progress(path: Path) -> tuple[float, str]:
    """Returns (share, note); (0, "") if there is no readable file."""
    try:
        content = json.loads(path.read_text("utf-8"))
        return float(content["share"]), str(content["note"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0, ""


def check_plan(path: Path, plan: Mapping[str, Any], option: str) -> None:
    """Writes the plan of a run into its folder; refuses to continue a run there that has another plan.

    Args:
        path: The file of the plan, in the run's folder.
        plan: What determines the results.
        option: The command-line option that names the folder, for the error.

    Raises:
        ValueError: if the file holds another plan, naming the differences.
    """
    plan = json.loads(json.dumps(plan))
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        if changed := [name for name in plan if before.get(name) != plan[name]]:
            differences = ", ".join(f"{name} {before.get(name)}, now {plan[name]}" for name in changed)
            raise ValueError(
                f"{path.parent}: was begun with another plan ({differences}); choose another {option}, or delete it"
            )
    write_json(path, plan)


def check_width(width: int) -> None:
    """Raises ValueError for a number of processes side by side, --jobs, below 1."""
    if width < 1:
        raise ValueError(f"--jobs is {width}, must be at least 1")


def run_jobs(jobs: Sequence[Job], width: int, live: bool = True, *, keep_going: bool = False) -> dict[str, str]:
    """Runs all jobs that are not done, each as soon as the jobs that it needs are.

    Args:
        jobs: What to run.
        width: Number of processes at a time. Each computes on one thread; a job that runs alone and is the only one
            ready computes on `width` threads, where it finds them faster (`prosg.utils.threads`).
        live: Show a live table if stderr is a terminal; else a line is printed when a job starts or ends.
        keep_going: After a failure, run all jobs that do not depend on the failed one.

    Returns:
        The error by name of each failed job; empty without keep_going.

    Raises:
        ChildProcessError: for the first job that fails, with the end of its log, unless keep_going. The running jobs
            are ended.
        ValueError: for a width below 1, two jobs of one name, and dependencies that cannot be met.
    """
    check_width(width)
    _check_needs(jobs)
    by_name = {job.name: job for job in jobs}
    done = {job.name for job in jobs if job.done.exists()}
    failed: dict[str, str] = {}
    running: dict[str, subprocess.Popen[bytes]] = {}
    display = _Display(jobs, done, width, live)
    try:
        while True:
            check_locks()
            for name, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                job = by_name[name]
                if process.returncode == 0 and job.done.exists():
                    done.add(name)
                    display.report(name, "done")
                    continue
                log_end = job.log.read_text("utf-8", errors="replace").splitlines()[-12:]
                failed[name] = "\n".join([f"{name} failed; the end of {job.log}:", *log_end])
                if not keep_going:
                    raise ChildProcessError(failed[name])
                display.report(name, "failed")
            begun = done | running.keys() | failed.keys()
            ready = [job for job in jobs if job.name not in begun and set(job.needs) <= done]
            if not ready and not running:
                return failed
            alone = len(ready) == 1 and not running
            for job in ready[: width - len(running)]:
                running[job.name] = _start(job, threads=width if alone else 1)
                display.report(job.name, "...")
            display.update(done, running)
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        display.close(done, running)


def _check_needs(jobs: Sequence[Job]) -> None:
    """Raises ValueError for duplicate names, and for jobs that could never start."""
    startable: set[str] = set()
    left = list(jobs)
    while ready := [job for job in left if set(job.needs) <= startable]:
        startable |= {job.name for job in ready}
        left = [job for job in left if job.name not in startable]
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError("two jobs have the same name")
    if left:
        raise ValueError(f"{left[0].name} needs {', '.join(left[0].needs)}: not among the jobs, or in a circle")


def _end_with_parent(libc: ctypes.CDLL, parent: int) -> None:
    """Called in a child process: has Linux end it when the parent ends, even if the parent is killed."""
    libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # the parent ended before the call
        os.kill(os.getpid(), signal.SIGTERM)


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        # Waiting threads spin for some microseconds. Without spinning two threads are slower than one; with the default
        # of milliseconds they are many times slower beside other processes.
        "GOMP_SPINCOUNT": "30000",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "prosg", *job.command],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            preexec_fn=functools.partial(_end_with_parent, LIBC, os.getpid()) if LIBC is not None else None,
        )


class _Display:
    """Shows what runs: a live table on a terminal, else lines on stderr."""

    def __init__(self, jobs: Sequence[Job], done: Collection[str], width: int, live: bool) -> None:
        self.jobs, self.done_before, self.width = jobs, set(done), width
        self.start = time.monotonic()
        self.started: dict[str, float] = {}
        console = Console(stderr=True)
        self.live = Live(console=console, refresh_per_second=2) if live and console.is_terminal else None
        if self.live is not None:
            self.live.start()

    def report(self, name: str, event: str) -> None:
        self.started.setdefault(name, time.monotonic())
        if self.live is None:
            print(f"[{time.monotonic() - self.start:6.0f} s] {name} {event}", file=sys.stderr, flush=True)

    def update(self, done: Collection[str], running: Collection[str]) -> None:
        if self.live is not None:
            self.live.update(self._table(done, running))

    def close(self, done: Collection[str], running: Collection[str]) -> None:
        if self.live is not None:
            self.update(done, running)
            self.live.stop()

    def _table(self, done: Collection[str], running: Collection[str]) -> Table:
        """Returns a row per job that runs or was done in this run, and the time left by the jobs' expected seconds."""
        now = time.monotonic()
        table = Table("", "", "elapsed", "", box=None, pad_edge=False)
        seconds_done, seconds_left = 0.0, 0.0
        for job in self.jobs:
            share, note = read_progress(job.progress)
            if job.name in done:
                share = 1.0
            elif job.name not in running:
                share = 0.0
            if job.name not in self.done_before:
                seconds_done += share * job.seconds
            seconds_left += (1 - share) * job.seconds
            if job.name in running or job.name in set(done) - self.done_before:
                seconds = f"{now - self.started[job.name]:.0f} s" if job.name in running else ""
                bar = ProgressBar(1.0, share, width=30)
                table.add_row(job.name, bar, seconds, note if job.name in running else "done")
        elapsed = now - self.start
        # Expected seconds per second; before enough is done to measure it, a guess.
        speed = seconds_done / max(elapsed, 1.0) if seconds_done > 20 else float(self.width) * 0.8
        waiting = len([job for job in self.jobs if job.name not in done])
        minutes = seconds_left / max(speed, 0.1) / 60
        table.add_row(f"{waiting} to go", "", f"{elapsed:.0f} s", f"about {minutes:.0f} min left")
        return table
