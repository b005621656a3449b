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
