"""Single tasks of every layout into multi-stage instructions; reviewing them; counting them; training on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prosg.cli import main
from prosg.data.checks import check_stages
from prosg.data.row import Row, read_rows, write_rows
from prosg.data.synthetic import make_rows
from prosg.musi.compose import compose_rows, split_tasks
from prosg.musi.similar import rouge_l
from prosg.musi.tasks import LAYOUTS, Task, read_tasks
from support.training_folder import make_training_folder

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
def test_bad_records_name_file_and_line(
    tmp_path: Path, content: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(RECORDS["alpaca"]) + "\n" + content + "\n")
    assert main(["data", "compose", str(file), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words) and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(RECORDS["alpaca"]) + "\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for options, word in (
        (("--size", "0", "--out", str(tmp_path / "out")), "--size is 0"),
        (("--size", "2000000", "--longest", "1", "--out", str(tmp_path / "out")), "no tasks"),
        (("--out", str(tmp_path / "full")), "exists"),
        (("--out", str(tmp_path / "full"), "--overwrite"), "not replaced"),
        (("--out", str(file)), "exists"),
    ):
        assert main(["data", "compose", str(file), *options]) == 2
        assert word in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data.jsonl", "full", "mine.txt"]


def check_composed(rows: list[Row]) -> None:
    """Two stages at least, every answer passes its own checks, no task in two splits."""
    assert all(len(row.stages) >= 2 and all(check_stages(row, row.answer)) for row in rows)
    splits: dict[str, set[str]] = {}
    for row in rows:
        for task in row.extra["tasks"]:
            splits.setdefault(task, set()).add(row.extra["split"])
    assert all(len(some) == 1 for some in splits.values())
    assert len({row.prompt for row in rows}) == len(rows)


def test_the_seed_tasks_as_they_are(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = shared_data / "self-instruct" / "seed_tasks.jsonl"
    for out in ("one", "two"):
        command = ["data", "compose", str(seeds), "--size", "600", "--seed", "3", "--out", str(tmp_path / out)]
        assert main(command) == 0
    told = capsys.readouterr().out
    assert "175 self-instruct; 175 tasks" in told and "each used" in told
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "report.json", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    splits = {name: read_rows(tmp_path / "one" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 480, "validation": 60, "test": 60}
    rows = [row for some in splits.values() for row in some]
    check_composed(rows)
    kinds = {row.kind.rpartition("-")[2] for row in rows}
    assert kinds >= {"2", "3", "closing", "code", "names", "summary"}
    assert {stage.check["type"] for row in rows for stage in row.stages} >= {"exact", "ordered_items", "words"}
    for row in rows:
        late = row.stages[-1]
        if row.kind.endswith(("-code", "-names", "-closing")):  # given in the prompt, and nowhere in the answer before
            for item in late.check.get("items") or [late.check["text"].partition(": ")[2]]:
                assert item in row.prompt and item not in row.answer[: late.start]
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    used = Counter(task for row in rows for task in row.extra["tasks"])
    assert used == Counter({task: n for some in report["reuse"].values() for task, n in some.items()})
    assert sum(len(some) for some in report["reuse"].values()) == 175
    texts = {split: [task.text for task in some] for split, some in split_tasks(read_tasks([str(seeds)])[0]).items()}
    assert all(rouge_l(one, other) <= 0.7 for one in texts["test"] for other in texts["train"])
    assert main(["data", "check", str(tmp_path / "one" / "train.jsonl")]) == 0


def tasks(count: int, language: str = "en") -> list[Task]:
    made = []
    for place in range(count):
        name = "".join(chr(97 + int(digit)) for digit in str(place * 7919))
        if language == "zh":
            words = ("写一句关于", "的话。", "很好。它在那里。")
            text = "".join(chr(0x4E00 + 37 * place + 5 * k) for k in range(6))
            made.append(Task(f"zh{place}", words[0] + text + words[1], "", text + words[2], False))
        else:
            made.append(Task(f"en{place}", f"Say {name} {name[::-1]}.", "", f"It is {name}. Is it?", place % 3 == 0))
    return made


def test_chinese_tasks_are_put_together_in_chinese_and_apart_from_others() -> None:
    rows, reuse = compose_rows([*tasks(30), *tasks(30, "zh")], 200, 1)
    check_composed(rows)
    for row in rows:
        assert {task[:2] for task in row.extra["tasks"]} == {row.extra["language"]}
    assert {row.extra["language"] for row in rows} == {"en", "zh"}
    assert sum(sum(used.values()) for used in reuse.values()) == sum(len(row.extra["tasks"]) for row in rows)


def test_few_tasks_make_few_rows(tmp_path: Path) -> None:
    rows, _ = compose_rows(tasks(1), 5, 0)
    check_composed(rows)
    assert {len(row.extra["tasks"]) for row in rows} == {1}
    same = [Task(f"t{place}", "Say it.", "", "It.", False) for place in range(20)]
    assert sum(bool(some) for some in split_tasks(same).values()) == 1


def test_one_file_for_all_splits(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps({"prompt": t.text, "answer": t.output}) + "\n" for t in tasks(40)))
    assert main(["data", "compose", str(file), "--size", "50", "--out", str(tmp_path / "rows.jsonl")]) == 0
    check_composed(read_rows(tmp_path / "rows.jsonl"))
    assert (tmp_path / "rows.report.json").exists()


def test_stats_as_text_and_as_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_rows(("code", "names"), 20)
    write_rows(tmp_path / "rows.jsonl", [*rows, Row("x", rows[0].prompt, "y")])
    assert main(["data", "stats", str(tmp_path / "rows.jsonl")]) == 0
    out = capsys.readouterr().out
    for text in (
        "rows             21",
        "code 10, names 10, (no kind) 1",
        "stages per row   2 20, 0 1",
        "near-duplicates",
    ):
        assert text in out
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert main(["data", "stats", str(tmp_path / "rows.jsonl"), "--out", "rows.svg"]) == 2
    assert main(["data", "stats", str(tmp_path / "none.jsonl")]) == 2


# -- review


def reviewed(file: Path, keys: str, *options: str, **environment: str) -> str:
    """The command with these lines typed into it."""
    command = [sys.executable, "-m", "prosg", "data", "review", str(file), *options]
    result = subprocess.run(
        command, input=keys, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_keep_drop_edit_undo_and_go_on(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = make_rows(("code",), 6)
    write_rows(file, rows)
    before = file.read_bytes()
    editor = tmp_path / "editor.sh"
    editor.write_text("#!/bin/sh\nsed -i 's/=== prompt ===/=== prompt ===\\nPlease./' \"$1\"\n")
    editor.chmod(0o755)
    out = reviewed(file, "x\nd\nu\nk\ne\nd\n", EDITOR=str(editor))  # input ends: as if by q
    assert "1 of 6" in out and "not a choice" in out
    decisions = [json.loads(line) for line in (tmp_path / "rows.review.jsonl").read_text().splitlines()]
    assert [decision["action"] for decision in decisions] == ["drop", "undo", "keep", "edit", "drop"]
    assert "4 of 6" in reviewed(file, "q\n")  # goes on where it was left
    assert file.read_bytes() == before
    assert main(["data", "review", str(file), "--apply", str(tmp_path / "new.jsonl")]) == 0
    new = read_rows(tmp_path / "new.jsonl")
    assert [row.id for row in new] == [rows[place].id for place in (0, 1, 3, 4, 5)]
    assert new[1].prompt == f"Please.\n{rows[1].prompt}" and new[1].stages == rows[1].stages
    assert "nothing to undo" in reviewed(file, "u\nu\nu\nu\nq\n")
    assert "3 of 3" in reviewed(file, "s\ns\ns\n", "--sample", "3", "--seed", "4")


def test_edits_that_break_a_row_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write_rows(file, make_rows(("code",), 2))
    for script, words in (
        ("echo nothing > $1", "have to stay"),
        ("exit 3", "to end well"),
        ("sed -i 's/^Code: [0-9]*/Code: 1/' $1", "fails the check of stage 2"),
    ):
        editor = tmp_path / "editor.sh"
        editor.write_text(f"#!/bin/sh\n{script}\n")
        editor.chmod(0o755)
        assert words in reviewed(file, "e\nq\n", EDITOR=str(editor))
    assert (tmp_path / "rows.review.jsonl").read_text() == ""
    (tmp_path / "rows.review.jsonl").write_text('{"action": "burn", "id": "x"}\n')
    assert main(["data", "review", str(file), "--apply", str(tmp_path / "new.jsonl")]) == 2


# -- from a build to a training


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build whose pairs are verified, for export."""
    config = tmp_path / "build.yaml"
    out = tmp_path / "out"
    config.write_text(
        f"out: {out}\nendpoint: {{model: m, api_key_env: ''}}\nbudget: {{requests: 1, tokens: 1}}\n"
        "export: {licence: MIT, cluster_above: 0.9}\n"
    )
    write_rows(out / "verified.jsonl", make_rows(("names", "code", "ending"), 60, sentences=(1, 2)))
    return config


