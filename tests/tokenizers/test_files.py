"""Tokenizers by name, file and folder; what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.files import load_tokenizer
from prosg.tokenizers.json_file import JSON_NAME
from prosg.tokenizers.world import VOCABULARY_NAME, WORLD_FINGERPRINT, read_vocabulary, world_file


def test_a_name_a_file_and_a_folder_mean_the_same(tmp_path: Path) -> None:
    file = read_vocabulary(world_file()).save(tmp_path / "folder")
    assert file == tmp_path / "folder" / VOCABULARY_NAME
    renamed = tmp_path / "mine.txt"
    renamed.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    for path in ("world", file, str(file.parent), renamed):
        assert load_tokenizer(path).fingerprint == WORLD_FINGERPRINT
    assert list(file.parent.iterdir()) == [file]


def test_a_tokenizer_json_comes_before_a_vocabulary(tmp_path: Path) -> None:
    read_vocabulary(world_file()).save(tmp_path)
    bpe = train_bpe(["abc"], 300)
    bpe.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == bpe.fingerprint


def test_settings_of_a_file_that_would_cut_or_pad_are_dropped(tmp_path: Path) -> None:
    tokenizer = train_bpe(["one two three four"], 300)
    file = tokenizer.save(tmp_path)
    inner = tokenizers.Tokenizer.from_file(str(file))
    inner.enable_truncation(3)
    inner.enable_padding(length=9)
    inner.save(str(file))
    assert load_tokenizer(file).encode("one two three four") == tokenizer.encode("one two three four")
    assert load_tokenizer(file).fingerprint == tokenizer.fingerprint


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=rf"{missing}: .*{JSON_NAME}.*{VOCABULARY_NAME}.*world"):
            load_tokenizer(missing)
    (tmp_path / JSON_NAME).write_text("{}")
    with pytest.raises(ValueError, match=JSON_NAME):
        load_tokenizer(tmp_path)


def test_importing_it_does_not_import_transformers() -> None:
    code = "import sys, prosg.tokenizers.files; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
