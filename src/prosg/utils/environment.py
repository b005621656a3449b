"""Where a result was computed: processor, commit, versions of packages."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

__all__ = ["commit", "processor", "versions"]


def processor() -> str:
    """Returns the processor's model name, or its architecture if the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str:
    """Returns the commit of a development checkout ("-dirty" with changes), or the installed version."""
    described = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or version("prosg")


def versions() -> dict[str, str]:
    """Returns the versions of the packages that results depend on."""
    return {name: version(name) for name in ("prosg", "torch", "transformers", "tokenizers")}
