"""Reading files of tensors, without executing them, and in memory that their size bounds."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from prosg.utils.device import dtype_name
from prosg.utils.io import CheckpointError
from prosg.utils.outside import plain_reason
from prosg.utils.spelling import meant_path
from prosg.utils.values import shown

__all__ = ["check_files", "damage_named", "read_safetensors", "read_tensors"]

PROTOCOL = 0x80
"""The byte with which a pickle begins, before its protocol's number."""
MOST_PROTOCOL = 3
"""Later ones have operations that PyTorch's reader, which runs no code, does not know."""
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
SAFETENSORS = (".safetensors", ".st")
"""Suffixes of safetensors files; .st is that of RWKV's runtimes."""
LONGEST_NAME = 200
"""Letters of a tensor's name."""
NESTED = ("model", "module", "state_dict")
"""Names under which training tools put a model's tensors."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file or one of torch.save, mapped copy-on-write if its format allows it.

    The content says which of the two it is, whatever the file is called. A dictionary in one of `NESTED`, alone in it
    as training tools write it, is what they hold.

    Raises:
        CheckpointError: for a damaged file, for objects other than tensors, for tensors of integers, and for tensors
            that are larger than the file.
        OSError: for a file that cannot be opened.
    """
    _check_exists(path)
    tensors = read_safetensors(path)[1] if _is_safetensors(path) else _unpickle(path)
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: a tensor's name is {shown(name)}, of type {type(name).__name__}, not text")
        if not name.isprintable() or len(name) > LONGEST_NAME:
            raise CheckpointError(
                f"{path}: a tensor's name is {shown(name)}; allowed: at most {LONGEST_NAME} letters that can be printed"
            )
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: {name} is a {type(tensor).__name__}; only tensors are allowed")
        if tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(f"{path}: {name} is stored as sparse, or without its values; supported: all of them")
        if tensor.dtype not in FLOATS:
            kinds = ", ".join(dtype_name(dtype) for dtype in FLOATS)
            raise CheckpointError(f"{path}: {name} is {dtype_name(tensor.dtype)}; supported: {kinds}")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, which takes more than the values that are stored"
            )
    return tensors


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Reads the metadata and the tensors, of any type, of a safetensors file.

    Raises:
        CheckpointError: for a damaged file, and where there is not enough memory.
        OSError: for a file that is not there or cannot be opened.
    """
    _check_exists(path)
    with path.open("rb"):  # safetensors calls every file that it cannot open missing
        pass
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return metadata, load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated, or not a safetensors file ({error})") from None
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        raise _cannot_read(path, error, "truncated, or not a safetensors file") from None


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file{meant_path(path)}")


def _is_safetensors(path: Path) -> bool:
    """Returns whether a file begins with safetensors' header, or is called so and nothing else can read it."""
    with path.open("rb") as file:
        start = file.read(9)
    # The header's length in 8 bytes, then the header, a JSON object. A zip and a pickle have other bytes there.
    if len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8:
        return True
    return path.suffix in SAFETENSORS and not zipfile.is_zipfile(path)


def check_files(folder: Path) -> None:
    """Checks a folder's files of weights before another library reads them.

    Raises:
        CheckpointError: for a zip that is larger inside than outside, and a damaged safetensors file of the model.
        OSError: for a file that cannot be opened.
    """
    for file in sorted([*folder.glob("*.bin"), *folder.glob("*.safetensors")]):
        with file.open("rb"):
            pass
        if file.suffix == ".safetensors" and file.name.startswith("model"):  # others are not read
            try:
                with safe_open(file, framework="pt"):
                    pass
            except (SafetensorError, MemoryError, OSError, RuntimeError, ValueError) as error:
                raise _cannot_read(file, error, "truncated, or not a safetensors file") from None
        if file.suffix == ".bin" and zipfile.is_zipfile(file):
            _check_entries(file)


@contextmanager
def damage_named(folder: Path) -> Iterator[None]:
    """Where another library fails at a folder's weights, says which pickled file is damaged, and how.

    Raises:
        CheckpointError: for such a file; else whatever the block raises.
    """
    try:
        yield
    except CheckpointError:
        if not any(folder.glob("model*.safetensors")):  # they are read in the place of pickled ones
            for file in sorted(folder.glob("pytorch_model*.bin")):
                _unpickle(file)
        raise


def _unpickle(path: Path) -> dict[Any, Any]:
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        raise CheckpointError(f"{path}: empty")
    is_zip = zipfile.is_zipfile(path)
    if start == b"PK" and not is_zip:
        raise CheckpointError(f"{path}: truncated")
    if not (is_zip or start[0] == PROTOCOL):
        raise CheckpointError(f"{path}: not a PyTorch checkpoint")
    if is_zip:
        _check_entries(path)
    try:
        with warnings.catch_warnings():  # it warns of what it reads all the same, and of what the error says
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except pickle.UnpicklingError as error:
        protocol = _protocol(path, is_zip) if "Unsupported operand" in str(error) else 0
        if MOST_PROTOCOL < protocol <= pickle.HIGHEST_PROTOCOL:
            raise CheckpointError(
                f"{path}: pickled with protocol {protocol}, which cannot be read without running code; write it with "
                "torch.save's own, pickle_protocol=2"
            ) from None
        found = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:class|operand|type) ([\w.]+)", str(error))
        what = f" ({found[1] or found[2]})" if found else ""
        damaged = "" if is_zip else ", or is damaged"
        raise CheckpointError(
            f"{path}: contains code or pickled objects other than tensors{what}{damaged}; refused"
        ) from None
    except Exception as error:  # a damaged pickle can raise any
        raise _cannot_read(path, error, "truncated, or not a PyTorch checkpoint") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; needs a dict of tensors")
    if len(content) == 1 and (name := next(iter(content))) in NESTED and isinstance(content[name], dict):
        return dict(content[name])
    return content


def _protocol(path: Path, is_zip: bool) -> int:
    """The protocol that a pickle says it has; 0 for none."""
    if is_zip:
        with zipfile.ZipFile(path) as file:
            pickles = [name for name in file.namelist() if name.endswith("data.pkl")]
            start = file.read(pickles[0])[:2] if pickles else b""
    else:
        with path.open("rb") as single:
            start = single.read(2)
    return start[1] if len(start) == 2 and start[0] == PROTOCOL else 0


def _check_entries(path: Path) -> None:
    """Raises CheckpointError for a zip whose entries are compressed, or together larger than the file."""
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _cannot_read(path, error, "truncated, or not a PyTorch checkpoint") from None
    size = path.stat().st_size
    unpacked = sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or unpacked > size:
        raise CheckpointError(
            f"{path}: has compressed or overlapping entries, {unpacked:,} bytes in a file of {size:,}; torch.save "
            "writes them as they are"
        )


def _cannot_read(path: Path, error: BaseException, otherwise: str) -> CheckpointError:
    """What is said of an error of a library: whether memory is short, or what it is otherwise."""
    reason = plain_reason(error)
    if isinstance(error, MemoryError) or re.search(r"memory|mmap|ENOMEM|Errno 12\b", str(error), re.IGNORECASE):
        return CheckpointError(f"{path}: there is not enough memory to read it ({reason})")
    return CheckpointError(f"{path}: {otherwise} ({reason})")
