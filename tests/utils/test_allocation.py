"""Freed memory is kept, and nothing is broken where the C library is another."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prosg.utils import allocation

PROGRAM = """
import resource, sys, torch
from prosg.utils.allocation import keep_freed_memory
torch.set_num_threads(1)
number, of_any_size = int(sys.argv[1]), sys.argv[2] == "True"
keep_freed_memory(of_any_size)
tensors = [torch.ones(number) for _ in range(18_000_000 // number)]
faults = []
for repeat in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        tensors = [2.0 * x for x in tensors]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[2])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
@pytest.mark.parametrize(("number", "of_any_size"), [(1_500_000, False), (9_000_000, True)])
def test_what_is_freed_is_used_again_without_page_faults(number: int, of_any_size: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, str(number), str(of_any_size)]
    ran = subprocess.run(command, capture_output=True, check=True)
    assert int(ran.stdout) < 1000  # else 80,000, in each repeat


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation.sys, "platform", "darwin")
    allocation.keep_freed_memory()
    monkeypatch.setattr(allocation.sys, "platform", "linux")
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    allocation.keep_freed_memory()
