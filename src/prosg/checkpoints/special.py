"""Special tokens of a model, read from its files.

generation_config.json, then config.json    eos_token_id, one or several
tokenizer_config.json                       eos_token, which comes first; add_bos_token
tokenizer.json                              whether it begins texts with a token of its own

RWKV's own files say none of this: there 0 ends a text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.files import TOKENIZER_CONFIG, load_tokenizer
from prosg.tokenizers.special import RWKV_SPECIAL, SpecialTokens
from prosg.utils.io import read_json

__all__ = [
    "GENERATION_CONFIG",
    "read_special",
    "special_from_dict",
    "special_to_dict",
    "write_special",
]

GENERATION_CONFIG = "generation_config.json"


def read_special(model: Path, tokenizer: Tokenizer | None, vocab_size: int) -> SpecialTokens:
    """Returns the special tokens of a model.

    Ids that the vocabulary does not have are passed over: a library's default configuration names some.

    Args:
        model: A folder, or a file, which has RWKV's.
        tokenizer: Of the model, if there is one.
        vocab_size: Of the model.

    Raises:
        CheckpointError: for a damaged file.
    """
    if not model.is_dir():
        return RWKV_SPECIAL
    configs = [_read(model / name) for name in (GENERATION_CONFIG, "config.json")]
    named = next((ids for config in configs if (ids := _ids(config.get("eos_token_id"), vocab_size))), ())
    settings = _read(model / TOKENIZER_CONFIG)
    own = _named_token(settings.get("eos_token"), tokenizer)
    if own is not None and 0 <= own < vocab_size:
        named = (own, *(token for token in named if token != own))
    return SpecialTokens(named or RWKV_SPECIAL.end, _begin(settings, configs, tokenizer, vocab_size))


def _read(file: Path) -> Mapping[str, Any]:
    return read_json(file) if file.is_file() else {}


def _ids(value: Any, vocab_size: int) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(
        dict.fromkeys(v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < vocab_size)
    )


def _named_token(token: Any, tokenizer: Tokenizer | None) -> int | None:
    """The id of a token as tokenizer_config.json spells it: a text, or an object with one."""
    text = token.get("content") if isinstance(token, dict) else token
    return tokenizer.token_id(text) if tokenizer is not None and isinstance(text, str) else None


def _begin(
    settings: Mapping[str, Any], configs: list[Mapping[str, Any]], tokenizer: Tokenizer | None, vocab_size: int
) -> int | None:
    """What a prompt begins with: what settings name that say that there is one; else the tokenizer's rule."""
    added, rule = settings.get("add_bos_token"), None if tokenizer is None else tokenizer.begin_token
    if added is False:
        return None
    named = []
    if added is True:
        generation, config = ([*_ids(c.get("bos_token_id"), vocab_size)] for c in configs)
        spelled = _named_token(settings.get("bos_token"), tokenizer)
        named = [*generation, *([] if spelled is None else [spelled]), *([] if rule is None else [rule]), *config]
    begin = next(iter(named), rule)
    return begin if begin is not None and 0 <= begin < vocab_size else None


def special_to_dict(special: SpecialTokens) -> dict[str, Any]:
    """JSON values, as an adapter's configuration has them."""
    return {"end_token": list(special.end), "begin_token": special.begin}


def special_from_dict(values: Mapping[str, Any], where: str) -> SpecialTokens | None:
    """Reads `special_to_dict`'s values; None where there are none. Raises ValueError, naming `where`, for others."""
    if "end_token" not in values:
        return None
    end, begin = values["end_token"], values.get("begin_token")
    numbers = [*end, *([] if begin is None else [begin])] if isinstance(end, list) else [None]
    if not end or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise ValueError(f"{where}: end_token is {end!r} and begin_token {begin!r}; allowed: ids, and one or none")
    return SpecialTokens(tuple(end), begin)


def write_special(special: SpecialTokens, folder: Path, tokenizer_file: Path | None) -> None:
    """Writes special tokens into a model's folder, where `read_special` and transformers find them.

    Files that say them already stay as they are.

    Args:
        special: The tokens.
        folder: Of the model, with its tokenizer's settings.
        tokenizer_file: Of the model's tokenizer.

    Raises:
        ValueError: for a damaged tokenizer.
    """
    tokenizer = None if tokenizer_file is None else load_tokenizer(tokenizer_file)

    def said() -> SpecialTokens:
        return read_special(folder, tokenizer, sys.maxsize)

    if said() == special:
        return
    file = folder / GENERATION_CONFIG
    content = {**_read(file), "eos_token_id": list(special.end) if len(special.end) > 1 else special.end[0]}
    if special.begin is not None:
        content["bos_token_id"] = special.begin
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    changes: dict[str, Any] = {}
    if said().end != special.end:
        changes["eos_token"] = _spelled(special.end[0], tokenizer)
    if said().begin != special.begin:
        changes["add_bos_token"] = special.begin is not None
        if special.begin is not None:
            changes["bos_token"] = _spelled(special.begin, tokenizer)
    if changes:
        file = folder / TOKENIZER_CONFIG
        settings = {name: value for name, value in {**_read(file), **changes}.items() if value is not None}
        file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def _spelled(token: int, tokenizer: Tokenizer | None) -> str | None:
    """How tokenizer_config.json names a token; None for one that no text names."""
    text = "" if tokenizer is None else tokenizer.decode([token])
    return text if tokenizer is not None and tokenizer.token_id(text) == token else None
