"""What a frozen backbone leaves of each training prompt, kept on the disk: reading it is a third of a step of phase 2.

    FOLDER/KEY.safetensors      taps of every layer and the last logits, of one prompt

The key is a hash of the backbone's weights, the arithmetic, the names of the taps and the prompt's ids, so that any
number of runs may share a folder and none reads what another backbone left. An entry holds width x layers numbers for
each token: 7 MB for 53 tokens of a model of 135M parameters. Beyond its bound nothing more is kept: every row comes
once an epoch, so making room for one would cost another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prosg.backbones.base import Output, Taps
from prosg.backbones.hf.model import HFBackbone
from prosg.core.state import State
from prosg.utils.io import written_whole

__all__ = ["TapsCache"]

LOGITS = "logits"
SUFFIX = ".safetensors"


class TapsCache:
    """Reads prompts as the backbone does, from the disk where it can.

    Attributes:
        hits: Prompts that were read from the disk.
        misses: Prompts that the backbone read.
        size: Bytes in the folder.
    """

    def __init__(self, folder: str | Path, backbone: HFBackbone, fingerprint: str, limit: float) -> None:
        """Opens a folder, which is made if it is not there.

        Args:
            folder: Where entries are.
            backbone: What reads prompts, frozen.
            fingerprint: Of its weights and options.
            limit: Bytes in the folder, at most.
        """
        self.folder, self.backbone, self.fingerprint, self.limit = Path(folder), backbone, fingerprint, limit
        self.hits = self.misses = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self.size = sum(file.stat().st_size for file in self.folder.glob(f"*{SUFFIX}"))

    def __call__(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor,
        logits: str,
        taps: Collection[str],
        keep_state: bool,
    ) -> Output:
        """Reads whole prompts (B, T), as `HFBackbone` does, without a state to read on from."""
        assert state is None and logits == "last" and not keep_state
        ids = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        files = [self.folder / f"{self._key(row, taps)}{SUFFIX}" for row in ids]
        entries = [_load(file, tokens.device) for file in files]
        missing = [i for i, entry in enumerate(entries) if entry is None]
        self.hits, self.misses = self.hits + len(ids) - len(missing), self.misses + len(missing)
        if missing:
            rows = torch.tensor(missing, device=tokens.device)
            width = max(len(ids[i]) for i in missing)
            output = self.backbone(
                tokens[rows, :width], lengths=lengths[rows], logits="last", taps=taps, keep_state=False
            )
            for place, i in enumerate(missing):
                entries[i] = _entry(output, place, len(ids[i]))
                self._store(files[i], entries[i])
        return _output([entry for entry in entries if entry is not None], tokens.shape[1])

    def _key(self, ids: list[int], taps: Collection[str]) -> str:
        kind = self.backbone.device.type
        arithmetic = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self._dtype()
        parts = (self.fingerprint, str(arithmetic), *sorted(taps), *map(str, ids))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _dtype(self) -> torch.dtype:
        weight: Tensor = self.backbone.model.get_input_embeddings().weight
        return weight.dtype

    def _store(self, file: Path, entry: Mapping[str, Tensor] | None) -> None:
        assert entry is not None
        size = sum(tensor.nbytes for tensor in entry.values())
        if self.size + size > self.limit:
            return
        with written_whole(file, overwrite=True) as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in entry.items()}, temporary)
        self.size += size


def _load(file: Path, device: torch.device) -> dict[str, Tensor] | None:
    """An entry; None where there is none, or it is damaged and has to be made again."""
    try:
        entry: dict[str, Tensor] = load_file(file, device=str(device))
    except (OSError, SafetensorError):
        return None
    return entry if LOGITS in entry else None


def _entry(output: Output, row: int, length: int) -> dict[str, Tensor]:
    """What a call left of one of its rows."""
    assert output.logits is not None
    entry = {LOGITS: output.logits[row]}
    for name in Taps._fields:
        for layer, tensor in enumerate(getattr(output.taps, name)):
            entry[f"{name}.{layer}"] = tensor[row] if name == "last" else tensor[row, :length]
    return entry


def _output(entries: list[dict[str, Tensor]], time: int) -> Output:
    """The rows of entries as one call of the backbone returns them, with zeros beyond each prompt."""

    def joined(name: str, layer: int) -> Tensor:
        rows = [entry[f"{name}.{layer}"] for entry in entries]
        if name == "last":
            return torch.stack(rows)
        whole = rows[0].new_zeros(len(rows), time, rows[0].shape[1])
        for i, row in enumerate(rows):
            whole[i, : len(row)] = row
        return whole

    layers = {name: sum(key.startswith(f"{name}.") for key in entries[0]) for name in Taps._fields}
    taps: dict[str, Any] = {name: tuple(joined(name, i) for i in range(count)) for name, count in layers.items()}
    return Output(torch.stack([entry[LOGITS] for entry in entries]), (), Taps(**taps))
