"""Freed memory is kept, weights move to large pages, and nothing is broken where the system has none of that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prosg.utils import allocation

PROGRAM = """
import resource, torch
from prosg.utils.allocation import keep_freed_memory
torch.set_num_threads(1)
keep_freed_memory()
tensors = [torch.ones(1_500_000) for _ in range(12)]
faults = []
for repeat in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        tensors = [2.0 * x for x in tensors]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[2])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_what_is_freed_is_used_again_without_page_faults() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert int(ran.stdout) < 1000  # else 80,000, in each repeat


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation.sys, "platform", "darwin")
    allocation.keep_freed_memory()
    monkeypatch.setattr(allocation.sys, "platform", "linux")
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    allocation.keep_freed_memory()


class TestLargePages:
    @pytest.fixture(autouse=True)
    def _even_if_small(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        allowed = tmp_path / "enabled"
        allowed.write_text("always [madvise] never\n")
        monkeypatch.setattr(allocation, "LARGE_PAGES", allowed)
        monkeypatch.setattr(allocation, "WORTH_IT", 0)

    def test_tensors_stay_what_they_are(self) -> None:
        model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3, dtype=torch.bfloat16))
        model.register_buffer("scale", torch.arange(3, dtype=torch.int8))
        tensors = [*model.parameters(), *model.buffers()]
        before, values = list(map(Tensor.data_ptr, tensors)), [tensor.clone() for tensor in tensors]
        moved = allocation.use_large_pages(tensors)
        assert moved == sum(-(-tensor.nbytes // 64) * 64 for tensor in tensors)
        for tensor, old, value in zip(tensors, before, values, strict=True):
            assert torch.equal(tensor, value) and tensor.dtype == value.dtype
            assert tensor.data_ptr() != old and tensor.data_ptr() % 64 == 0
            assert tensor.untyped_storage().nbytes() == tensor.nbytes  # one of its own, so that it can be saved
        model[0](torch.ones(7)).sum().backward()
        assert [*model.parameters()] == tensors[:4] and model[0].weight.grad is not None

    def test_what_shares_its_memory_stays_where_it_is(self) -> None:
        tied, other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        other.weight = nn.Parameter(tied.weight.detach())
        rows = torch.zeros(6, 4)
        tensors = [tied.weight, other.weight, rows[:3], torch.zeros(4, 6).T, torch.zeros(0)]
        before = list(map(Tensor.data_ptr, tensors))
        assert allocation.use_large_pages(tensors) == 0
        assert list(map(Tensor.data_ptr, tensors)) == before

    def test_a_tensor_that_is_named_twice_moves_once(self) -> None:
        tensor = torch.randn(16)
        assert allocation.use_large_pages([tensor, tensor]) == tensor.nbytes

    @pytest.mark.parametrize("reason", ["never", "no such file", "small", "no memory"])
    def test_or_nothing_moves(self, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if reason == "never":
            allocation.LARGE_PAGES.write_text("always madvise [never]\n")
        elif reason == "no such file":
            allocation.LARGE_PAGES.unlink()
        elif reason == "small":
            monkeypatch.setattr(allocation, "WORTH_IT", 1 << 20)
        else:
            monkeypatch.setattr(allocation, "available_memory", lambda: 100)
        tensor = torch.randn(16)
        before = tensor.data_ptr()
        assert allocation.use_large_pages([tensor]) == 0
        assert tensor.data_ptr() == before
