"""An operation with several implementations behind one signature, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from prosg.ops.library import CompiledLibrary

__all__ = ["Operation"]

K = TypeVar("K", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Operation(Generic[K]):
    """An operation and its implementations ("kernels"), which all have the signature `K`.

    Args:
        name: Name of the operation in messages.
        kernels: The kernels by the names that users select them by (`--kernel`). "c" is the one in `library`; the
            others run on any device and in any floating-point type.
        default: The kernel that "auto" selects where "c" cannot run.
        library: The compiled library behind "c"; None for an operation without one.
    """

    name: str
    kernels: Mapping[str, K]
    default: str
    library: CompiledLibrary | None = None

    def available(self, device: torch.device, dtype: torch.dtype) -> dict[str, K]:
        """Returns the kernels that can run on this device and in this type, by name."""
        reason = self._c_unavailable(device, dtype)
        return {name: kernel for name, kernel in self.kernels.items() if name != "c" or not reason}

    def select(self, name: str, device: torch.device, dtype: torch.dtype) -> K:
        """Returns a kernel by its name; "auto" selects the fastest that can run.

        Args:
            name: A key of `kernels`, or "auto".
            device: Where the tensors are.
            dtype: Their type.

        Raises:
            ValueError: if there is no kernel of this name, or it cannot run there.
        """
        reason = self._c_unavailable(device, dtype)
        if name == "auto":
            name = self.default if reason else "c"
        kernel = f"{self.name} kernel {name!r}"
        if name not in self.kernels:
            raise ValueError(f"unknown {kernel}; known are auto, {', '.join(self.kernels)}")
        if name == "c" and reason:
            others = ", ".join(self.available(device, dtype))
            raise ValueError(f"{kernel} is not available: {reason}; available are auto, {others}")
        return self.kernels[name]

    def describe(self, device: torch.device, dtype: torch.dtype) -> str:
        """Returns what "auto" selects, as one line: "wkv4: c (avx512f)", or "wkv4: torch (c: REASON)"."""
        if self.library is None:
            return f"{self.name}: {self.default}"
        reason = self._c_unavailable(device, dtype)
        choice = f"{self.default} (c: {reason})" if reason else f"c ({self.library.instruction_set()})"
        return f"{self.name}: {choice}"

    def _c_unavailable(self, device: torch.device, dtype: torch.dtype) -> str:
        """Why the compiled kernel cannot run; "" where it can."""
        return "there is none" if self.library is None else self.library.unavailable(device, dtype)
