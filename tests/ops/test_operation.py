"""Which kernel is selected, and the reason that is reported where one cannot run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prosg.ops.library import CompiledLibrary
from prosg.ops.operation import Operation
from prosg.ops.retention import RETENTION
from prosg.ops.selective_scan import SELECTIVE_SCAN
from prosg.ops.wkv4 import WKV4
from prosg.ops.wkv7 import WKV7
from support.kernels import CPU, built

CUDA = torch.device("cuda")
COMPILED = {operation.name: operation for operation in (WKV4, WKV7, SELECTIVE_SCAN)}

operations = pytest.mark.parametrize("operation", COMPILED.values(), ids=COMPILED)
built_operations = pytest.mark.parametrize(
    "operation", [pytest.param(op, marks=built(op.libraries["c"]), id=name) for name, op in COMPILED.items()]
)


@operations
def test_selection(operation: Operation[Any]) -> None:
    default = operation.kernels[operation.default]
    assert operation.select("scan", CPU, torch.float32) is operation.kernels["scan"]
    assert operation.select("auto", CUDA, torch.float64) is default
    assert operation.select("auto", CPU, torch.bfloat16) is default
    assert "c" not in operation.available(CUDA, torch.float32)
    with pytest.raises(ValueError, match=f"{operation.name} kernel 'cuda'.* auto, {', '.join(operation.kernels)}"):
        operation.select("cuda", CPU, torch.float32)
    with pytest.raises(ValueError, match="'c' .* not on cuda.* auto, scan"):
        operation.select("c", CUDA, torch.float32)
    with pytest.raises(ValueError, match=r"'c' .* not in torch\.bfloat16"):
        operation.select("c", CPU, torch.bfloat16)


@operations
def test_selection_without_the_library(operation: Operation[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(operation.libraries["c"]), "loaded", "it is not built")
    assert operation.select("auto", CPU, torch.float32) is operation.kernels[operation.default]
    assert operation.describe(CPU, torch.float32) == f"{operation.name}: {operation.default} (c: it is not built)"
    with pytest.raises(ValueError, match="'c' .* it is not built"):
        operation.select("c", CPU, torch.float32)


@built_operations
def test_selection_of_the_library(operation: Operation[Any]) -> None:
    assert operation.select("auto", CPU, torch.float32) is operation.kernels["c"]
    assert operation.select("auto", CPU, torch.float64) is operation.kernels["c"]
    instruction_sets = ("plain", "avx2", "avx512f")
    assert operation.describe(CPU, torch.float32) in {f"{operation.name}: c ({name})" for name in instruction_sets}


def test_an_operation_without_a_library_for_the_device() -> None:
    plain = ["recurrent", "parallel", "chunked"]
    assert RETENTION.select("auto", CPU, torch.float32) is RETENTION.kernels["chunked"]
    assert RETENTION.describe(CPU, torch.float32) == "retention: chunked"
    assert list(RETENTION.available(CPU, torch.bfloat16)) == plain
    assert list(RETENTION.available(CUDA, torch.float64)) == plain
    assert SELECTIVE_SCAN.describe(CUDA, torch.float32) == "selective_scan: scan"
    with pytest.raises(ValueError, match="retention kernel 'c'.* auto, recurrent, parallel, chunked, fla"):
        RETENTION.select("c", CPU, torch.float32)


def test_a_library_that_is_missing_or_of_another_version() -> None:
    assert "not built" in CompiledLibrary("wkv3", 1, 0, {}).unavailable(CPU, torch.float32)
    library = WKV4.libraries["c"]
    if isinstance(library.loaded, str):
        pytest.skip(library.loaded)
    newer = CompiledLibrary(library.name, library.abi + 1, library.sizes, library.pointers)
    assert "another version" in newer.unavailable(CPU, torch.float32)
