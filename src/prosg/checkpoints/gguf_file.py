"""GGUF files: llama.cpp's format, written with the `gguf` package (extra `engines`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prosg.utils.extras import missing_extra
from prosg.utils.io import CheckpointError, written_whole

__all__ = ["GGUFFile", "check_gguf", "gguf_file"]

SUFFIX = ".gguf"


class GGUFFile:
    """A GGUF file while it is written.

    Attributes:
        writer: The `gguf.GGUFWriter`, for keys that have a method there.
    """

    def __init__(self, gguf: Any, architecture: str) -> None:
        self._gguf = gguf
        self.writer: Any = gguf.GGUFWriter(None, architecture)

    def add_unsigned(self, key: str, values: list[int]) -> None:
        """Adds an array of uint32: the package's own method would make it int32, which llama.cpp refuses."""
        kind = self._gguf.GGUFValueType
        self.writer.add_key_value(key, values, kind.ARRAY, kind.UINT32)

    def add_tensor(self, name: str, tensor: Tensor, dtype: torch.dtype = torch.float32) -> None:
        """Adds a tensor as fp32, fp16 or bf16. GGUF counts dimensions from the innermost, so numpy's order is kept."""
        values = tensor.detach().to("cpu", dtype).contiguous()
        if dtype == torch.bfloat16:  # a type that numpy does not have
            self.writer.add_tensor(
                name, values.view(torch.uint16).numpy(), raw_dtype=self._gguf.GGMLQuantizationType.BF16
            )
        else:
            self.writer.add_tensor(name, values.numpy())

    def write(self, path: Path) -> None:
        """Writes all that was added."""
        self.writer.write_header_to_file(path)
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def check_gguf(path: str | Path) -> Any:
    """Returns the `gguf` package, with which a file of this name can be written.

    Raises:
        CheckpointError: for another suffix.
        ValueError: if the package is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise missing_extra("writing GGUF files", "engines", error) from None
    if Path(path).suffix != SUFFIX:
        raise CheckpointError(f"{path}: a GGUF file ends in {SUFFIX}")
    return gguf


@contextmanager
def gguf_file(path: str | Path, architecture: str, *, overwrite: bool = False) -> Iterator[GGUFFile]:
    """Writes a GGUF file; it is there once the block that fills it has succeeded.

    Args:
        path: The file.
        architecture: llama.cpp's name of the model's.
        overwrite: Replace a file that is there.

    Raises:
        CheckpointError: for another suffix.
        FileExistsError: for what may not be replaced.
        ValueError: if the `gguf` package is not installed.
    """
    gguf = check_gguf(path)
    with written_whole(Path(path), overwrite=overwrite) as temporary:
        file = GGUFFile(gguf, architecture)
        yield file
        file.write(temporary)
