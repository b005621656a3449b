"""Tokenizers by name: the file that a name, a path or a model's folder means, and loading it.

"world"                      RWKV's World vocabulary, which comes with the package
tokenizer.json               a tokenizer of the `tokenizers` library
rwkv_vocab_v20230424.txt     an RWKV vocabulary
a folder                     the one of these two files that lies in it, tokenizer.json first
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import tokenizers

from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.guarded import PanicError, guarded, silenced
from prosg.tokenizers.json_file import JSON_NAME, JsonTokenizer
from prosg.tokenizers.world import VOCABULARY_NAME, read_vocabulary, world_file
from prosg.utils.io import read_json
from prosg.utils.paths import user_path
from prosg.utils.spelling import meant_path

__all__ = [
    "BY_VOCABULARY_SIZE",
    "TOKENIZER_CONFIG",
    "TOKENIZER_FILES",
    "WORLD",
    "copy_tokenizer",
    "load_tokenizer",
    "stored_name",
    "tokenizer_beside",
    "tokenizer_file",
]

WORLD = "world"
TOKENIZER_FILES = (JSON_NAME, VOCABULARY_NAME)
"""Names under which tokenizers are stored in folders of models."""
TOKENIZER_CONFIG = "tokenizer_config.json"
"""Settings beside a tokenizer, by which transformers reads it."""
AS_IT_STANDS = {"tokenizer_class": "PreTrainedTokenizerFast"}
"""Settings with which transformers takes a `tokenizer.json` as it is; without them a model's type names other rules."""
BY_VOCABULARY_SIZE = {65536: WORLD, 50277: "20B_tokenizer.json"}
"""Tokenizers of published RWKV models by vocabulary size. Only World comes with the package; the other is a file."""


PROBE = "Ab 1,\n\n  é你😀"
"""A text that every tokenizer must get through without a panic."""


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        path: "world", a `tokenizer.json`, an RWKV vocabulary, or a folder that holds one of these files.

    Raises:
        ValueError: if there is no such file, or if it is damaged; the message names it.
    """
    file = tokenizer_file(path)
    if not _is_json(file):
        return read_vocabulary(file)
    with silenced(), guarded(f"{file}: not a tokenizer.json of the tokenizers library"):
        tokenizer = JsonTokenizer(tokenizers.Tokenizer.from_file(str(file)))
        try:
            tokenizer.decode(tokenizer.encode(PROBE))
        except PanicError:
            raise
        except ValueError:
            pass  # it has no tokens for some letters, which is another matter
    return tokenizer


def tokenizer_file(path: str | os.PathLike[str]) -> Path:
    """Returns the file meant by "world", a file or its folder. Raises ValueError if there is none."""
    if str(path) == WORLD:
        return world_file()
    path = user_path(path)
    file = tokenizer_beside(path) if Path(path).is_dir() else Path(path)
    if file is None or not file.is_file():
        raise ValueError(
            f"{path}: no {JSON_NAME} or {VOCABULARY_NAME} there{meant_path(path)}; allowed: such a file, its folder, "
            f"or {WORLD!r}"
        )
    return file


def tokenizer_beside(model: str | os.PathLike[str]) -> Path | None:
    """Returns the tokenizer's file in a model's folder, or beside a model's file; None if there is none."""
    path = Path(model)
    folder = path if path.is_dir() else path.parent
    return next((folder / name for name in TOKENIZER_FILES if (folder / name).is_file()), None)


def stored_name(file: Path) -> str:
    """Returns the name under which a tokenizer's file, whatever it is called, is stored in a model's folder."""
    return JSON_NAME if _is_json(file) else VOCABULARY_NAME


def copy_tokenizer(file: Path, folder: Path) -> None:
    """Copies a tokenizer's file into a model's folder, and the settings beside it, so that transformers reads it alike.

    Raises:
        CheckpointError: for settings that are no JSON object.
    """
    shutil.copyfile(file, folder / stored_name(file))
    beside = file.with_name(TOKENIZER_CONFIG)
    settings = {**(AS_IT_STANDS if _is_json(file) else {}), **(read_json(beside) if beside.is_file() else {})}
    settings.pop("auto_map", None)  # names code that is not copied, as it is never run
    if settings:
        (folder / TOKENIZER_CONFIG).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _is_json(file: Path) -> bool:
    if file.suffix == ".json":
        return True
    with file.open("rb") as content:
        return content.read(100).lstrip().startswith(b"{")
