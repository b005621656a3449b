"""The exported data set, and a training on it."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import pytest

from prosg.cli import main
from prosg.data.row import read_rows, write_rows
from prosg.data.synthetic import make_rows
from support.training_folder import make_training_folder


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """The configuration of a build whose pairs are verified."""
    config = tmp_path / "build.yaml"
    out = tmp_path / "out"
    config.write_text(
        f"out: {out}\nendpoint: {{model: m, api_key_env: ''}}\nbudget: {{requests: 1, tokens: 1}}\n"
        "export: {licence: MIT, cluster_above: 0.9}\n"
    )
    write_rows(out / "verified.jsonl", make_rows(("names", "code", "ending"), 60, sentences=(1, 2)))
    return config


def test_decisions_apply_at_export(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["data", "build", str(build), "--stages", "export"]) == 0
    export = build.parent / "out" / "export"
    assert "names" in (export / "README.md").read_text()
    rows = read_rows(export / "train.jsonl")
    monkeypatch.setattr(sys, "stdin", StringIO("d\nk\nq\n"))
    assert main(["data", "review", str(export / "train.jsonl")]) == 0
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
    files = ["--train", str(export / "train.jsonl"), "--validation", str(export / "validation.jsonl")]
    options = ["--optim.steps", "2", "--optim.batch_size", "4", "--progress", "false"]
    tuned = tmp_path / "tuned"
    assert main(["train", "finetune", "--model", str(shop.model), "--output", str(tuned), *files, *options]) == 0
    assert (tuned / "model").is_dir()