def test_decisions_apply_at_export(build: Path) -> None:
    assert main(["data", "build", str(build), "--stages", "export"]) == 0
    export = build.parent / "out" / "export"
    assert "names" in (export / "README.md").read_text()
    rows = read_rows(export / "train.jsonl")
    reviewed(export / "train.jsonl", "d\nk\nq\n")
    assert main(["data", "build", str(build), "--stages", "export"]) == 0
    assert [row.id for row in read_rows(export / "train.jsonl")] == [row.id for row in rows[1:]]
    assert "1 drop, 1 keep" in (export / "README.md").read_text()
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(export / "train.parquet").to_pylist()
    assert [line["prompt"] for line in table] == [row.prompt for row in rows[1:]]
    assert json.loads(table[0]["stages"][1]["check"]) == rows[1].stages[1].check


@pytest.mark.slow
def test_an_exported_set_trains_unchanged(build: Path, tmp_path: Path) -> None:
    assert main(["data", "build", str(build), "--stages", "export"]) == 0
    export = tmp_path / "out" / "export"
    shop = make_training_folder(tmp_path / "shop")
    few = ["--optim.steps", "2", "--optim.batch_size", "4", "--progress", "false"]
    files = ["--train", str(export / "train.jsonl"), "--validation", str(export / "validation.jsonl"), *few]
    tuned = tmp_path / "tuned"
    assert main(["train", "finetune", "--model", str(shop.model), "--output", str(tuned), *files]) == 0
    memory = str(tmp_path / "memory")
    assert main(["train", "synthesize", "--model", str(tuned / "model"), "--output", memory, *files]) == 0
    assert (tmp_path / "memory" / "adapter").is_dir()
