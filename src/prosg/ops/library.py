"""Compiled libraries of operations: finding and loading them, and spreading a call over threads.

The libraries have a plain C interface and are no Python modules. They are loaded with ctypes, which releases the GIL
during a call. Large calls are spread over `torch.get_num_threads()` threads; the result does not depend on the number.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["ACTIVATIONS", "CFunction", "CompiledLibrary", "bits"]

CFunction = Callable[..., int]
FLOATS = {torch.float32: "f32", torch.float64: "f64"}
ACTIVATIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""Types of activations in decoding, and what the libraries call them."""


@lru_cache
def bits(number: float) -> int:
    """Returns the bits of a double as an integer: how a library takes a number among its sizes."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The helper threads of this process: a forked process has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")


class CompiledLibrary:
    """The compiled library of an operation, the file `_NAME` beside this module.

    A call works on independent items (a row, a head, a block of channels). The C functions are called
    `prosg_NAME_FUNCTION_TYPE`. They take sizes (int64), the first item and the one after the last, and
    pointers to tensors; they return 0, or 1 where memory could not be allocated.

    Args:
        name: The operation's name.
        abi: Version of the functions' arguments. The source states it too; a library of another version is not used.
        sizes: Number of leading size arguments.
        pointers: Number of pointers that each function takes; 0 for a function that takes an array of them.
        types: What the functions call the types that they compute in.
    """

    device = "cpu"

    def __init__(
        self,
        name: str,
        abi: int,
        sizes: int,
        pointers: Mapping[str, int],
        types: Mapping[torch.dtype, str] = FLOATS,
    ) -> None:
        self.name, self.abi, self.sizes, self.pointers, self.types = name, abi, sizes, pointers, types

    @cached_property
    def loaded(self) -> ctypes.CDLL | str:
        """The loaded library, or the reason why there is none."""
        # The last suffix is the one without a tag, as setup.py builds it; systems' packagers may add a tag.
        candidates = [Path(__file__).with_name(f"_{self.name}{suffix}") for suffix in reversed(EXTENSION_SUFFIXES)]
        path = next((candidate for candidate in candidates if candidate.exists()), None)
        if path is None:
            return "it is not built; install the package where there is a C compiler"
        try:
            library = ctypes.CDLL(str(path))
            abi = library[f"prosg_{self.name}_abi"]()
        except (OSError, AttributeError) as error:
            return f"{path.name} cannot be loaded ({error})"
        if abi != self.abi:
            return f"{path.name} is of another version; install the package again"
        return library

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str:
        """Returns why the library cannot work on this device and in this type; "" where it can."""
        if device.type != self.device:
            return f"it runs on the CPU, not on {device.type}"
        if dtype not in self.types:
            known = " and ".join(str(one).removeprefix("torch.") for one in self.types)
            return f"it computes in {known}, not in {dtype}"
        return self.loaded if isinstance(self.loaded, str) else ""

    def description(self) -> str:
        """Returns the instruction set that is used on this machine: "avx512f", "avx2", "plain" and the like."""
        function = self._library[f"prosg_{self.name}_instructions"]
        function.restype = ctypes.c_char_p
        return str(function().decode())

    def constant(self, name: str) -> int:
        """Returns a constant that the library exports as `prosg_NAME_<name>`."""
        return int(self._library[f"prosg_{self.name}_{name}"]())

    def check_tensors(self, tensors: Sequence[Tensor], shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> None:
        """Raises ValueError unless every tensor is on the CPU and has the given type and its shape.

        The library reads raw memory, so a tensor that does not fit must not reach it.
        """
        for tensor, shape in zip(tensors, shapes, strict=True):
            if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_cpu:
                actual = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
                raise ValueError(f"{self.name}: {actual} where {dtype} {tuple(shape)} on cpu is expected")

    def prepare_lengths(self, lengths: Tensor | None, batch: int) -> Tensor | None:
        """Returns `lengths` as the library reads them. Raises ValueError unless there is one for each row."""
        if lengths is None:
            return None
        if lengths.shape != (batch,):
            raise ValueError(f"{self.name}: lengths {tuple(lengths.shape)} for {batch} rows")
        return lengths.to("cpu", torch.int64).contiguous()

    def call(
        self,
        function: str,
        dtype: torch.dtype,
        sizes: Sequence[int],
        items: int,
        parallel: bool,
        *tensors: Tensor | None,
    ) -> None:
        """Calls a function for all items.

        Args:
            function: A key of `pointers`.
            dtype: A key of `types`: that of the tensors, or of the one that decides.
            sizes: The leading size arguments.
            items: Number of independent items.
            parallel: Whether the work is large enough for more than one thread.
            tensors: Contiguous tensors on the CPU; outputs are written in place. None passes a null pointer.

        Raises:
            MemoryError: where the library could not allocate its working space.
        """
        pointers: list[Any] = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        if not self.pointers[function]:
            pointers = [(ctypes.c_void_p * len(pointers))(*pointers)]
        c_function = self._functions[function, dtype]
        threads = min(torch.get_num_threads(), items) if parallel else 1
        if threads == 1:
            failed = c_function(*sizes, 0, items, *pointers)
        else:
            cuts = [items * i // threads for i in range(threads + 1)]
            pool = _pool(os.getpid(), threads - 1)
            futures = [pool.submit(c_function, *sizes, cuts[i], cuts[i + 1], *pointers) for i in range(1, threads)]
            failed = c_function(*sizes, 0, cuts[1], *pointers)
            # All are waited for, whatever another returned: they write into our tensors.
            failed += sum(future.result() for future in futures)
        if failed:
            raise MemoryError(f"{self.name}: no memory for the working space")

    def function(self, name: str, dtype: torch.dtype) -> CFunction:
        """Returns a function itself: all its sizes, the first item, the one after the last, its pointers."""
        return self._functions[name, dtype]

    @property
    def _library(self) -> ctypes.CDLL:
        assert isinstance(self.loaded, ctypes.CDLL)
        return self.loaded

    @cached_property
    def _functions(self) -> dict[tuple[str, torch.dtype], CFunction]:
        functions: dict[tuple[str, torch.dtype], CFunction] = {}
        for dtype, suffix in self.types.items():
            for name, pointers in self.pointers.items():
                function = self._library[f"prosg_{self.name}_{name}_{suffix}"]
                function.argtypes = [ctypes.c_int64] * (self.sizes + 2) + [ctypes.c_void_p] * (pointers or 1)
                functions[name, dtype] = function
        return functions
