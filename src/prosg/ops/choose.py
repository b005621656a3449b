"""The choice among a recurrence's implementations: "scan", "torch" and, where a compiler was there, "c"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch

__all__ = ["Choice", "Compiled"]

K = TypeVar("K")


@runtime_checkable
class Compiled(Protocol):
    """What is asked of the module of a compiled implementation."""

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it does not serve here, or None."""

    def instructions(self) -> str:
        """The instruction set that this machine's CPU gets."""


@dataclass(frozen=True)
class Choice(Generic[K]):
    """Implementations of the recurrence called `name` behind one signature; "c" is the one of `compiled`."""

    name: str
    kernels: dict[str, K]
    compiled: Compiled

    def _unavailable(self, name: str, device: torch.device, dtype: torch.dtype) -> str | None:
        return self.compiled.unavailable(device, dtype) if name == "c" else None

    def kernel(self, name: str, device: torch.device, dtype: torch.dtype) -> K:
        """The implementation called `name`; "auto" picks the fastest that serves this device and type.

        Raises ValueError, saying what there is, if `name` is unknown or does not serve.
        """
        if name == "auto":
            name = "torch" if self._unavailable("c", device, dtype) else "c"
        if name not in self.kernels:
            raise ValueError(f"unknown {self.name} kernel {name!r}; known are auto, {', '.join(self.kernels)}")
        if reason := self._unavailable(name, device, dtype):
            others = ", ".join(other for other in self.kernels if not self._unavailable(other, device, dtype))
            raise ValueError(f"{self.name} kernel {name!r} is not available: {reason}; available are auto, {others}")
        return self.kernels[name]

    def describe(self, device: torch.device, dtype: torch.dtype) -> str:
        """What "auto" picks, in one line, such as "wkv4: c (avx512f)" or "wkv4: torch (c: not built ...)"."""
        reason = self._unavailable("c", device, dtype)
        return f"{self.name}: torch (c: {reason})" if reason else f"{self.name}: c ({self.compiled.instructions()})"
