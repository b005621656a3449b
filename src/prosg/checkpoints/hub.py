"""Models of the Hugging Face hub: fetched by name where no such path exists here, and folders sent there.

    owner/name            its folder: transformers' layout, or an adapter
    owner/name/file.pth   one file of it
    hf://...              the same, and never a path

What was fetched once is kept in the hub's own cache, and found there without a network. Who may read or write what is
private is the hub's own login (`hf auth login`).
"""

from __future__ import annotations

import re
from pathlib import Path

from prosg.utils.io import CheckpointError

__all__ = ["HUB", "local_path", "push"]

HUB = "hf://"
PARTS = ("*.json", "*.safetensors", "*.txt", "*.md")
"""What is fetched of a folder: BlinkDL's repositories hold many .pth files, of which one has to be named."""
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[^/]+)*")


def local_path(name: str | Path) -> Path:
    """Where a model is, fetched from the hub if need be; a path that is neither here nor a hub's name as it is.

    A name whose first part is a folder here is a path, so that a mistyped one asks no network.

    Raises:
        CheckpointError: for a name of the hub that cannot be fetched, and why.
    """
    text = str(name)
    wanted = text.removeprefix(HUB)
    if not text.startswith(HUB):
        path = Path(text)
        if path.exists() or not NAME.fullmatch(text) or Path(path.parts[0]).is_dir():
            return path
    elif not NAME.fullmatch(wanted):
        raise CheckpointError(f"{text}: not a name of the hub; allowed: {HUB}owner/name and {HUB}owner/name/file.pth")
    return _fetch(text, wanted)


def _fetch(name: str, wanted: str) -> Path:
    import huggingface_hub as hub

    owner, repository, *file = wanted.split("/")
    where = f"{owner}/{repository}"
    try:
        if file:
            return Path(hub.hf_hub_download(where, "/".join(file)))
        folder = Path(hub.snapshot_download(where, allow_patterns=list(PARTS)))
    except (OSError, ValueError, hub.errors.EntryNotFoundError) as error:
        here = "" if name.startswith(HUB) else "no such file or folder here, and "
        raise CheckpointError(f"{name}: {here}not to be had from the Hugging Face hub ({_reason(error)})") from None
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{name}: holds no *.safetensors; name a file in it: {where}/FILE.pth")
    return folder


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Send a model or adapter folder to the hub, made if there is none of this name; returns its address.

    Raises:
        CheckpointError: for a folder that is no model's.
        ValueError: for a name that is none, without a login, and for what the hub refuses, with its reason.
    """
    import huggingface_hub as hub

    if not folder.is_dir() or not any((folder / name).is_file() for name in ("config.json", "prosg_config.json")):
        raise CheckpointError(f"{folder}: not a folder of a model or an adapter (no config.json, no prosg_config.json)")
    if not NAME.fullmatch(repository) or repository.count("/") != 1:
        raise ValueError(f"{repository}: not a name for the hub; it must be owner/name")
    if hub.get_token() is None:
        raise ValueError("the hub does not know who you are; log in with: hf auth login")
    try:
        address = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{repository}: not sent to the hub ({_reason(error)})") from None
    return str(address)
