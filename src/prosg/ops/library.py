"""What the compiled recurrences share: finding and loading a library, and spreading a call's items over threads.

The libraries have a plain C interface and are no Python modules: they are loaded with ctypes, which lets other threads
run during a call. Large work is spread over torch's number of threads; the result does not depend on that number.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Library"]

Entry = Callable[..., int]
TYPES = {torch.float32: "f32", torch.float64: "f64"}


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Helpers of this process: after a fork the parent's threads are gone."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")


class Library:
    """A recurrence's compiled library, `_<name>` in this folder.

    It works on a call's independent items. Its functions take `sizes` integers, the first item and the one after the
    last, and as many pointers as `pointers` has for them; they return 0, or 1 where there is no memory. `abi` is the
    version of these arguments, which stands in the library's source, too.
    """

    def __init__(self, name: str, abi: int, sizes: int, pointers: Mapping[str, int]) -> None:
        self.name, self.abi, self.sizes, self.pointers = name, abi, sizes, pointers

    @cached_property
    def loaded(self) -> ctypes.CDLL | str:
        """The library, or why there is none."""
        paths = [Path(__file__).with_name(f"_{self.name}{suffix}") for suffix in EXTENSION_SUFFIXES]
        found = next((path for path in paths if path.exists()), None)
        if found is None:
            return "it is not built; install the package where there is a C compiler"
        try:
            library = ctypes.CDLL(str(found))
            abi = library[f"prosg_{self.name}_abi"]()
        except (OSError, AttributeError) as error:
            return f"{found.name} cannot be loaded ({error})"
        if abi != self.abi:
            return f"{found.name} is of another version; install the package again"
        return library

    def constant(self, name: str) -> int:
        """What the library calls `name`."""
        assert isinstance(self.loaded, ctypes.CDLL)
        return int(self.loaded[f"prosg_{self.name}_{name}"]())

    @cached_property
    def _entries(self) -> dict[tuple[str, torch.dtype], Entry]:
        assert isinstance(self.loaded, ctypes.CDLL)
        entries: dict[tuple[str, torch.dtype], Entry] = {}
        for dtype, kind in TYPES.items():
            for function, pointers in self.pointers.items():
                entry = self.loaded[f"prosg_{self.name}_{function}_{kind}"]
                entry.argtypes = [ctypes.c_int64] * (self.sizes + 2) + [ctypes.c_void_p] * pointers
                entries[function, dtype] = entry
        return entries

    def check(self, tensors: Sequence[Tensor], shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> None:
        """Raises ValueError unless every tensor is on the CPU, of this type and its shape.

        The library reads plain memory: what does not fit must not reach it.
        """
        for x, shape in zip(tensors, shapes, strict=True):
            if x.shape != shape or x.dtype != dtype or not x.is_cpu:
                found = f"{x.dtype} {tuple(x.shape)} on {x.device}"
                raise ValueError(f"{self.name}: {found} where {dtype} {tuple(shape)} on cpu is wanted")

    def lengths(self, lengths: Tensor | None, batch: int) -> Tensor | None:
        """As the library reads them. Raises ValueError if there is not one for each row."""
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
        """Call a function for every item; `parallel` says that the work is worth more than one thread."""
        pointers = [None if x is None else x.data_ptr() for x in tensors]
        entry = self._entries[function, dtype]
        threads = min(torch.get_num_threads(), items) if parallel else 1
        if threads == 1:
            failed = entry(*sizes, 0, items, *pointers)
        else:
            cuts = [items * i // threads for i in range(threads + 1)]
            pool = _pool(os.getpid(), threads - 1)
            others = [pool.submit(entry, *sizes, cuts[i], cuts[i + 1], *pointers) for i in range(1, threads)]
            failed = entry(*sizes, 0, cuts[1], *pointers)
            # Every one is waited for, whatever another returned: they write into our tensors.
            failed += sum(other.result() for other in others)
        if failed:
            raise MemoryError(f"{self.name}: no memory for the working space")

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why the library does not serve here, or None."""
        if device.type != "cpu":
            return f"it runs on the CPU, not on {device.type}"
        if dtype not in TYPES:
            return f"it computes in float32 and float64, not in {dtype}"
        return self.loaded if isinstance(self.loaded, str) else None

    def instructions(self) -> str:
        """The instruction set that this machine's CPU gets: "avx512f", "avx2" or "plain"."""
        assert isinstance(self.loaded, ctypes.CDLL)
        function = self.loaded[f"prosg_{self.name}_instructions"]
        function.restype = ctypes.c_char_p
        return str(function().decode())
