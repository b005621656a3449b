"""Token ids in binidx files: the same rows as of the texts, found documents, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prosg.data.binidx import DocumentRows, binidx_files, read_documents
from prosg.data.encode import EncodedRow, encode_rows
from prosg.data.joined import join_rows, row_lengths
from prosg.data.row import row_from_dict
from prosg.tokenizers.special import RWKV_SPECIAL, SpecialTokens
from prosg.tokenizers.world import WorldTokenizer, read_vocabulary, world_file
from support.binidx import write_binidx

CHATS = [
    "User: Tell me a story,\nthen say where it was.\n\nAssistant: Once. It was in Bern.",
    "User: 你好\n\nAssistant: 你好!\n\nUser: And in English?\n\nAssistant: Hello 😀!",
    "System: Be brief.\n\nUser: Why?\n\nAssistant: Because.",
]
PLAIN = "The cat sat.\n\nIt slept."


@pytest.fixture(scope="module")
def world() -> WorldTokenizer:
    return read_vocabulary(world_file())


def read(file: Path, world: WorldTokenizer, special: SpecialTokens = RWKV_SPECIAL) -> DocumentRows:
    return read_documents(file, world, special, 65536)


def without_id(row: EncodedRow) -> EncodedRow:
    return row._replace(id="", row_id=0)


@pytest.mark.parametrize("special", [RWKV_SPECIAL, SpecialTokens((0,), 5)])
@pytest.mark.parametrize("ended", [True, False])
def test_a_conversation_is_the_row_of_its_text(
    special: SpecialTokens, ended: bool, world: WorldTokenizer, tmp_path: Path
) -> None:
    documents = [[[*world.encode(text), *([0] if ended else [])]] for text in CHATS]
    rows = read(write_binidx(tmp_path / "data", documents), world, special)
    expected, _ = encode_rows([row_from_dict({"text": text}) for text in CHATS], world, special)
    assert [without_id(row) for row in rows] == [without_id(row) for row in expected]
    assert len({row.row_id for row in rows}) == len(CHATS)


def test_plain_text_is_learned_as_a_whole(world: WorldTokenizer, tmp_path: Path) -> None:
    ids = world.encode(PLAIN)
    file = write_binidx(tmp_path / "data", [[ids]])
    [row] = read(file, world)
    assert row.prompt == [0] and row.answer == [*ids, 0] and not row.has_stages
    [row] = read(file, world, SpecialTokens((0,), 5))
    assert row.prompt == [5] and row.answer == [*ids, 0]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64"])
def test_documents_end_where_the_index_or_an_end_token_says(dtype: str, world: WorldTokenizer, tmp_path: Path) -> None:
    documents = [[[33, 34], [35, 0]], [[0]], [[36, 0, 37, 38]], [[0, 39]]]
    rows = read(write_binidx(tmp_path / "data", documents, dtype), world)
    assert [row.answer for row in rows] == [[33, 34, 35, 0], [36, 0], [37, 38, 0], [39, 0]]
    assert [row.answer for row in rows[1:3]] == [[36, 0], [37, 38, 0]] and rows[-1].answer == [39, 0]
    rows = read(write_binidx(tmp_path / "whole", documents, dtype, indexed=False), world)
    assert [row.answer for row in rows] == [[33, 34, 0], [35, 0], [36, 0], [37, 38, 0], [39, 0]]


def test_ids_stay_on_the_disk(world: WorldTokenizer, tmp_path: Path) -> None:
    rows = read(write_binidx(tmp_path / "data", [[[33] * 50]] * 100), world)
    assert isinstance(rows.ids, np.memmap) and rows.ids.mode == "r"
    assert isinstance(join_rows([rows, [*rows[:2]]])[3:5], Sequence)


@pytest.mark.parametrize("name", ["data", "data.idx", "data.bin", "my.data", "my.data.idx"])
def test_what_means_such_files(name: str, tmp_path: Path) -> None:
    prefix = tmp_path / name.removesuffix(".idx").removesuffix(".bin")
    write_binidx(prefix, [[[33]]])
    assert binidx_files(tmp_path / name) == (Path(f"{prefix}.idx"), Path(f"{prefix}.bin"))


def test_what_does_not(tmp_path: Path) -> None:
    write_binidx(tmp_path / "data", [[[33]]])
    for name in ("data.jsonl", "other"):
        assert binidx_files(tmp_path / name) is None
    (tmp_path / "data").mkdir()
    assert binidx_files(tmp_path / "data") is None


def test_long_documents(world: WorldTokenizer, tmp_path: Path) -> None:
    documents = [[[33] * 4], [[34] * 20], [world.encode(CHATS[0])]]
    rows = read(write_binidx(tmp_path / "data", documents), world)
    kept, too_long = rows.limited(10, truncate=False)
    assert [row.answer for row in kept] == [[33] * 4 + [0]] and too_long == 2
    cut, too_long = rows.limited(10, truncate=True)
    assert [row.tokens for row in cut] == [6, 10, 10] and too_long == 2
    assert cut[1].answer == [34] * 9
    assert list(cut.lengths) == [6, 10, 10]


def test_rows_of_several_files(world: WorldTokenizer, tmp_path: Path) -> None:
    rows = read(write_binidx(tmp_path / "data", [[[33]], [[34, 35]]]), world)
    texts, _ = encode_rows([row_from_dict({"prompt": "a", "answer": "b"})], world)
    joined = join_rows([rows, [], texts, rows])
    assert len(joined) == 5 and [*joined] == [*rows, *texts, *rows] and joined[-1] == rows[1]
    assert row_lengths(joined) == [3, 4, 3, 3, 4]
    with pytest.raises(IndexError):
        joined[5]
    assert join_rows([texts, texts]) == [*texts, *texts] and join_rows([rows]) is rows


def assert_refused(file: Path, world: WorldTokenizer, message: str, vocab_size: int = 65536) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_documents(file, world, RWKV_SPECIAL, vocab_size)
    assert "\n" not in str(caught.value)


def test_ids_that_the_model_does_not_have(world: WorldTokenizer, tmp_path: Path) -> None:
    file = write_binidx(tmp_path / "data", [[[33, 1024]]])
    assert_refused(file, world, r"data.bin: its largest token id is 1024, but the model has the ids 0 to 1023", 1024)
    assert len(read_documents(file, world, RWKV_SPECIAL, 1025)) == 1
    file = write_binidx(tmp_path / "data", [[[33, -2]]], "int32")
    assert_refused(file, world, r"data.bin: its least token id is -2")


def test_what_is_damaged(world: WorldTokenizer, tmp_path: Path) -> None:
    def fresh(dtype: str = "uint16") -> tuple[Path, Path]:
        file = write_binidx(tmp_path / "data", [[[33, 34], [35]], [[36]]], dtype)
        return file, file.with_suffix(".bin")

    def patched(at: int, value: bytes) -> Path:
        file, _ = fresh()
        content = file.read_bytes()
        file.write_bytes(content[:at] + value + content[at + len(value) :])
        return file

    assert_refused(patched(0, b"TNTIDX"), world, "data.idx: not an index of binidx data")
    assert_refused(patched(9, b"\x02"), world, "data.idx: version 2 .*supported: 1")
    assert_refused(patched(17, b"\x09"), world, "data.idx: type 9 .*uint16")
    assert_refused(fresh("float32")[0], world, "data.idx: type 7 of token ids")
    assert_refused(patched(18, b"\x09"), world, r"data.idx: has \d+ bytes where \d+ are expected")
    assert_refused(patched(34, b"\xff\xff\xff\xff"), world, "data.idx: damaged: a sequence")
    assert_refused(patched(46, b"\x01"), world, "data.idx: damaged: a sequence")  # half of an id
    assert_refused(patched(54, b"\x06"), world, "data.idx: the sequences of a document do not lie")
    assert_refused(patched(70, b"\x01"), world, "data.idx: damaged: its documents do not begin")
    assert_refused(patched(62, b"\x02"), world, "data.idx: damaged: documents overlap")
    file, ids = fresh()
    os.truncate(file, 40)
    assert_refused(file, world, r"data.idx: has 40 bytes")
    os.truncate(file, 20)
    assert_refused(file, world, "data.idx: not an index")
    file, ids = fresh()
    os.truncate(ids, 6)
    assert_refused(file, world, r"data.bin: holds 3 ids, but data.idx has sequences up to 4")
    os.truncate(ids, 7)
    assert_refused(file, world, r"data.bin: has 7 bytes, no whole number of ids of 2 bytes")
    ids.write_bytes(bytes(10))
    assert_refused(file, world, r"data.bin: holds 5 ids, but data.idx has 4 in its sequences")
    assert_refused(patched(17, b"\x01"), world, r"data.bin: holds 8 ids, but data.idx has 4 .*type of ids is wrong")
    ids.unlink()
    assert_refused(file, world, r"data.bin: no such file")
    file, _ = fresh("uint8")
    content = file.read_bytes()
    file.write_bytes(content[:46] + b"\xff" * 7 + b"\x7f" + content[54:])  # the sum with its size would be negative
    assert_refused(file, world, r"data.bin: holds 4 ids, but data.idx has sequences up to 9223372036854775807")
    file, ids = fresh()
    file.unlink()
    assert_refused(ids, world, r"data.idx: no such file")
    assert_refused(write_binidx(tmp_path / "data", [[[0]], [[]]]), world, "data.idx: holds no documents")
    assert_refused(write_binidx(tmp_path / "data", []), world, "data.idx: holds no documents")


@pytest.mark.parametrize("special", [RWKV_SPECIAL, SpecialTokens((0,), 5)])
def test_a_row_of_just_the_longest_length_is_kept(
    special: SpecialTokens, world: WorldTokenizer, tmp_path: Path
) -> None:
    rows = read(write_binidx(tmp_path / "data", [[world.encode(text)] for text in [*CHATS, PLAIN]]), world, special)
    for row in rows:
        fitting, too_long = rows.limited(row.tokens, truncate=False)
        assert row in [*fitting] and len(fitting) + too_long == len(rows)
        assert row not in [*rows.limited(row.tokens - 1, truncate=False)[0]]
        cut, _ = rows.limited(row.tokens, truncate=True)
        assert row in [*cut]
