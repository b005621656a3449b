"""Fetching models from the Hugging Face hub by name, and uploading folders to it.

    owner/name            a repository: a folder in transformers' layout, or an adapter
    owner/name/file.pth   one file of it
    hf://owner/name...    the same, never taken for a local path

Fetched files stay in the hub's cache and are found there without a network. Private repositories need the hub's login
(`hf auth login`).
"""

from __future__ import annotations

import re
from pathlib import Path

from prosg.utils.io import CheckpointError
from prosg.utils.leftovers import remove_leftovers
from prosg.utils.paths import user_path
from prosg.utils.spelling import meant_path

__all__ = ["HUB", "local_path", "may_be_fetched", "push"]

HUB = "hf://"
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.md")
"""Files fetched of a repository. BlinkDL's hold many .pth files, of which one has to be named."""
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[^/]+)*")


def may_be_fetched(name: str) -> bool:
    """Whether a name that is not here may be one of the hub; a name whose first part is a local folder is a path."""
    return name.startswith(HUB) or bool(NAME.fullmatch(name) and not Path(Path(name).parts[0]).is_dir())


def local_path(name: str | Path) -> Path:
    """Returns the local path of a model, fetching it from the hub if needed.

    A path that exists is returned unchanged, as is one that cannot be a name of the hub. A name whose first part is a
    local folder is a path, so that a mistyped path causes no request.

    Raises:
        CheckpointError: if a name of the hub cannot be fetched, with the reason.
    """
    text = user_path(name)
    hub_name = text.removeprefix(HUB)
    if not text.startswith(HUB):
        path = Path(text)
        if not path.exists():
            remove_leftovers(path)  # a command that was killed while it replaced the model may have left the old one
        if path.exists() or not may_be_fetched(text):
            return path
    elif not NAME.fullmatch(hub_name):
        raise CheckpointError(f"{text}: not a name of the hub; allowed: {HUB}owner/name and {HUB}owner/name/file.pth")
    return _fetch(text, hub_name)


def _fetch(name: str, hub_name: str) -> Path:
    import huggingface_hub as hub

    owner, repository, *file = hub_name.split("/")
    where = f"{owner}/{repository}"
    try:
        if file:
            return Path(hub.hf_hub_download(where, "/".join(file)))
        folder = Path(hub.snapshot_download(where, allow_patterns=list(FETCHED)))
    except (OSError, ValueError, hub.errors.EntryNotFoundError) as error:
        here = "" if name.startswith(HUB) else f"no such file or folder here{meant_path(name)}, and "
        raise CheckpointError(f"{name}: {here}not to be had from the Hugging Face hub ({_reason(error)})") from None
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{name}: holds no *.safetensors; name a file in it: {where}/FILE.pth")
    return folder


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Uploads the folder of a model or an adapter to the hub.

    Args:
        folder: What to upload.
        repository: "owner/name"; created if there is no such repository.
        private: Create it as a private one.

    Returns:
        The repository's address.

    Raises:
        CheckpointError: for a folder of another kind.
        ValueError: for a bad name, without a login, and if the hub refuses, with its reason.
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
