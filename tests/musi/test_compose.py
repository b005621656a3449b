"""Multi-stage instructions composed of single tasks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from prosg.cli import main
from prosg.data.checks import check_stages
from prosg.data.row import Row, read_rows
from prosg.musi.compose import compose_rows, split_tasks
from prosg.musi.similar import rouge_l
from prosg.musi.tasks import Task, read_tasks

RECORD = {"instruction": "Name a colour.", "input": "Of the sky.", "output": "Blue."}


def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(RECORD) + "\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for options, word in (
        (("--size", "0", "--out", str(tmp_path / "out")), "--size is 0"),
        (("--size", "2000000", "--longest", "1", "--out", str(tmp_path / "out")), "no tasks"),
        (("--out", str(tmp_path / "full")), "exists"),
        (("--size", "0", "--out", str(tmp_path / "full")), "--size is 0"),
        (("--longest", "-3", "--out", str(tmp_path / "full")), "--longest is -3"),
        (("--out", str(tmp_path / "full"), "--overwrite"), "not replaced"),
        (("--out", str(file)), "is a file that is read"),
        (("--longest", "-3", "--out", str(tmp_path / "out")), "--longest is -3"),
        (("--longest", "1", "--out", str(tmp_path / "out")), "1 with more than 1 words"),
        (("--out", str(file / "out")), f"{file}: is no folder, and one has to be there"),
    ):
        assert main(["data", "compose", str(file), *options]) == 2
        assert word in capsys.readouterr().err
    assert main(["data", "compose", "nowhere.json", "--size", "0", "--out", "out"]) == 2
    assert capsys.readouterr().err == "error: --size is 0; it must be at least 1\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data.jsonl", "full", "mine.txt"]


def test_what_is_read_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out, rows = tmp_path / "rows.report.json", tmp_path / "out", tmp_path / "rows.jsonl"
    file.write_text(json.dumps([RECORD]))
    assert main(["data", "compose", str(file), "--size", "1", "--out", str(out)]) == 0
    (composed,) = out.glob("*.jsonl")
    before = composed.read_bytes()
    for read, target in ((composed, out), (file, rows)):
        capsys.readouterr()
        assert main(["data", "compose", str(read), "--size", "1", "--out", str(target), "--overwrite"]) == 2
        assert f"{read}, which is read" in (err := capsys.readouterr().err) or "is a file that is read" in err
    assert composed.read_bytes() == before and json.loads(file.read_text()) == [RECORD] and not rows.exists()


def check_composed(rows: list[Row]) -> None:
    """Rows have at least two stages and pass their own checks, and no task is in two splits."""
    assert all(len(row.stages) >= 2 and all(check_stages(row, row.answer)) for row in rows)
    splits: dict[str, set[str]] = {}
    for row in rows:
        for task in row.extra["tasks"]:
            splits.setdefault(task, set()).add(row.extra["split"])
    assert all(len(some) == 1 for some in splits.values())
    assert len({row.prompt for row in rows}) == len(rows)


def test_the_self_instruct_seed_tasks(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = shared_data / "self-instruct" / "seed_tasks.jsonl"
    for out in ("one", "two"):
        command = ["data", "compose", str(seeds), "--size", "200", "--seed", "3", "--out", str(tmp_path / out)]
        assert main(command) == 0
    assert "175 self-instruct; 175 tasks" in capsys.readouterr().out
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "report.json", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    splits = {name: read_rows(tmp_path / "one" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 160, "validation": 20, "test": 20}
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
    assert all(rouge_l(text, other) <= 0.7 for text in texts["test"] for other in texts["train"])
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
    rows, uses = compose_rows([*tasks(30), *tasks(30, "zh")], 100, 1)
    check_composed(rows)
    for row in rows:
        assert {task[:2] for task in row.extra["tasks"]} == {row.extra["language"]}
    assert {row.extra["language"] for row in rows} == {"en", "zh"}
    assert sum(sum(counts.values()) for counts in uses.values()) == sum(len(row.extra["tasks"]) for row in rows)


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
