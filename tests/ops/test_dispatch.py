"""Which implementation of a recurrence is chosen, and what is said where it does not serve."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from prosg.ops import wkv4, wkv7
from prosg.ops.library import Library
from support.kernels import CPU, built

CUDA = torch.device("cuda")
LIBRARIES = {wkv4: wkv4.wkv4_c.LIBRARY, wkv7: wkv7.wkv7_c.LIBRARY}


@pytest.fixture(params=LIBRARIES, ids=lambda module: LIBRARIES[module].name)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def library(module: ModuleType) -> Library:
    return LIBRARIES[module]


def test_choice(module: ModuleType, library: Library) -> None:
    assert module.kernel("scan", CPU, torch.float32) is module.KERNELS["scan"]
    assert module.kernel("auto", CUDA, torch.float32) is module.KERNELS["torch"]
    assert module.kernel("auto", CPU, torch.bfloat16) is module.KERNELS["torch"]
    with pytest.raises(ValueError, match=rf"unknown {library.name} kernel 'cuda'; known are auto, scan, torch, c"):
        module.kernel("cuda", CPU, torch.float32)
    with pytest.raises(ValueError, match=r"'c' is not available: .* not on cuda; available are auto, scan, torch"):
        module.kernel("c", CUDA, torch.float32)
    with pytest.raises(ValueError, match=r"'c' is not available: .* not in torch.bfloat16"):
        module.kernel("c", CPU, torch.bfloat16)


def test_choice_without_the_library(module: ModuleType, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(library), "loaded", "it is not built")
    assert module.kernel("auto", CPU, torch.float32) is module.KERNELS["torch"]
    assert module.describe(CPU, torch.float32) == f"{library.name}: torch (c: it is not built)"
    with pytest.raises(ValueError, match="'c' is not available: it is not built"):
        module.kernel("c", CPU, torch.float32)


@pytest.mark.parametrize(
    "module", [pytest.param(module, marks=built(library), id=library.name) for module, library in LIBRARIES.items()]
)
def test_the_library_is_chosen_and_says_how_it_runs(module: ModuleType) -> None:
    assert module.kernel("auto", CPU, torch.float32) is module.KERNELS["c"]
    assert module.kernel("auto", CPU, torch.float64) is module.KERNELS["c"]
    name = LIBRARIES[module].name
    assert module.describe(CPU, torch.float32) in {f"{name}: c ({set_})" for set_ in ("plain", "avx2", "avx512f")}


def test_what_cannot_be_loaded_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Library("wkv3", 1, 0, {}).unavailable(CPU, torch.float32) is not None
    known = wkv4.wkv4_c.LIBRARY
    if isinstance(known.loaded, str):
        pytest.skip(known.loaded)
    newer = Library(known.name, known.abi + 1, known.sizes, known.pointers)
    assert "is of another version" in str(newer.unavailable(CPU, torch.float32))
