"""The tables of the experiments beyond the demo, from curves as `prosg curve` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curves import curves_of, differences_of, table_of


def write_curve(
    folder: Path, system: str, update: str, late: dict[int, list[bool]], seed: int, state: str = "kept"
) -> None:
    """late: by the number of items, of each prompt."""
    rows: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for items, right in late.items():
        at = {"system": system, "update": update, "state": state, "seed": seed, "items": items, "sentences": 60}
        share = sum(right) / len(right)
        rows.append(at | {"kind": "all", "distance_tokens": 540 + items, "prompt_tokens": 20, "late_accuracy": share})
        rows.append(at | {"kind": "code", "distance_tokens": 0, "prompt_tokens": 0, "late_accuracy": 0.5})
        answers += [at | {"id": str(number), "late": value} for number, value in enumerate(right)]
    path = folder / "curves" / f"{system}-{update}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows, "answers": answers}))


def test_seeds_stand_side_by_side_and_differences_are_paired(tmp_path: Path) -> None:
    folders = [tmp_path / "seed-1", tmp_path / "seed-2"]
    for seed, folder in enumerate(folders, 1):
        write_curve(folder, "phase1", "none", {4: [True, False], 16: [False, False]}, seed)
        write_curve(folder, "plus", "own", {4: [True, True], 16: [seed == 1, True]}, seed)
        write_curve(folder, "phase1_perturbed", "none", {4: [True, True], 16: [True, True]}, seed)
    curves = curves_of(folders)
    heads = ["4 items, 544 tokens on", "16 items, 556 tokens on"]
    assert table_of(curves) == [
        ["late stage right, seed 1, 2", *heads],
        ["phase 1", ".50 (.50/.50)", "0 (0/0)"],
        ["plus, own update", "1.0 (1.0/1.0)", ".75 (1.0/.50)"],
        ["phase 1 continued, perturbed", "1.0 (1.0/1.0)", "1.0 (1.0/1.0)"],
    ]
    head, *lines = differences_of(curves)
    assert head == ["plus, own update, minus", *heads]
    assert [line[0] for line in lines] == [
        f"{name}, seed {seed}" for name in ("phase 1", "phase 1 continued, perturbed") for seed in (1, 2)
    ]
    assert lines[0][2] == "+1.00 [+1.00, +1.00]"
    assert lines[3][1:] == ["+0.00 [+0.00, +0.00]", "-0.50 [-1.00, +0.00]"]


def test_curves_on_other_prompts_are_not_compared(tmp_path: Path) -> None:
    write_curve(tmp_path, "phase1", "none", {4: [True]}, 1)
    write_curve(tmp_path, "plus", "own", {4: [True, True]}, 1)
    write_curve(tmp_path, "phase1_perturbed", "none", {4: [True, True]}, 1)
    with pytest.raises(AssertionError, match="the same prompts"):
        differences_of(curves_of([tmp_path]))
