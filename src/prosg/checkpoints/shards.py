"""Checkpoints that training tools leave in pieces, each named with the command that joins them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prosg.utils.io import CheckpointError

__all__ = ["check_whole"]

DEEPSPEED = re.compile(r"(bf16_|fp16_)?zero_pp_rank_\d+_.*|mp_rank_\d+_model_states\.pt")
DEEPSPEED_SCRIPT = "zero_to_fp32.py"
"""What DeepSpeed puts beside the folder of a step."""
FSDP = re.compile(r".+\.distcp")
GLOBAL_STEP = r"global_step\d+"


def check_whole(path: Path) -> None:
    """Refuses a file or folder of DeepSpeed's or FSDP's shards, for a folder without weights that are whole.

    Raises:
        CheckpointError: naming the command that makes one file, or folder, of them.
    """
    shards = [path] if path.is_file() else list(_files(path))
    folder = path.parent if path.is_file() else path
    if any(DEEPSPEED.fullmatch(shard.name) for shard in shards):
        folder = folder.parent if re.fullmatch(GLOBAL_STEP, folder.name) else folder
        raise CheckpointError(
            f"{path}: of DeepSpeed, in shards; join them and name what comes of it: python {folder / DEEPSPEED_SCRIPT} "
            f"{folder} NEW"
        )
    if shard := next((shard for shard in shards if FSDP.fullmatch(shard.name)), None):
        raise CheckpointError(
            f"{path}: of FSDP (torch.distributed.checkpoint), in shards; join them and name what comes of it: python "
            f"-m torch.distributed.checkpoint.format_utils dcp_to_torch {shard.parent} NEW.pth"
        )


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder, and of those folders in it in which such tools put shards."""
    for file in sorted(folder.iterdir()):
        if file.is_dir() and re.fullmatch(rf"{GLOBAL_STEP}|pytorch_model_fsdp(_\d+)?", file.name):
            yield from (shard for shard in sorted(file.iterdir()) if shard.is_file())
        elif file.is_file():
            yield file
