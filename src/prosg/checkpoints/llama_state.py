"""A recurrent state as a saved sequence of llama.cpp, which `llama_state_seq_load_file` and llama-server read.

uint32   magic "ggsq", version, number of tokens n; then n token ids (int32)
uint32   number of cells, 1
int32    position of the last token; uint32 0
uint32   0 (not transposed), number of layers
layers   int32 type (0: fp32), uint64 bytes, the inputs of both token shifts (2 E)
layers   int32 type, uint64 bytes, the memory (H, N, N), rows for values
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from prosg.backbones import BackboneModule
from prosg.backbones.rwkv7 import RWKV7, RWKV7Layer
from prosg.core.state import State
from prosg.utils.io import written_whole

__all__ = ["VERSIONS", "check_llama_state", "export_llama_state"]

MAGIC = 0x67677371
VERSIONS = 3, 4
"""Of the format, in llama.cpp's releases; what is written here is the same in both, and each reads its own alone."""
FP32 = 0


def check_llama_state(backbone: BackboneModule, version: int) -> None:
    """Raises ValueError for a backbone whose states cannot be written for llama.cpp, and for another version."""
    if version not in VERSIONS:
        raise ValueError(f"version is {version}; allowed: {', '.join(map(str, VERSIONS))}")
    if not isinstance(backbone, RWKV7):
        raise ValueError(
            f"a state is written for llama.cpp's RWKV-7 alone, and the backbone is {backbone.config.model_type}"
        )


def export_llama_state(
    backbone: BackboneModule,
    state: State,
    tokens: Sequence[int],
    path: str | Path,
    *,
    version: int = VERSIONS[-1],
    overwrite: bool = False,
) -> None:
    """Writes the state after a text as a saved sequence of llama.cpp.

    Args:
        backbone: An RWKV-7.
        state: Of one row.
        tokens: The text's token ids, by which llama-server knows a prompt that begins so.
        path: The file.
        version: Of the format, one of `VERSIONS`.
        overwrite: Replace a file that is there.

    Raises:
        FileExistsError: for a file that may not be replaced.
        ValueError: for another backbone, for no tokens, and for another version.
    """
    check_llama_state(backbone, version)
    if not tokens:
        raise ValueError("a saved sequence of llama.cpp holds at least one token, and the prompt leaves none")
    layers = [layer for layer in state if isinstance(layer, RWKV7Layer)]
    shifts = [torch.cat((layer.att_shift, layer.ffn_shift), -1) for layer in layers]
    memories = [layer.memory for layer in layers]
    parts = [
        struct.pack(f"<3I{len(tokens)}i", MAGIC, version, len(tokens), *tokens),
        struct.pack("<IiI", 1, len(tokens) - 1, 0),
        struct.pack("<2I", 0, len(layers)),
        *(_packed(tensor) for tensor in (*shifts, *memories)),
    ]
    with written_whole(Path(path), overwrite=overwrite) as temporary:
        temporary.write_bytes(b"".join(parts))


def _packed(tensor: Tensor) -> bytes:
    """The type, the size and the values of one layer's part of the state."""
    values = tensor[0].detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes()
    return struct.pack("<iQ", FP32, len(values)) + values
