"""Writing files of torch.save: what goes wrong inside PyTorch's writer comes out as it was raised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, BinaryIO, cast

import torch
from torch import Tensor

__all__ = ["save_torch"]


class _SteadyFile:
    """A file that fails only in the end: PyTorch's writer, in C++, cannot stand an error, or ends the process."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: BaseException | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Writes, or drops what comes after the first error. Ctrl-C may be that error."""
        try:
            if self.error is None:
                self.file.write(data)
        except BaseException as error:
            self.error = error
        return len(data)

    def flush(self) -> None:
        """Does nothing: the file is flushed when it is closed."""


def save_torch(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as torch.save does.

    Raises:
        OSError: if the file cannot be written.
    """
    with path.open("wb") as file:
        steady = _SteadyFile(file)
        torch.save(dict(tensors), cast(IO[bytes], steady))
        if steady.error is not None:
            raise steady.error
