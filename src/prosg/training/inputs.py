"""What a run is made of, by content: rows, backbone and tokenizer, whatever and wherever their files are.

inputs.json     {"backbone": [sha256, ...], "tokenizer": ..., "train": ..., "validation": ...}
hashes.json     hashes of files that were read before; it saves time only
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prosg.checkpoints.hub import local_path
from prosg.checkpoints.model_files import model_hashes
from prosg.data.binidx import binidx_files
from prosg.training.config import TrainConfig
from prosg.utils.file_hashes import FileHashes
from prosg.utils.io import read_json, write_json

__all__ = ["NAMED_INPUTS", "check_inputs", "input_hashes", "record_inputs"]

INPUTS, HASHES = "inputs.json", "hashes.json"
MISSING = ""
NAMED_INPUTS = ("model", "init", "train", "validation", "tokenizer")
"""Options that name inputs."""


def input_hashes(config: TrainConfig, hashes: FileHashes) -> dict[str, list[str]]:
    """The hashes of the files that a run reads, by what they are to it."""
    model = config.model if config.model == "demo" else local_path(config.model)
    parts = model_hashes(hashes, model, tokenizer=config.tokenizer)
    del parts["adapter"]
    parts["init"] = model_hashes(hashes, local_path(config.init))["adapter"] if config.init else []
    for part, files in (("train", config.train), ("validation", config.validation)):
        named = [files] if isinstance(files, str) else files
        read = [path for file in named for path in binidx_files(file) or (Path(file),)]
        parts[part] = [hashes.of(path) if path.is_file() else MISSING for path in read]
    return parts


def record_inputs(config: TrainConfig) -> None:
    """Writes what a run that begins is made of into its folder."""
    out = Path(config.out)
    hashes = FileHashes(out / HASHES)
    write_json(out / INPUTS, input_hashes(config, hashes))
    hashes.save()


def check_inputs(config: TrainConfig) -> bool:
    """Refuses to go on in a folder of a run that was begun with files of another content: the result is neither's.

    Returns:
        Whether the folder has a record of its files.

    Raises:
        ValueError: naming what has changed.
    """
    out = Path(config.out)
    if not (out / INPUTS).is_file():
        return False
    before = read_json(out / INPUTS)
    now = input_hashes(config, FileHashes(out / HASHES))
    # A file that is not there is told by whoever reads it.
    read = {
        part: hashed
        for part, hashed in now.items()
        if MISSING not in hashed and (hashed or part in ("init", "validation"))
    }
    if changed := [_named(config, part) for part, hashed in read.items() if before.get(part, []) != hashed]:
        raise ValueError(
            f"{out} holds a run from files with another content: {' and '.join(changed)} changed since it began; "
            "choose another --out, or delete it"
        )
    return True


def _named(config: TrainConfig, part: str) -> str:
    names: dict[str, Any] = {
        "backbone": config.model,
        "init": config.init,
        "tokenizer": config.tokenizer or f"beside {config.model}",
        "train": config.train,
        "validation": config.validation,
    }
    what = {"train": "training rows", "validation": "validation rows"}.get(part, part)
    files = names[part]
    return f"{what} ({(files if isinstance(files, str) else ', '.join(files)) or 'none now'})"
