"""The model that comes with the package: its scores are the recorded ones, and it answers at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prosg.checkpoints.load import demo_model
from prosg.cli import main

TOLERANCE = 0.03
ROWS = 12
"""The record is over more; scores near 0 and 1 are told by these."""
RECORDED = json.loads((demo_model().parent / "scores.json").read_text("utf-8"))


def measured(out: Path) -> dict[tuple[str, str, int], float]:
    sentences = sorted({str(row["sentences"]) for row in RECORDED["rows"]}, key=int)
    options = ["--rows", str(ROWS), "--seed", str(RECORDED["seed"]), "--sentences", *sentences]
    options += ["--memory", "update", "--updates", "own,other,wiped,none", "--no-free", "--out", str(out)]
    assert main(["curve", "demo", *options]) == 0
    rows = [row for row in json.loads(out.read_text())["rows"] if row["kind"] == "all" and row["measure"] == "curve"]
    return {(row["update"], row["state"], row["sentences"]): row["late_accuracy"] for row in rows}


def test_scores_are_the_recorded_ones(tmp_path: Path) -> None:
    found = measured(tmp_path / "curve.json")
    for row in RECORDED["rows"]:
        where = (row["update"], row["state"], row["sentences"])
        assert found[where] == pytest.approx(row["late_accuracy"], abs=TOLERANCE), where


def test_the_record_shows_memory_in_the_update_and_forgetting_without():
    late = {(row["update"], row["state"], row["sentences"]): row["late_accuracy"] for row in RECORDED["rows"]}
    far = max(sentences for _, _, sentences in late)
    assert late["own", "kept", far] > 0.9
    assert late["own", "wiped", far] > 0.9
    assert late["other", "kept", far] < 0.05
    assert late["none", "kept", far] < 0.05


def test_generating_imports_neither_transformers_nor_a_trainer():
    program = (
        "import sys; from prosg.cli import main; "
        "status = main(['generate', 'demo', '--prompt', 'Remember the code 4821937. Now repeat the code.']); "
        "assert status == 0; assert not {'transformers', 'accelerate', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4821937" in done.stdout
