"""Stored prompts: encoded prompts in a folder, or another storage, each its key's own.

    OWNER/ID.safetensors     as `prosg encode` writes it
    OWNER/ID.json            the record, written last: a prompt that has one is whole, and was confirmed

Both files are written whole. A server that is killed leaves a prompt with both, or none that counts. Nothing is kept in
memory but encoded prompts that were used lately, so several servers can share a storage.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.checkpoints.fingerprints import reading_identity
from prosg.core.encoded import MEMORIES, EncodedPrompt, Memory
from prosg.core.packed import PackedPrompt
from prosg.data.templates import Turn
from prosg.model.prosg import ProSG
from prosg.serving.api.storage import Folder, Storage
from prosg.utils.io import CheckpointError, read_json, write_json
from prosg.utils.store import record_id
from prosg.utils.values import from_json_number, to_json_number

__all__ = ["ID", "PromptRecord", "PromptStore", "StoredPrompt", "TooManyPromptsError", "prompt_id"]

ID = re.compile(r"prompt-[0-9a-f]{24}")
OWNER = re.compile(r"[0-9a-z]{1,32}")
FORMAT = "prosg-prompt-1"
UNCONFIRMED_SECONDS = 600
"""Age at which a file without a record is taken for one that nobody will confirm any more."""


class TooManyPromptsError(ValueError):
    """A key has as many stored prompts as it may have."""


@dataclass(frozen=True)
class PromptRecord:
    """What is known of a stored prompt.

    Attributes:
        id: Its name in requests.
        created: Unix time.
        name: The client's label; "" for none.
        source: "text", "messages" or "upload".
        tokens: Its length; 0 for an upload, which does not say.
        bytes: Of its file.
        model: What it was made by: `reading_identity`, or the fingerprint that an upload names.
        memory: What holds it where a request does not say; None for what its file has.
        tau: Window of its anchor, tokens.
        known: Whether the module was trained on prompts like it; None where the module does not tell.
        template: Name of the template that its messages are written in.
        turns: Its messages, which later turns follow.
    """

    id: str
    created: int
    name: str
    source: str
    tokens: int
    bytes: int
    model: str
    memory: Memory | None
    tau: float | None
    known: bool | None
    template: str
    turns: tuple[Turn, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        content = dataclasses.asdict(self)
        content["turns"] = [list(turn) for turn in self.turns]
        content["tau"] = to_json_number(self.tau)
        return {"format": FORMAT, **content}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> PromptRecord:
        """Reads what `to_dict` wrote. ValueError for anything else."""
        names = [field.name for field in dataclasses.fields(cls)]
        if content.get("format") != FORMAT or sorted(content) != sorted(["format", *names]):
            raise ValueError("not the record of a stored prompt")
        turns = content["turns"]
        if content["memory"] not in (None, *MEMORIES) or not isinstance(turns, list):
            raise ValueError("the record of a stored prompt is damaged")
        if any(not isinstance(turn, list) or [type(part) for part in turn] != [str, str] for turn in turns):
            raise ValueError("the record of a stored prompt has turns that are none")
        changed = {"turns": tuple(Turn(*turn) for turn in turns), "tau": from_json_number(content["tau"])}
        return cls(**{name: content[name] for name in names} | changed)


class StoredPrompt(NamedTuple):
    """A stored prompt, ready for use."""

    record: PromptRecord
    encoded: EncodedPrompt
    was_cached: bool
    """whether it was in memory"""


def prompt_id(owner: str, **content: Any) -> str:
    """The id of a prompt: a hash of its owner and of all that it follows from: a request that is repeated adds none."""
    return f"prompt-{record_id(owner=owner, **content)}"


class PromptStore:
    """Stored prompts, by owner."""

    def __init__(self, storage: Storage, model: ProSG, fingerprint: str, cache_bytes: int = 256 << 20) -> None:
        """Takes a storage, and clears away what a killed server left unconfirmed in a folder.

        Args:
            storage: Where the prompts lie.
            model: What prompts are encoded by.
            fingerprint: The model's.
            cache_bytes: Encoded prompts that are kept in memory.
        """
        self.storage, self.fingerprint = storage, fingerprint
        self.identity = reading_identity(model, fingerprint)
        self._model, self._cache_bytes = model, cache_bytes
        self._cached: OrderedDict[tuple[str, str], PackedPrompt] = OrderedDict()
        self._lock = threading.Lock()  # of the cache
        self._adding = threading.Lock()  # so that the number of prompts is what it was when it was counted
        if isinstance(storage, Folder):  # of another storage a list of all may be long, and cost money
            _clear_unconfirmed(storage.path)

    def find(self, owner: str, name: str) -> PromptRecord | None:
        """Returns an owner's prompt; None where there is none of this model's, whoever else may have one."""
        if not ID.fullmatch(name):
            return None
        try:
            with self.storage.fetched(_name(owner, name, ".json")) as path:
                record = PromptRecord.from_dict(read_json(path))
        except (FileNotFoundError, ValueError):  # it is not there, or nobody can use it
            return None
        made_here = self.fingerprint if record.source == "upload" else self.identity
        return record if record.model == made_here else None

    def whole(self, owner: str, name: str) -> PromptRecord | None:
        """As `find`; None also where the prompt's file is missing or damaged."""
        record = self.find(owner, name)
        if record is None:
            return None
        try:
            with self.storage.fetched(_name(owner, name, ".safetensors")) as path:
                if path.stat().st_size == record.bytes:
                    load_encoded(path, self._model, fingerprint=self.fingerprint)
                    return record
        except (FileNotFoundError, CheckpointError):
            pass
        with self._lock:
            self._cached.pop((owner, name), None)
        return None

    def owned_by(self, owner: str) -> list[PromptRecord]:
        """All prompts of an owner, the newest first."""
        records = [record for name in self._names(owner) if (record := self.find(owner, name)) is not None]
        return sorted(records, key=lambda record: (-record.created, record.id))

    def _names(self, owner: str) -> list[str]:
        """Names of all prompts of an owner, other models' included."""
        return [name.removesuffix(".json") for name in self.storage.names(owner) if name.endswith(".json")]

    def _has_more(self, owner: str, most: int, besides: str = "") -> bool:
        """Whether an owner has more of this model's prompts; records are read only where there are as many names."""
        names = [name for name in self._names(owner) if name != besides]
        return len(names) > most and sum(self.find(owner, name) is not None for name in names) > most

    def content(self, owner: str, name: str) -> bytes:
        """The content of the file of a prompt that `find` knows. FileNotFoundError where it was deleted meanwhile."""
        with self.storage.fetched(_name(owner, name, ".safetensors")) as path:
            return path.read_bytes()

    def add(
        self,
        owner: str,
        record: PromptRecord,
        encoded: EncodedPrompt,
        most: int = 0,
        on_stored: Callable[[PromptRecord], None] | None = None,
    ) -> PromptRecord:
        """Stores a prompt, and returns when it is there.

        Args:
            owner: Whose it is.
            record: What is known of it; the bytes of its file are filled in.
            encoded: The prompt, of one row.
            most: Prompts that the owner may have; 0 for any number.
            on_stored: Is told of a prompt that was not there before.

        Raises:
            TooManyPromptsError: where there are as many.
            ValueError: for numbers that are not finite.
            OSError: if it cannot be written.
        """
        with self._adding:
            if (there := self.whole(owner, record.id)) is not None:
                return there
            if most and self._has_more(owner, most - 1, record.id):
                raise TooManyPromptsError(f"there are {most} stored prompts, the most that this key may have")
            with self.storage.written(_name(owner, record.id, ".safetensors")) as path:
                save_encoded(encoded, path, self._model, overwrite=True, fingerprint=self.fingerprint)
                record = dataclasses.replace(record, bytes=path.stat().st_size)
            with self.storage.written(_name(owner, record.id, ".json")) as path:
                write_json(path, record.to_dict())
            if most and self._has_more(owner, most):  # another server has stored one meanwhile
                self._remove(owner, record.id)
                raise TooManyPromptsError(f"there are {most} stored prompts, the most that this key may have")
        self._keep(owner, record.id, encoded)
        if on_stored is not None:
            on_stored(record)
        return record

    def read_upload(self, content: bytes) -> EncodedPrompt:
        """Reads the content of a file of an encoded prompt, with all checks of files.

        Raises:
            ValueError: for what is no prompt of this model, alone and with finite numbers, and for an update of a
                higher rank than the model's own.
        """
        with tempfile.TemporaryDirectory(prefix="prosg-upload-") as folder:
            file = Path(folder) / "file"
            file.write_bytes(content)
            try:
                encoded = load_encoded(file, self._model, fingerprint=self.fingerprint)
            except CheckpointError as error:
                raise ValueError(str(error).replace(str(file), "the file")) from None
        if encoded.batch != 1:
            raise ValueError(f"the file has {encoded.batch} prompts; upload them one by one")
        self._check_rank(encoded)
        return encoded

    def _check_rank(self, encoded: EncodedPrompt) -> None:
        """Rows of one batch share the highest rank among them: one upload must not slow the others down."""
        config = self._model.prosg_config
        rank = max((delta.a.shape[1] for delta in (encoded.update or {}).values()), default=0)
        if self._model.synthesizer is None and rank:
            raise ValueError("the file has an update, but this model has no module that makes updates")
        if config is not None and rank > config.rank:
            raise ValueError(f"the file has an update of rank {rank}; this model's have rank {config.rank}")

    def load(self, owner: str, record: PromptRecord) -> StoredPrompt:
        """Reads a prompt that `find` knows.

        Raises:
            CheckpointError: for a file that was damaged.
            FileNotFoundError: where it was deleted meanwhile.
        """
        key = (owner, record.id)
        with self._lock:
            if key in self._cached:
                self._cached.move_to_end(key)
                return StoredPrompt(record, self._cached[key].unpack(), True)
        with self.storage.fetched(_name(owner, record.id, ".safetensors")) as path:
            encoded = load_encoded(path, self._model, fingerprint=self.fingerprint)
        self._keep(owner, record.id, encoded)
        return StoredPrompt(record, encoded, False)

    def _keep(self, owner: str, name: str, encoded: EncodedPrompt) -> None:
        packed = PackedPrompt(encoded)
        with self._lock:
            self._cached[owner, name] = packed
            while sum(one.nbytes for one in self._cached.values()) > self._cache_bytes and len(self._cached) > 1:
                self._cached.popitem(last=False)

    def delete(self, owner: str, name: str) -> bool:
        """Deletes a prompt; returns whether there was one."""
        with self._adding:  # not beside a store of the same prompt, which would be confirmed and then lose its file
            if self.find(owner, name) is None:
                return False
            self._remove(owner, name)
        return True

    def _remove(self, owner: str, name: str) -> None:
        with self._lock:
            self._cached.pop((owner, name), None)
        for suffix in (".json", ".safetensors"):  # without its record it does not count
            self.storage.remove(_name(owner, name, suffix))


def _name(owner: str, name: str, suffix: str) -> str:
    """The name of a prompt's file in the storage."""
    assert OWNER.fullmatch(owner) and ID.fullmatch(name)
    return f"{owner}/{name}{suffix}"


def _clear_unconfirmed(folder: Path) -> None:
    """Removes old files without a record."""
    for file in folder.glob("*/prompt-*.safetensors"):
        if not file.with_suffix(".json").exists() and time.time() - file.stat().st_mtime > UNCONFIRMED_SECONDS:
            file.unlink(missing_ok=True)
