"""The model that comes with the package: its scores are the recorded ones, and it answers at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from prosg.checkpoints.load import demo_model
from prosg.cli import main

TOLERANCE = 0.03
ROWS = 48
"""The record is over more; scores near 0 and 1 are told by these."""
RECORDED = json.loads((demo_model().parent / "scores.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], float]:
    out = tmp_path_factory.mktemp("packaged") / "curve.json"
    sentences = sorted({str(row["sentences"]) for row in RECORDED["rows"]}, key=int)
    options = ["--rows", str(ROWS), "--seed", str(RECORDED["seed"]), "--sentences", *sentences]
    assert main(["curve", "demo", "--updates", "own,other,wiped,none", *options, "--no-free", "--out", str(out)]) == 0
    rows = [row for row in json.loads(out.read_text())["rows"] if row["kind"] == "all" and row["measure"] == "curve"]
    return {(row["update"], row["state"], row["sentences"]): row["late_accuracy"] for row in rows}


@pytest.mark.parametrize("row", RECORDED["rows"], ids=lambda r: f"{r['update']}-{r['state']}-{r['sentences']}")
def test_scores_are_the_recorded_ones(measured, row):
    assert measured[row["update"], row["state"], row["sentences"]] == pytest.approx(row["late_accuracy"], abs=TOLERANCE)


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
