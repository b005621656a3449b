"""API keys: a file of their hashes, and the check of one that a client sends.

A key is "prosg-ID-SECRET" with 256 random bits of a secret, so that one sha256 hides it: there is nothing to guess that
a slow hash would protect. It is shown once, when it is made.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prosg.serving.api.options import ApiOptions, KeyLimits
from prosg.utils.io import read_json, write_json
from prosg.utils.options import build
from prosg.utils.paths import user_path

__all__ = ["LOCAL", "Key", "KeyRing", "add_key", "open_keys", "read_keys", "revoke_key"]

FORMAT = "prosg-keys-1"
KEY = re.compile(r"prosg-(?P<id>[0-9a-f]{12})-[\w-]{43}", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9][\w.@ -]{0,63}", re.ASCII)
log = logging.getLogger("prosg.serve")


@dataclass(frozen=True)
class Key:
    """A key without its secret.

    Attributes:
        id: Names the key's own files and limits.
        name: Whose it is, for logs.
        sha256: Of the whole key, as hex.
        created: Unix time.
        limits: What it may use, where that is not what all may use.
    """

    id: str
    name: str
    sha256: str = ""
    created: int = 0
    limits: dict[str, int] = field(default_factory=dict)

    def may_use(self, usual: KeyLimits) -> KeyLimits:
        """The key's own limits, and the usual ones where it has none."""
        return dataclasses.replace(usual, **self.limits)


LOCAL = Key(id="local", name="local")
"""Who sends requests where there are no keys."""


def read_keys(path: Path) -> list[Key]:
    """Reads a file of keys.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    content = read_json(path)
    records = content.get("keys")
    if content.get("format") != FORMAT or not isinstance(records, list):
        raise ValueError(f"{path}: not a file of keys; make one with: prosg keys add {path} NAME")
    return [_key(record, f"{path}: key {number}") for number, record in enumerate(records, 1)]


def _key(record: Any, where: str) -> Key:
    names = [one.name for one in dataclasses.fields(Key)]
    if not isinstance(record, dict) or sorted(record) != sorted(names):
        raise ValueError(f"{where} is no object with {', '.join(names)}")
    patterns = {"id": r"[0-9a-f]{12}", "sha256": r"[0-9a-f]{64}", "name": NAME.pattern}
    for name, pattern in patterns.items():
        if not isinstance(record[name], str) or not re.fullmatch(pattern, record[name], re.ASCII):
            raise ValueError(f"{where}: {name} is damaged")
    if type(record["created"]) is not int:
        raise ValueError(f"{where}: created is no time")
    build(KeyLimits, record["limits"], f"{where}: limits.")
    return Key(**record)


def _write(path: Path, keys: Sequence[Key]) -> None:
    content = {"format": FORMAT, "keys": [dataclasses.asdict(key) for key in keys]}
    write_json(path, content)
    path.chmod(0o600)


def add_key(path: Path, name: str, limits: dict[str, int]) -> str:
    """Adds a key to a file, which is made if it is not there; returns the key, which is stored nowhere.

    Raises:
        ValueError: for a name that is taken or cannot be one, and for limits out of range.
    """
    KeyLimits(**limits)
    if not NAME.fullmatch(name):
        raise ValueError(f"name is {name!r}; allowed: up to 64 letters, digits, spaces and . _ @ -")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        keys = read_keys(path) if path.exists() else []
        if any(key.name == name for key in keys):
            raise ValueError(f"{path}: has a key named {name!r} already; revoke it first, or take another name")
        number = secrets.token_hex(6)
        secret = f"prosg-{number}-{secrets.token_urlsafe(32)}"
        _write(path, [*keys, Key(number, name, _hash(secret), int(time.time()), limits)])
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Removes a key from a file. A running server refuses it from its next request on."""
    with _alone(path):
        keys = read_keys(path)
        if all(key.name != name for key in keys):
            has = ", ".join(key.name for key in keys) or "none"
            raise ValueError(f"{path}: has no key named {name!r}; it has {has}")
        _write(path, [key for key in keys if key.name != name])


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other command changes a file of keys, and keeps others from it."""
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyRing:
    """The keys of a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Reads the file. ValueError if there is no key in it."""
        self.path = path
        self._keys = {key.id: key for key in read_keys(path)}
        self._seen = self._stamp()
        if not self._keys:
            raise ValueError(f"{path}: has no key; make one with: prosg keys add {path} NAME")

    def find(self, secret: str) -> Key | None:
        """Returns the key that a client sends; None for one that is unknown."""
        self._refresh()
        match = KEY.fullmatch(secret)
        key = self._keys.get(match["id"]) if match is not None else None
        # An unknown id takes as long as a wrong secret.
        right = hmac.compare_digest(_hash(secret), key.sha256 if key is not None else "0" * 64)
        return key if right else None

    def _refresh(self) -> None:
        if (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = {key.id: key for key in read_keys(self.path)}
        except (OSError, ValueError) as error:
            log.error("keys stay as they were: %s", error)

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self.path)
        except OSError:
            return (0, 0, 0)
        return status.st_ino, status.st_size, status.st_mtime_ns


def open_keys(options: ApiOptions) -> KeyRing | None:
    """The keys of a server; None where it needs none. ValueError for a file that cannot be read, or has no key."""
    return KeyRing(Path(user_path(options.keys))) if options.keys else None
