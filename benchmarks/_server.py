"""A server of the packaged model in a process of its own, with keys, and what it says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from prosg.serving.api.keys import add_key

TEMPLATE = "world"
"""The packaged model writes prompts as they are; under this template it takes conversations."""


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        url: Its address, ending with a slash.
        keys: API keys by their owners' names.
        pid: Of its process; 0 for one that this script has not started.
    """

    url: str
    keys: dict[str, str]
    pid: int = 0

    def resident(self) -> int:
        """Bytes of memory that it takes; 0 where that is not known (elsewhere than on Linux)."""
        status = Path(f"/proc/{self.pid}/status")
        if not self.pid or not status.exists():
            return 0
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return 1024 * int(line.split()[1])

    def metrics(self) -> dict[str, float]:
        """Its counters, by name and labels as they are written."""
        headers = {"Authorization": f"Bearer {next(iter(self.keys.values()))}"}
        text = httpx.get(f"{self.url}metrics", headers=headers, timeout=60).raise_for_status().text
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


@contextmanager
def started(owners: list[str], *options: str, model: str = "demo") -> Iterator[Server]:
    """Runs `prosg serve` on a free port with a key for each owner; its log goes to a file that an error names."""
    with tempfile.TemporaryDirectory(prefix="prosg-load-") as name:
        folder = Path(name)
        keys = {owner: add_key(folder / "keys.json", owner, {}) for owner in owners}
        command = [sys.executable, "-m", "prosg", "serve", model, "--port", "0", "--template", TEMPLATE]
        command += ["--keys", str(folder / "keys.json"), "--prompts", str(folder / "prompts"), *options]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "http://" not in line:
                raise SystemExit(f"the server did not start:\n{(folder / 'log').read_text()}")
            url = next(word for word in line.split() if word.startswith("http"))
            yield Server(url, keys, process.pid)
            failures = [line for line in (folder / "log").read_text().splitlines() if "Traceback" in line]
            if failures:
                raise SystemExit(f"the server's log has {len(failures)} tracebacks:\n{(folder / 'log').read_text()}")
        finally:
            process.terminate()
            process.wait(60)
