"""Single tasks read from every layout."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prosg.musi.tasks import LAYOUTS, read_tasks

SAME = ("Name a colour.", "Of the sky.", "Blue.")
RECORDS: dict[str, Any] = {
    "self-instruct": {"instruction": SAME[0], "instances": [{"input": SAME[1], "output": SAME[2]}]},
    "alpaca": {"instruction": SAME[0], "input": SAME[1], "output": SAME[2]},
    "dolly": {"instruction": SAME[0], "context": SAME[1], "response": SAME[2], "category": "open_qa"},
    "sharegpt": {
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": f"{SAME[0]}\n{SAME[1]}"},
            {"from": "gpt", "value": SAME[2]},
            {"from": "human", "value": "And another?"},
        ]
    },
    "messages": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": f"{SAME[0]}\n{SAME[1]}"}]},
            {"role": "assistant", "content": [{"type": "text", "text": SAME[2]}]},
        ]
    },
    "prosg": {"prompt": f"{SAME[0]}\n{SAME[1]}", "answer": SAME[2]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
def test_every_layout_gives_the_same_task(tmp_path: Path, layout: str, ending: str) -> None:
    file = tmp_path / f"data{ending}"
    if ending == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist([RECORDS[layout]]), file)
    else:
        file.write_text(json.dumps([RECORDS[layout]] if ending == ".json" else RECORDS[layout]))
    (task,), (source,) = read_tasks([str(file)])
    assert task.text == f"{SAME[0]}\n{SAME[1]}" and task.output == SAME[2]
    assert source.layouts == {layout: 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"question": "x"}', ("data.jsonl:2", "question", "alpaca (instruction, output)")),
        ("[]", ("data.jsonl:2", "not list")),
        ('{"instruction": "x"', ("data.jsonl:2", "not JSON")),
        ('{"instruction": 3, "output": "x"}', ("data.jsonl:2", "instruction is a int")),
        ('{"messages": "x"}', ("data.jsonl:2", "no list of objects")),
        ('{"instruction": "x", "instances": 1}', ("data.jsonl:2", "instances")),
    ],
)
def test_bad_records_name_file_and_line(tmp_path: Path, content: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(RECORDS["alpaca"]) + "\n" + content + "\n")
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        read_tasks([str(file)])
    assert all(word in str(error.value) for word in words)


def test_parquet_that_is_damaged_is_named(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    file = tmp_path / "data.parquet"
    no_text = pa.array([b"Say \xff"], pa.binary()).view(pa.string())
    table = pa.table({"instruction": no_text, "output": pa.array(["It."])})
    pytest.importorskip("pyarrow.parquet").write_table(table, file)
    for content in (file.read_bytes(), file.read_bytes()[:-20], b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"data\.parquet: cannot be read: \S") as error:
            read_tasks([str(file)])
        assert "\n" not in str(error.value)


def test_an_empty_part_of_a_message_is_no_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": None}, {"type": "text", "text": "Say it."}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "It."}]
    (tmp_path / "data.json").write_text(json.dumps([{"messages": turns}]))
    (task,), _ = read_tasks([str(tmp_path / "data.json")])
    assert task.text == "Say it."


def test_tasks_that_are_left_out_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    records = [
        {"instruction": "Say it.", "output": "It.", "id": "own"},
        {"instruction": "", "output": "It."},
        {"instruction": "Say it.", "output": ""},
        {"instruction": "Say it twice and at length.", "output": "It. It."},
        {"messages": [{"role": "user", "content": "Hello?"}]},
        {"instruction": "Say it again.", "input": "No input", "output": "It."},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    tasks, (task_file,) = read_tasks([str(file)], longest=5)
    assert [(task.id, task.text) for task in tasks] == [("own", "Say it."), ("data.jsonl:6", "Say it again.")]
    assert task_file.left_out == {
        "no instruction": 1,
        "no answer": 1,
        "more than 5 words": 1,
        "no exchange of a user and an assistant": 1,
    }
