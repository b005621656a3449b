"""A writer of `binidx` data, byte by byte from the format's description, apart from the code that reads it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float64": 6, "float32": 7, "uint16": 8}


def write_binidx(
    prefix: Path, documents: Sequence[Sequence[Sequence[int]]], dtype: str = "uint16", *, indexed: bool = True
) -> Path:
    """Writes documents of one or more sequences of ids. `indexed`: say in the index where documents begin."""
    sequences = [sequence for document in documents for sequence in document]
    sizes = [len(sequence) for sequence in sequences]
    item = np.dtype(dtype).itemsize
    places = [item * n for n in accumulate(sizes, initial=0)][:-1]
    first = list(accumulate(map(len, documents), initial=0)) if indexed else []
    content = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, CODES[dtype], len(sizes), len(first))
    content += struct.pack(f"<{len(sizes)}i", *sizes)
    content += struct.pack(f"<{len(places)}q", *places) + struct.pack(f"<{len(first)}q", *first)
    index = prefix.with_name(f"{prefix.name}.idx")
    index.write_bytes(content)
    ids = [token for sequence in sequences for token in sequence]
    index.with_suffix(".bin").write_bytes(np.array(ids, np.dtype(dtype).newbyteorder("<")).tobytes())
    return index
