"""Append-only logs: what a kill and damage do."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.utils.store import Log, read_log, record_id


def test_a_line_cut_short_is_forgotten_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    log = Log(file)
    log.append({"id": "a"}, {"id": "b"})
    log.close()
    file.write_bytes(file.read_bytes() + b'{"id": "c", "rep')
    log = Log(file)
    assert [record["id"] for record in log.records] == ["a", "b"]
    log.append({"id": "d"})
    log.close()
    assert [record["id"] for record in Log(file).records] == ["a", "b", "d"]
    for bad in (b"{\n", b"3\n", b"\xff\n"):
        file.write_bytes(b'{"id": "a"}\n' + bad)
        with pytest.raises(ValueError, match=r"log\.jsonl:2"):
            Log(file)


def test_reading_leaves_a_log_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    assert read_log(file) == []
    file.write_bytes(b'{"id": "a"}\n{"id"')
    assert read_log(file) == [{"id": "a"}]
    assert file.read_bytes().endswith(b'{"id"')


def test_an_id_depends_on_every_input_and_not_on_their_order() -> None:
    assert record_id(a=1, b="x") == record_id(b="x", a=1) != record_id(a=1, b="y")
    assert len(record_id(a=1)) == 24


@pytest.mark.parametrize("last", [b'{"id": "c"}', b'{"id": "\xc3\xa9"} '])
def test_a_whole_last_line_is_a_record_without_its_newline(tmp_path: Path, last: bytes) -> None:
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"id": "a"}\n' + last)
    assert len(read_log(file)) == 2 and file.read_bytes().endswith(last)
    log = Log(file)
    log.append({"id": "d"})
    log.close()
    assert [record["id"] for record in read_log(file)] == ["a", log.records[1]["id"], "d"]


def test_a_last_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"id": "a"}\n[3]')
    with pytest.raises(ValueError, match=r"log\.jsonl:2: .*list"):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("content", [b"a-token", b"{a}", b"\xff", b"[[[["])
def test_a_file_that_holds_no_record_is_not_cut(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="token:1: not the beginning of a record"):
        Log(file)
    assert file.read_bytes() == content


def test_opening_a_log_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    for content in (b'{"id": "a"}\n{"id"', b'{"id": "a"}'):
        file.write_bytes(content)
        log = Log(file)
        assert file.read_bytes() == content and log.records == [{"id": "a"}]
        log.append({"id": "b"}, {"id": "c"})
        log.append({"id": "d"})
        log.close()
        assert file.read_bytes() == b'{"id": "a"}\n{"id": "b"}\n{"id": "c"}\n{"id": "d"}\n'


def test_what_another_process_has_written_since_is_not_cut(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    for content in (b'{"id": "a"}\n{"id"', b'{"id": "a"}', b'{"id": "a"}\n'):
        file.write_bytes(content)
        first, second = Log(file), Log(file)
        for log, name in ((second, "b"), (first, "c")):
            log.append({"id": name})
            log.close()
        assert [record["id"] for record in read_log(file)] == ["a", "b", "c"]


def test_a_closed_log_writes_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.close()
    with (tmp_path / "other").open("wb"), pytest.raises(OSError):  # noqa: PT011 - has the log's number
        log.append({"id": "a"})
    assert not (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("line", ["[" * 5000, '{"n": ' + "1" * 5000 + "}", "\\xff"])
def test_a_line_that_breaks_a_parser_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"log.jsonl:2: .*delete the line") as error:
        read_log(tmp_path / "log.jsonl")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
