"""Helpers of the tests of kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from prosg.ops.library import CompiledLibrary

CPU = torch.device("cpu")

T = TypeVar("T")


def built(library: CompiledLibrary) -> pytest.MarkDecorator:
    """Skips a test where the library is not built."""
    reason = library.unavailable(CPU, torch.float32)
    return pytest.mark.skipif(bool(reason), reason=f"c: {reason}")


def fast(library: CompiledLibrary) -> list[Any]:
    """The kernels to compare with the oracle."""
    return ["torch", pytest.param("c", marks=built(library))]


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Differences relative to each tensor's largest value."""
    assert ours.keys() == theirs.keys()
    gaps = {}
    for name, a in ours.items():
        b = theirs[name].double()
        gaps[name] = ((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
    assert all(gap <= tolerance for gap in gaps.values()), gaps


def with_threads(counts: Iterable[int], function: Callable[[], T]) -> list[T]:
    """The function's results under these numbers of threads."""
    before = torch.get_num_threads()
    results = []
    try:
        for count in counts:
            torch.set_num_threads(count)
            results.append(function())
    finally:
        torch.set_num_threads(before)
    return results
