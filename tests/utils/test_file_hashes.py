"""Hashes of files: by content, computed once, and never an old one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import prosg.utils.file_hashes
from prosg.utils.file_hashes import FileHashes, hash_file


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, by name; changes of more than a moment ago count as settled."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(Path(path).name)
        return hash_file(path)

    monkeypatch.setattr(prosg.utils.file_hashes, "hash_file", counted)
    monkeypatch.setattr(prosg.utils.file_hashes, "SETTLED", 0)
    return names


def test_a_file_is_read_once_while_it_stays_as_it_is(tmp_path: Path, read: list[str]) -> None:
    file, kept = tmp_path / "a", tmp_path / "kept" / "hashes.json"
    file.write_bytes(b"x" * 9_000_000)
    hashes = FileHashes(kept)
    assert hashes.of(file) == hashes.of(file) == hashlib.sha256(b"x" * 9_000_000).hexdigest()
    hashes.save()
    assert FileHashes(kept).of(file) == hashes.of(file)
    assert read == ["a"]


def test_a_changed_file_of_the_same_size_and_time_is_read_again(tmp_path: Path, read: list[str]) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    hashes = FileHashes()
    before, times = hashes.of(file), file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hashes.of(file) != before and read == ["a", "a"]


def test_a_file_that_has_just_changed_is_read_every_time(tmp_path: Path) -> None:
    file = tmp_path / "a"
    hashes = FileHashes()
    for content in (b"one", b"two"):
        file.write_bytes(content)
        assert hashes.of(file) == hashlib.sha256(content).hexdigest()
    assert hashes.known == {}


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_a_damaged_file_of_hashes_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hashes.json").write_bytes(content)
    assert FileHashes(tmp_path / "hashes.json").of(tmp_path / "hashes.json") == hashlib.sha256(content).hexdigest()
