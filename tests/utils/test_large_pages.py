"""Weights move to large pages and stay what they are; where there are none, nothing moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prosg.utils import large_pages


@pytest.fixture(autouse=True)
def _even_if_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    allowed = tmp_path / "enabled"
    allowed.write_text("always [madvise] never\n")
    monkeypatch.setattr(large_pages, "LARGE_PAGES", allowed)
    monkeypatch.setattr(large_pages, "WORTH_IT", 0)


def test_tensors_stay_what_they_are() -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3, dtype=torch.bfloat16))
    model.register_buffer("scale", torch.arange(3, dtype=torch.int8))
    tensors = [*model.parameters(), *model.buffers()]
    before, values = list(map(Tensor.data_ptr, tensors)), [tensor.clone() for tensor in tensors]
    moved = large_pages.use_large_pages(tensors)
    assert moved == sum(-(-tensor.nbytes // 64) * 64 for tensor in tensors)
    for tensor, old, value in zip(tensors, before, values, strict=True):
        assert torch.equal(tensor, value) and tensor.dtype == value.dtype
        assert tensor.data_ptr() != old and tensor.data_ptr() % 64 == 0
        assert tensor.untyped_storage().nbytes() == tensor.nbytes  # one of its own, so that it can be saved
    model[0](torch.ones(7)).sum().backward()
    assert [*model.parameters()] == tensors[:4] and model[0].weight.grad is not None


def test_what_shares_its_memory_stays_where_it_is() -> None:
    tied, other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    other.weight = nn.Parameter(tied.weight.detach())
    rows = torch.zeros(6, 4)
    tensors = [tied.weight, other.weight, rows[:3], torch.zeros(4, 6).T, torch.zeros(0)]
    before = list(map(Tensor.data_ptr, tensors))
    assert large_pages.use_large_pages(tensors) == 0
    assert list(map(Tensor.data_ptr, tensors)) == before


def test_a_tensor_that_is_named_twice_moves_once() -> None:
    tensor = torch.randn(16)
    assert large_pages.use_large_pages([tensor, tensor]) == tensor.nbytes


@pytest.mark.parametrize("reason", ["never", "no such file", "small", "no memory"])
def test_or_nothing_moves(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "never":
        large_pages.LARGE_PAGES.write_text("always madvise [never]\n")
    elif reason == "no such file":
        large_pages.LARGE_PAGES.unlink()
    elif reason == "small":
        monkeypatch.setattr(large_pages, "WORTH_IT", 1 << 20)
    else:
        monkeypatch.setattr(large_pages, "available_memory", lambda: 100)
    tensor = torch.randn(16)
    before = tensor.data_ptr()
    assert large_pages.use_large_pages([tensor]) == 0
    assert tensor.data_ptr() == before
