"""What a part of an evaluation follows from, by content: options, rows and the files of a model.

A part is made again where one of these has changed. Files are known by hashes of their contents: what they are called,
where they lie and when they were written changes nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prosg.checkpoints.anchor import ANCHOR_FILE
from prosg.checkpoints.initial_state import STATE_FILE
from prosg.checkpoints.model_files import model_hashes
from prosg.data.row import Row, row_from_dict, row_to_dict
from prosg.evaluation.config import EvalConfig, SystemConfig
from prosg.evaluation.rows import kinds_of
from prosg.utils.file_hashes import FileHashes
from prosg.utils.store import hash_json

__all__ = ["hash_rows", "kept_hashes", "settings_of"]

MODEL = ("model", "base", "tokenizer")
"""Options of a system that name the files of its model."""
LATER = ("tokens_per_sentence",)
"""Options that came after the first parts had been stored: at their defaults such parts are as good as ever."""
BESIDE = {"initial": STATE_FILE, "anchor": ANCHOR_FILE}
"""Options that name a file, and what it is called in a folder."""


def kept_hashes(config: EvalConfig) -> FileHashes:
    """The hashes of files that were read before, kept in the folder of the evaluation."""
    return FileHashes(config.folder / "hashes.json")


def settings_of(config: EvalConfig, name: str, measure: str, rows: str, hashes: FileHashes) -> dict[str, Any]:
    """All that a part follows from; `rows` is a hash of what is asked."""
    own: dict[str, Any]
    if measure == "accuracy":
        own = {"generation": dataclasses.asdict(config.generation), "rows": rows}
    elif measure == "perplexity":
        own = {"rows": rows}
    else:
        own = {measure: _options(getattr(config, measure))}
    data: dict[str, Any] = {"seed": config.data.seed, "split": config.data.split}
    data["train"] = _content(config.data.train, hashes)
    if measure == "curve":
        data["kinds"] = kinds_of(config)
        data["filler"] = _content(config.curve.filler, hashes)
    return {**_system(config.system(name), hashes), "data": data, **own}


def _options(group: Any) -> dict[str, Any]:
    """The options of a measure, without later ones that are at their defaults."""
    usual = dataclasses.asdict(type(group)())
    options = dataclasses.asdict(group)
    return {name: value for name, value in options.items() if name not in LATER or value != usual[name]}


def _system(system: SystemConfig, hashes: FileHashes) -> dict[str, Any]:
    """A system's options, and the contents of its files in place of their names, as far as they are here."""
    options = dataclasses.asdict(system)
    for label in ("label", "seed"):
        options.pop(label)
    files: dict[str, Any] = {}
    if system.model:
        files = dict(model_hashes(hashes, system.model, system.base, system.tokenizer))
        if files["backbone"]:  # else a name of the hub, or what is missing and told by loading
            for option in MODEL:
                options.pop(option)
    for option, file in BESIDE.items():
        path = Path(options[option])
        options[option] = _content(str(path / file) if options[option] and path.is_dir() else options[option], hashes)
    return {"system": options, "files": files}


def _content(file: str, hashes: FileHashes) -> str:
    """The hash of a file, or the name of one that is not here."""
    return hashes.of(file) if file and Path(file).is_file() else file


def hash_rows(rows: Sequence[Row]) -> str:
    """The hash of rows: the same before they are written and after they are read again."""
    written = (json.loads(json.dumps(row_to_dict(row))) for row in rows)
    return hash_json({"rows": [row_to_dict(row_from_dict(data, need_answer=False)) for data in written]})
