"""Freed memory is kept, and nothing is broken where the C library is another."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prosg.utils import allocation

PROGRAM = """
import resource, torch
from prosg.utils.allocation import keep_freed_memory
if {keep}:
    keep_freed_memory()
for _ in range(3):
    torch.zeros(2_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.zeros(2_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_what_is_freed_is_used_again_without_page_faults() -> None:
    def faults(keep: bool) -> int:
        program = PROGRAM.format(keep=keep)
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)

    assert faults(True) < 200


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation.sys, "platform", "darwin")
    allocation.keep_freed_memory()
    monkeypatch.setattr(allocation.sys, "platform", "linux")
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    allocation.keep_freed_memory()
