"""The choice among a recurrence's implementations: "scan", "torch" and, where a compiler was there, "c"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from prosg.ops.compiled import Library

__all__ = ["Choice"]

K = TypeVar("K")


@dataclass(frozen=True)
class Choice(Generic[K]):
    """Implementations of one recurrence behind one signature; "c" is that of the library."""

    kernels: dict[str, K]
    library: Library

    def _unavailable(self, name: str, device: torch.device, dtype: torch.dtype) -> str | None:
        return self.library.unavailable(device, dtype) if name == "c" else None

    def kernel(self, name: str, device: torch.device, dtype: torch.dtype) -> K:
        """The implementation called `name`; "auto" picks the fastest that serves this device and type.

        Raises ValueError, saying what there is, if `name` is unknown or does not serve.
        """
        if name == "auto":
            name = "torch" if self._unavailable("c", device, dtype) else "c"
        if name not in self.kernels:
            raise ValueError(f"unknown {self.library.name} kernel {name!r}; known are auto, {', '.join(self.kernels)}")
        if reason := self._unavailable(name, device, dtype):
            others = ", ".join(other for other in self.kernels if not self._unavailable(other, device, dtype))
            raise ValueError(
                f"{self.library.name} kernel {name!r} is not available: {reason}; available are auto, {others}"
            )
        return self.kernels[name]

    def describe(self, device: torch.device, dtype: torch.dtype) -> str:
        """What "auto" picks, in one line, such as "wkv4: c (avx512f)" or "wkv4: torch (c: not built ...)"."""
        reason = self._unavailable("c", device, dtype)
        return (
            f"{self.library.name}: torch (c: {reason})"
            if reason
            else f"{self.library.name}: c ({self.library.instructions()})"
        )
