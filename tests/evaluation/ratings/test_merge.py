"""Means, agreement and differences over all annotators' ratings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from prosg.cli import main
from prosg.evaluation.ratings.alpha import ordinal_alpha
from prosg.evaluation.ratings.items import RatingItem, read_items
from prosg.evaluation.ratings.merge import merge_ratings
from prosg.evaluation.ratings.store import append_rating
from support.rating import make_run, rating_lines


def units_of(table: str) -> list[list[int]]:
    """Values by unit, from a table with a line per rater; a full stop stands for a missing value."""
    raters = [line.split() for line in table.strip().splitlines()]
    return [[int(value) for value in unit if value != "."] for unit in zip(*raters, strict=True)]


def test_alpha_is_the_published_one() -> None:
    # Krippendorff 2011, example C: four observers, twelve units; ordinal alpha .815.
    published = """
        1 2 3 3 2 1 4 1 2 . . .
        1 2 3 3 2 2 4 1 2 5 . 3
        . 3 3 3 2 3 4 2 2 5 1 .
        1 2 3 3 2 4 4 1 2 5 1 .
    """
    assert ordinal_alpha(units_of(published)) == pytest.approx(0.815, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert ordinal_alpha([[0, 0], [3, 3, 3], [5, 5]]) == 1
    # Two values that always differ: n = 4, each met 2 and occurs 2 times, alpha = 1 - 3 * 2 / 4.
    assert ordinal_alpha([[0, 1], [1, 0]]) == pytest.approx(-0.5)
    for undefined in ([], [[3], [4]], [[2, 2], [2, 2]]):
        assert ordinal_alpha(undefined) is None
    # Only the order counts.
    assert ordinal_alpha([[0, 1], [1, 1], [5, 5]]) == ordinal_alpha([[0, 3], [3, 3], [4, 4]])


def rate(items: Sequence[RatingItem], annotator: str, values: Mapping[str, Sequence[int]]) -> None:
    """Rates the answers of some systems, by row, on two scales."""
    for item in items:
        for candidate in item.candidates:
            if candidate.system in values:
                for scale in ("fluency", "quality"):
                    value = values[candidate.system][int(item.id[3:])]
                    append_rating(item, candidate, annotator, scale, value, shown="A", seed=0)


def test_merged_ratings(tmp_path: Path, capsys: Any) -> None:
    run = make_run(tmp_path / "run")
    items, _ = read_items([run])
    rate(items, "anna", {"phase1": [1, 2, 3, 4], "plus": [2, 3, 4, 5]})
    rate(items, "bob", {"phase1": [1, 2, 3, 4], "plus": [4, 5, 4, 5]})
    rate(items[:1], "carl", {"static": [0]})
    merged = merge_ratings([run])
    assert merged["annotators"] == ["anna", "bob", "carl"] and merged["ratings"] == 34 and merged["ignored"] == 0
    fluency = merged["scales"]["fluency"]
    assert fluency["systems"]["Phase one"] | {"interval": []} == {"mean": 2.5, "interval": [], "n": 8, "prompts": 4}
    assert fluency["systems"]["Own update"]["mean"] == 4.0 and fluency["systems"]["static"]["n"] == 1
    assert fluency["units"] == 8
    values = [[1, 1], [2, 2], [3, 3], [4, 4], [2, 4], [3, 5], [4, 4], [5, 5]]
    assert fluency["alpha"] == pytest.approx(ordinal_alpha(values))
    [difference] = fluency["differences"]
    assert (difference["ours"], difference["theirs"]) == ("Phase one", "Own update")
    assert difference["mean"] == -1.5 and difference["n"] == 8 and difference["prompts"] == 4
    assert difference["interval"][0] >= -2 and difference["interval"][1] <= -1
    assert merged["scales"]["accuracy"]["systems"] == {} and merged["scales"]["accuracy"]["alpha"] is None
    json.dumps(merged)
    assert main(["rate", str(run), "--merge"]) == 0
    out = capsys.readouterr().out
    assert "(anna, bob, carl)" in out and "34 ratings" in out
    assert re.search(r"Phase one - Own update +-1\.50 \[-2\.00, -1\.\d\d\] +- +-1\.50 .* 4\n", out)
    assert out.endswith("Of fewer than 6 prompts no difference is claimed.\n")
    assert re.search(r"Own update +4\.00 \[", out)


def test_ratings_of_rows_that_are_left_out_are_counted(tmp_path: Path, capsys: Any) -> None:
    run = make_run(tmp_path / "run")
    items, _ = read_items([run])
    rate(items, "anna", {"phase1": [1, 2, 3, 4], "plus": [2, 3, 4, 5]})
    rate(items[:1], "anna", {"plus": [0]})  # said anew: one rating
    (run / "answers" / "late.jsonl").write_text('{"id": "row3", "text": "the only one so far"}\n')
    merged = merge_ratings([run])
    assert merged["left_out"] == 3 and merged["ratings"] == 4 and merged["ignored"] == 12
    assert main(["rate", str(run), "--merge"]) == 0
    head = capsys.readouterr().out.splitlines()[:2]
    assert head[0].startswith("1 annotator (anna), 4 ratings; 12 more do not count")
    assert head[1] == "left out: 3 rows to which a system has no answer"
    (run / "answers" / "late.jsonl").write_text('{"id": "row0", "text": "another"}\n')
    (run / "ratings" / "anna.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rating_lines(run)[4:]))
    (run / "answers" / "plus.jsonl").write_text('{"id": "row0", "text": "changed"}\n')
    (run / "answers" / "phase1.jsonl").write_text('{"id": "row0", "text": "changed"}\n')
    with pytest.raises(ValueError, match="has no rating that counts"):
        merge_ratings([run])
