"""Where a result was computed: processor, commit, versions of packages."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

__all__ = ["commit", "processor", "versions"]


FEATURES = {"avx512f": "AVX512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}
"""What Linux calls a processor's instructions, and what they are called here."""


def processor() -> str:
    """Returns the processor's model name, with what makes it fast, or its architecture if the system does not tell.

    Virtual machines give many processors one name: "AMD EPYC" decodes twice as fast "with AVX512 and bf16" as without.
    """
    known: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            known.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    features = known.get("flags", "").split()
    with_what = [shown for flag, shown in FEATURES.items() if flag in features]
    name = known.get("model name") or platform.processor() or platform.machine()
    return f"{name} with {' and '.join(with_what)}" if with_what else name


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
