"""Tokenizers by name, file and folder; what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.files import load_tokenizer
from prosg.tokenizers.json_file import JSON_NAME, JsonTokenizer
from prosg.tokenizers.world import VOCABULARY_NAME, WORLD_FINGERPRINT, read_vocabulary, world_file
from support.chat_models import chat_tokenizer


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


PLAIN: dict[str, Any] = dict.fromkeys(
    ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
) | {"version": "1.0", "added_tokens": []}
WORDS = {"type": "WordLevel", "vocab": {"a": 7}, "unk_token": "[UNK]"}


def write(folder: Path, **parts: Any) -> Path:
    (folder / JSON_NAME).write_text(json.dumps({**PLAIN, "model": WORDS, **parts}))
    return folder / JSON_NAME


def test_a_panic_of_the_library_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    with pytest.raises(ValueError, match=f"{JSON_NAME}: not a tokenizer.json .*Precompiled") as error:
        load_tokenizer(file)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["[" * 5000, '{"a":' * 5000, "null", "[]", '"\\ud83d"'])
def test_json_that_is_no_tokenizer_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / JSON_NAME).write_text(text)
    with pytest.raises(ValueError, match=f"{JSON_NAME}: not a tokenizer.json") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_bytes_of_ids_that_are_parts_of_characters(tmp_path: Path) -> None:
    text = "naïve 東京 \ufffd a\n"
    fallback = {f"<0x{byte:02X}>": byte for byte in range(256)}
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    model = {"type": "BPE", "vocab": fallback, "merges": [], "byte_fallback": True, "unk_token": "<0x00>"}
    in_bytes = load_tokenizer(write(tmp_path, model=model, decoder=decoder))
    for tokenizer in (train_bpe(["abc"], 300), read_vocabulary(world_file()), in_bytes):
        parts = [tokenizer.bytes_of(token) for token in tokenizer.encode(text)]
        assert None not in parts and b"".join(part or b"" for part in parts) == text.encode()
    unknown = load_tokenizer(
        write(tmp_path, decoder={"type": "Replace", "pattern": {"String": "a"}, "content": "\ufffd"})
    )
    assert unknown.bytes_of(7) is None


def test_the_size_of_a_vocabulary_is_its_greatest_id_plus_one(tmp_path: Path) -> None:
    assert load_tokenizer(write(tmp_path)).vocab_size == 8
    special = {"id": 30, "content": "<x>", "special": True}
    special |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = load_tokenizer(write(tmp_path, added_tokens=[special]))
    assert (added.token_id("<x>") or 0) < added.vocab_size == 8


def test_what_a_tokenizer_cannot_do_is_a_value_error(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path))
    assert tokenizer.encode("a") == [7]
    for call in (lambda: tokenizer.encode("b"), lambda: tokenizer.encode_offsets("b"), lambda: tokenizer.decode([-1])):
        with pytest.raises(ValueError, match="the tokenizer cannot"):
            call()


def test_what_opens_turns_cannot_be_typed_however_it_is_marked() -> None:
    inner = chat_tokenizer()
    inner.add_tokens(["<|user|>", "<think>"])
    tokenizer = JsonTokenizer(inner)
    user, think = map(tokenizer.token_id, ("<|user|>", "<think>"))
    ids = tokenizer.encode("a<|user|>b<think>")
    assert user not in ids and ids[-1] == think and ids == tokenizer.encode_offsets("a<|user|>b<think>")[0]
    assert user in tokenizer.encode("a<|user|>b", special=True)
