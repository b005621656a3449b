"""Which prompts and answers an annotator sees, and in which order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from prosg.data.row import Row, write_rows
from prosg.evaluation.ratings.items import answer_letter, items_for_annotator, read_items
from prosg.evaluation.ratings.store import append_rating, current_ratings
from support.rating import SYSTEMS, make_run, rating_lines


def test_the_order_follows_from_seed_and_annotator(tmp_path: Path) -> None:
    items, left_out = read_items([make_run(tmp_path / "run")])
    assert left_out == 0 and len(items) == 4
    annas = items_for_annotator(items, "anna")
    assert items_for_annotator(items, "anna") == annas
    assert items_for_annotator(items, "bob") != annas
    assert items_for_annotator(items, "anna", seed=1) != annas
    drawn = [{item.id for item in items_for_annotator(items, who, rows=2, seed=3)} for who in ("anna", "bob", "carl")]
    assert drawn[0] == drawn[1] == drawn[2] and len(drawn[0]) == 2
    assert len(items_for_annotator(items, "anna", rows=9)) == 4


def test_the_order_in_which_runs_are_named_draws_no_other_prompts(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", systems={"plus": ""})
    second = make_run(tmp_path / "second", systems={"static": ""})
    rows = (second / "rows.jsonl").read_text().splitlines()
    (second / "rows.jsonl").write_text("".join(f"{row}\n" for row in reversed(rows)))
    for seed in range(4):
        drawn = [
            items_for_annotator(read_items(runs)[0], "anna", rows=2, seed=seed)
            for runs in ([first, second], [second, first])
        ]
        assert drawn[0] == drawn[1]


def test_every_system_stands_behind_every_letter(tmp_path: Path) -> None:
    items = items_for_annotator(read_items([make_run(tmp_path / "run", 60)])[0], "anna")
    for index in range(3):
        counts = Counter(item.candidates[index].system for item in items)
        assert min(counts[name] for name in SYSTEMS) >= 10
    assert [answer_letter(index) for index in (0, 25, 26)] == ["A", "Z", "A2"]


def test_rows_without_all_answers_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    file = run / "answers" / "plus.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]) + "\n")
    items, left_out = read_items([run])
    assert left_out == 1 and [item.id for item in items] == ["row1", "row2", "row3"]


def test_runs_are_pooled_by_row(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", systems={"plus": "Update", "phase1": ""})
    second = make_run(tmp_path / "second", systems={"plus": "Update"}, first=2)
    items, _ = read_items([first, second])
    assert [len(item.candidates) for item in items] == [2, 2, 3, 3, 1, 1]
    names = {candidate.name for item in items for candidate in item.candidates}
    assert names == {"phase1", f"Update ({first}/plus)", f"Update ({second}/plus)"}
    append_rating(items[2], items[2].candidates[-1], "anna", "fluency", 4, shown="B", seed=0)
    assert len(rating_lines(second)) == 1 and not rating_lines(first)
    assert current_ratings(items, "anna") == {("row2", f"Update ({second}/plus)", "fluency"): 4}
    with pytest.raises(ValueError, match="twice"):
        read_items([first, first])
    write_rows(second / "rows.jsonl", [Row(f"row{i}", "Something else.", "x") for i in range(2, 6)])
    with pytest.raises(ValueError, match="rows.jsonl: .*'row2'.*prompt"):
        read_items([first, second])
