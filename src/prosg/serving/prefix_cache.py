"""Places in texts that were read once: states and updates, found again by what was read.

An entry's key is a hash of the model's fingerprint, of how the text was read, and of the token ids: never a name. So an
entry cannot be stale. How a text was read is its *chain*; within a chain the longest entry that a text begins with is
found, and only what comes after it has to be read.

Entries that no longer fit into memory go to a folder, if there is one, as files of `save_encoded`, and come back from
there, also in a later process. Both are bounded by bytes; what was not used for longest goes first.
"""

from __future__ import annotations

import logging
import re
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.checkpoints.fingerprints import hash_weights, reading_identity
from prosg.core.encoded import EncodedPrompt
from prosg.core.packed import PackedPrompt
from prosg.model.prosg import ProSG
from prosg.utils.leftovers import sweep
from prosg.utils.store import record_id

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

__all__ = ["PrefixCache"]

NAME = re.compile(r"(?P<chain>[0-9a-f]{24})-(?P<length>[0-9]{1,12})-[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class PrefixCache:
    """Encoded prompts by model, chain and token ids.

    Attributes:
        fingerprint: The model's.
        bytes: That the entries in memory take.
        disk_bytes: That the files take.
    """

    def __init__(
        self,
        model: ProSG,
        fingerprint: str,
        *,
        most_bytes: int,
        folder: Path | None = None,
        most_disk_bytes: int = 0,
    ) -> None:
        """Begins with what is in the folder.

        Args:
            model: What reads.
            fingerprint: Its `model_fingerprint`.
            most_bytes: Memory for the entries; 0 keeps none.
            folder: Where entries go that do not fit; it is made if need be.
            most_disk_bytes: Bytes of the files there.
        """
        self.model, self.fingerprint, self.folder = model, fingerprint, folder
        self.most_bytes, self.most_disk_bytes = most_bytes, most_disk_bytes
        self._identity = _identity(model, fingerprint)
        self.bytes = self.disk_bytes = 0
        self._entries: OrderedDict[str, PackedPrompt] = OrderedDict()
        self._files: OrderedDict[str, int] = OrderedDict()
        self._lengths: dict[str, Counter[int]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            files = [(path.stat(), path.stem) for path in folder.glob("*.safetensors") if NAME.fullmatch(path.stem)]
            for status, key in sorted(files, key=lambda file: (file[0].st_mtime, file[1])):
                self._add_file(key, status.st_size)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def files(self) -> int:
        """Number of entries on disk."""
        return len(self._files)

    def chain(self, *options: str | float | bool | None, after: Sequence[int] = ()) -> str:
        """Returns the name of a chain: of this model, and of all that tells how a text is read, but its ids.

        Args:
            options: How it is read.
            after: Ids that stand before the text.
        """
        return record_id(model=self._identity, options=list(options), after=_hashed(after).hexdigest())

    def longest(self, chain: str, ids: Sequence[int], least: int = 1) -> tuple[int, EncodedPrompt] | None:
        """Finds the longest entry of a chain that a text begins with.

        Args:
            chain: As `chain` names it.
            ids: The text.
            least: Tokens that the entry must have; `len(ids)` for the whole text.

        Returns:
            Its number of tokens, and the place after them; None where there is none.
        """
        for length, key in reversed([*_keys(chain, ids, self._lengths.get(chain, ()), least)]):
            if (found := self._get(key)) is not None:
                return length, found
        return None

    def put(self, chain: str, ids: Sequence[int], place: EncodedPrompt) -> None:
        """Keeps the place after a text; one that is not finite, or too large, is left out."""
        if place.nbytes > self.most_bytes or not bool(place.logits.isfinite().all()):
            return
        ((_, key),) = _keys(chain, ids, [len(ids)], len(ids))
        self._insert(key, place)

    def flush(self) -> None:
        """Writes all that is in memory into the folder, if there is one."""
        for key, place in self._entries.items():
            self._write(key, place)

    def _get(self, key: str) -> EncodedPrompt | None:
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key].unpack()
        if key not in self._files:
            return None
        try:
            place = load_encoded(self._path(key), self.model, fingerprint=self.fingerprint)
        except (OSError, ValueError) as error:  # removed or damaged meanwhile: it is read anew
            _log.warning("a stored prompt is left out: %s", error)
            self._remove_file(key)
            return None
        self._files.move_to_end(key)
        self._insert(key, place)
        return place

    def _insert(self, key: str, place: EncodedPrompt) -> None:
        if key in self._entries:
            self._entries.move_to_end(key)
            return
        self._entries[key] = packed = PackedPrompt(place)
        self.bytes += packed.nbytes
        self._note(key, 1)
        while self.bytes > self.most_bytes:
            oldest, evicted = self._entries.popitem(last=False)
            self._write(oldest, evicted)
            self.bytes -= evicted.nbytes
            self._note(oldest, -1)

    def _write(self, key: str, place: PackedPrompt) -> None:
        """Writes an entry into the folder; a full disk costs the entry, and nothing else."""
        if self.folder is None or key in self._files:
            return
        path = self._path(key)
        try:
            save_encoded(place.unpack(), path, self.model, overwrite=True, fingerprint=self.fingerprint)
        except (OSError, ValueError) as error:
            _log.warning("a prompt is not stored: %s", error)
            return
        self._add_file(key, path.stat().st_size)

    def _add_file(self, key: str, size: int) -> None:
        self._files[key] = size
        self.disk_bytes += size
        self._note(key, 1)
        while self.disk_bytes > self.most_disk_bytes and self._files:
            self._remove_file(next(iter(self._files)))

    def _remove_file(self, key: str) -> None:
        self.disk_bytes -= self._files.pop(key)
        self._note(key, -1)
        self._path(key).unlink(missing_ok=True)

    def _note(self, key: str, change: int) -> None:
        """Takes note of an entry that came or went."""
        match = NAME.fullmatch(key)
        assert match is not None
        lengths = self._lengths.setdefault(match["chain"], Counter())
        lengths[int(match["length"])] += change
        if not lengths[int(match["length"])]:
            del lengths[int(match["length"])]
            if not lengths:
                del self._lengths[match["chain"]]

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"


def _identity(model: ProSG, fingerprint: str) -> str:
    """All that a place in a text depends on: weights, also those that a fingerprint leaves out, and their type."""
    digest = sha256(f"{reading_identity(model, fingerprint)} {model.dtype}".encode())
    if model.anchor is not None:
        hash_weights(digest, model.anchor)
    return f"{digest.hexdigest()} {None if model.anchor is None else model.anchor.age}"


def _hashed(ids: Sequence[int]) -> Hash:
    return sha256(array("q", ids).tobytes())


def _keys(chain: str, ids: Sequence[int], lengths: Iterable[int], least: int) -> Iterator[tuple[int, str]]:
    """The keys of a text's beginnings of these lengths, shortest first; the text is hashed once."""
    digest, done = sha256(), 0
    for length in sorted(length for length in lengths if least <= length <= len(ids)):
        digest.update(array("q", ids[done:length]).tobytes())
        done = length
        yield length, f"{chain}-{length}-{digest.hexdigest()}"
