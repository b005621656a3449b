import json
from pathlib import Path

import pytest

from prosg.data.row import Row, derived_id, read_rows, row_from_dict, row_to_dict, write_rows
from prosg.data.synthetic import KINDS, make_rows
from prosg.utils.io import write_lines

STAGES = [
    {"instruction": "tell", "check": {"type": "sentences", "min": 1}, "start": 0, "marker": ""},
    {"instruction": "end", "check": {"type": "exact", "text": "End: b."}, "start": 2, "marker": "\nEnd:"},
]
GOOD = {"id": "x", "kind": "k", "prompt": "p", "answer": "a.\nEnd: b.", "stages": STAGES, "distance_words": 1}


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    rows = make_rows(tuple(KINDS), 40)
    assert write_rows(tmp_path / "new" / "rows.jsonl", rows) == 40
    assert read_rows(tmp_path / "new" / "rows.jsonl") == rows
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.jsonl"]


def test_unknown_fields_are_kept_and_leaks_is_written_only_where_true() -> None:
    data = GOOD | {"source": {"by": "hand"}, "leaks": True}
    assert row_to_dict(row_from_dict(data)) == data
    assert "leaks" not in row_to_dict(row_from_dict(GOOD))


def test_a_pair_is_enough_and_gets_a_stable_id(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pair = json.dumps({"prompt": "Grüße", "answer": "ja"}, ensure_ascii=False)
    file.write_text(f"\ufeff{pair}\n\n{pair}\n", encoding="utf-8")
    first, second = read_rows(file)
    assert first == Row(derived_id("Grüße", "ja"), "Grüße", "ja")
    assert second.id == f"{first.id}-3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "'prompt' is empty"),
        ({"answer": ""}, "'answer' is empty"),
        ({"answer": None}, "'answer' must be of type str"),
        ({"id": 3}, "'id' must be of type str"),
        ({"id": ""}, "'id' is empty"),
        ({"leaks": 1}, "'leaks' must be of type bool"),
        ({"distance_words": True}, "'distance_words' must be of type int"),
        ({"distance_words": -1}, "must be 0 or more"),
        ({"stages": {}}, "'stages' must be of type list"),
        ({"stages": ["x"]}, "a stage is an object"),
        ({"stages": [STAGES[0] | {"end": 3}]}, "not so: end"),
        ({"stages": [STAGES[0] | {"start": 1}]}, "the first stage has start 0"),
        ({"stages": [STAGES[0], STAGES[1] | {"start": 1}]}, "does not have the marker"),
        ({"stages": [STAGES[0], STAGES[1] | {"start": 99}]}, "must lie between 1 and 9"),
        ({"stages": [STAGES[0], STAGES[1] | {"marker": ""}]}, "only the first stage"),
        ({"stages": [STAGES[0] | {"check": {"type": "magic"}}]}, "unknown check type 'magic'; allowed: exact"),
    ],
)
def test_bad_rows_name_file_line_and_fault(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"id": "y"} | change) + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: ") as caught:
        read_rows(file)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{\n", ":1: not JSON"),
        (b"[1]\n", ":1: a row is a JSON object, not list"),
        (b'{"prompt": "p"}\n', ":1: 'answer' is missing"),
        (b'\n{"prompt": "\xff", "answer": "a"}\n', ":2: not UTF-8"),
        (b'{"id": "a", "prompt": "p", "answer": "a"}\n' * 2, ":2: id 'a' is taken by line 1"),
        (b"\n", ": holds no rows"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.jsonl") as caught:
        read_rows(file)
    assert message in str(caught.value)


def test_a_missing_file_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("old")

    def lines():  # type: ignore[no-untyped-def]
        yield "new"
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_lines(file, lines())
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
