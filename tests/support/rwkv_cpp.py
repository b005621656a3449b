"""rwkv.cpp's own file format, read as BlinkDL's names and values."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TRANSPOSED = ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")
"""The low-rank matrices of RWKV-7, which rwkv.cpp turns to (output, input)."""


def read_rwkv_cpp(path: Path) -> dict[str, Tensor]:
    """The tensors of an RWKV-4 or RWKV-7 file in fp32 or fp16, as a BlinkDL `.pth` has them, in fp32."""
    data = path.read_bytes()
    magic, version, *_ = struct.unpack_from("<6i", data)
    assert (magic, version) in ((0x67676D66, 100), (0x67676D66, 101))
    offset, tensors = 24, {}
    while offset < len(data):
        dims, key_length, kind = struct.unpack_from("<3i", data, offset)
        shape = struct.unpack_from(f"<{dims}i", data, offset + 12)[::-1]
        offset += 12 + 4 * dims
        key = data[offset : offset + key_length].decode()
        offset += key_length
        values = np.frombuffer(data, ("<f4", "<f2")[kind], int(np.prod(shape)), offset)
        offset += values.nbytes
        tensors |= _as_blinkdl(key, torch.tensor(values.astype(np.float32)).view(*shape))
    return tensors


def _as_blinkdl(key: str, tensor: Tensor) -> dict[str, Tensor]:
    prefix, _, last = key.rpartition(".")
    if last == "time_decay":
        return {key: torch.log(-tensor)}
    if last == "x_rwkvag":
        return {f"{prefix}.x_{name}": mix.view(1, 1, -1) for name, mix in zip("rwkvag", tensor, strict=True)}
    if last in TRANSPOSED:
        return {key: tensor.T.contiguous()}
    return {key: tensor.view(1, 1, -1) if "time_mix" in key else tensor}
