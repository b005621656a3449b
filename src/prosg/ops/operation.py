"""An operation with several implementations behind one signature, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

__all__ = ["KernelLibrary", "Operation"]

K = TypeVar("K", bound=Callable[..., Any])


@runtime_checkable
class KernelLibrary(Protocol):
    """What a kernel needs to run: a compiled library, or a package."""

    @property
    def device(self) -> str:
        """The type of the devices that it runs on: "cpu", "cuda"."""
        ...

    def description(self) -> str:
        """Returns what is used on this machine: an instruction set, a version."""
        ...

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str:
        """Returns why it cannot work on this device and in this type; "" where it can."""
        ...


@dataclass(frozen=True, eq=False)
class Operation(Generic[K]):
    """An operation and its implementations ("kernels"), which all have the signature `K`.

    Args:
        name: Name of the operation in messages.
        kernels: The kernels by the names that users select them by (`--kernel`).
        default: The kernel that "auto" selects where no library can be used.
        libraries: What kernels need, by the kernels' names; "auto" selects the first that can be used. The other
            kernels run on any device and in any floating-point type.
    """

    name: str
    kernels: Mapping[str, K]
    default: str
    libraries: Mapping[str, KernelLibrary] = field(default_factory=dict)

    def available(self, device: torch.device, dtype: torch.dtype) -> dict[str, K]:
        """Returns the kernels that can run on this device and in this type, by name."""
        return {name: kernel for name, kernel in self.kernels.items() if not self._unavailable(name, device, dtype)}

    def select(self, name: str, device: torch.device, dtype: torch.dtype) -> K:
        """Returns a kernel by its name; "auto" selects the fastest that can run.

        Args:
            name: A key of `kernels`, or "auto".
            device: Where the tensors are.
            dtype: Their type.

        Raises:
            ValueError: if there is no kernel of this name, or it cannot run there.
        """
        if name == "auto":
            return self.kernels[self._fastest(device, dtype)]
        kernel = f"{self.name} kernel {name!r}"
        if name not in self.kernels:
            raise ValueError(f"unknown {kernel}; known are auto, {', '.join(self.kernels)}")
        if reason := self._unavailable(name, device, dtype):
            others = ", ".join(self.available(device, dtype))
            raise ValueError(f"{kernel} is not available: {reason}; available are auto, {others}")
        return self.kernels[name]

    def describe(self, device: torch.device, dtype: torch.dtype) -> str:
        """Returns what "auto" selects, as one line: "wkv4: c (avx512f)", or "wkv4: torch (c: REASON)".

        The reasons are those of the libraries for this type of device.
        """
        name = self._fastest(device, dtype)
        if name in self.libraries:
            return f"{self.name}: {name} ({self.libraries[name].description()})"
        reasons = [
            f"{other}: {library.unavailable(device, dtype)}"
            for other, library in self.libraries.items()
            if library.device == device.type
        ]
        return f"{self.name}: {name}" + (f" ({'; '.join(reasons)})" if reasons else "")

    def _fastest(self, device: torch.device, dtype: torch.dtype) -> str:
        """The name of the kernel that "auto" selects."""
        usable = (name for name in self.libraries if not self._unavailable(name, device, dtype))
        return next(usable, self.default)

    def _unavailable(self, name: str, device: torch.device, dtype: torch.dtype) -> str:
        """Why a kernel cannot run; "" where it can."""
        library = self.libraries.get(name)
        return "" if library is None else library.unavailable(device, dtype)
