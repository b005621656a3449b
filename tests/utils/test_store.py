"""Append-only logs and locks: what a kill, damage and a second process do."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.utils.store import Log, locked, read_log, record_id


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


def test_a_folder_is_locked_for_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(ValueError, match="run: "), locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("line", ["[" * 5000, '{"n": ' + "1" * 5000 + "}", "\\xff"])
def test_a_line_that_breaks_a_parser_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"log.jsonl:2: .*delete the line") as error:
        read_log(tmp_path / "log.jsonl")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
