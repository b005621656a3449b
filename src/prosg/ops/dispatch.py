"""The choice among a recurrence's implementations: "scan", "torch" and, where a compiler was there, "c"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from prosg.ops.library import Library

__all__ = ["Choice"]

K = TypeVar("K")


@dataclass(frozen=True)
class Choice(Generic[K]):
    """Implementations of one recurrence behind one signature; "c" is that of the library, the others serve anywhere."""

    kernels: dict[str, K]
    library: Library

    def available(self, device: torch.device, dtype: torch.dtype) -> dict[str, K]:
        """The implementations that serve this device and type."""
        reason = self.library.unavailable(device, dtype)
        return {name: kernel for name, kernel in self.kernels.items() if name != "c" or not reason}

    def kernel(self, name: str, device: torch.device, dtype: torch.dtype) -> K:
        """The implementation called `name`; "auto" picks the fastest that serves this device and type.

        Raises ValueError, saying what there is, if `name` is unknown or does not serve.
        """
        reason = self.library.unavailable(device, dtype)
        if name == "auto":
            name = "torch" if reason else "c"
        what = f"{self.library.name} kernel {name!r}"
        if name not in self.kernels:
            raise ValueError(f"unknown {what}; known are auto, {', '.join(self.kernels)}")
        if name == "c" and reason:
            others = ", ".join(self.available(device, dtype))
            raise ValueError(f"{what} is not available: {reason}; available are auto, {others}")
        return self.kernels[name]

    def describe(self, device: torch.device, dtype: torch.dtype) -> str:
        """What "auto" picks, in one line, such as "wkv4: c (avx512f)" or "wkv4: torch (c: not built ...)"."""
        reason = self.library.unavailable(device, dtype)
        return f"{self.library.name}: " + (f"torch (c: {reason})" if reason else f"c ({self.library.instructions()})")
