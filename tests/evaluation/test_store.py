"""What an evaluation's folder keeps: known by content, and noticed where it is not what was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from prosg.checkpoints.load import demo_model
from prosg.cli import main
from prosg.data.row import write_rows
from prosg.data.synthetic import make_rows
from prosg.evaluation.config_file import load_config
from prosg.evaluation.run_folder import read_run
from prosg.evaluation.settings import hash_rows, kept_hashes, settings_of
from prosg.evaluation.store import read_results
from prosg.utils.contents import record_contents
from support.evaluations import NO_CODE, RIGHT, code_row, finished, part, results, run_here, write_config

ROWS = [code_row(number) for number in range(1, 7)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three of six answers of a system are right, the first two among them."""
    texts = {"plus": [RIGHT, RIGHT, NO_CODE, RIGHT, NO_CODE, NO_CODE]}
    return finished(tmp_path / "run", ROWS, {"plus": {"model": "demo"}}, texts).folder


def cut(file: Path, lines: int) -> None:
    file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[:lines]), "utf-8")


def test_answers_that_were_cut_are_no_result(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(read_results(run).systems[0].answers) == 6
    cut(run / "answers" / "plus.jsonl", 2)
    found = read_results(run)
    assert not found.systems[0].answers and len(found.missing) == 1 and "plus.jsonl" in found.missing[0]
    assert main(["report", str(run)]) == 1
    said = capsys.readouterr().err
    assert "plus: accuracy" in said and "Not whole: plus: accuracy" in (run / "report.md").read_text()
    with pytest.raises(ValueError, match=r"plus\.jsonl: is not what was written"):
        read_run(run)


def test_answers_of_an_older_version_are_counted(run: Path) -> None:
    file = run / "parts" / "plus" / "accuracy.json"
    file.write_text(
        json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k not in ("answers", "sha256")})
    )
    assert not read_results(run).missing
    cut(run / "answers" / "plus.jsonl", 5)
    assert read_results(run).missing


def test_a_part_that_was_cut_is_no_result(tmp_path: Path) -> None:
    scores = {row.id: {"nll": 1.0, "tokens": 2, "late_nll": 1.0, "late_tokens": 1, "exact": True} for row in ROWS}
    parts = {"plus": {"perplexity": scores}}
    folder = finished(tmp_path / "run", ROWS, {"plus": {"model": "demo"}}, {}, parts).folder
    file = folder / "parts" / "plus" / "perplexity.json"
    content = json.loads(file.read_text())
    content["result"].pop("row-1")
    file.write_text(json.dumps(content))
    (missing,) = read_results(folder).missing
    assert "plus: perplexity" in missing and "perplexity.json" in missing


def test_rows_that_were_cut_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(run / "rows.jsonl", 2)
    assert main(["report", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "rows.jsonl" in said


def test_a_system_that_one_file_lacks_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "systems.json").write_text("{}")
    assert main(["report", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "systems.json" in said


@pytest.mark.parametrize("change", [lambda file: cut(file, 1), Path.unlink], ids=["cut", "lost"])
def test_verdicts_that_were_cut_are_named(
    run: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None]
) -> None:
    file = run / "judge" / "plus.jsonl"
    file.parent.mkdir()
    file.write_text(
        "".join(json.dumps({"id": row.id, "answer": "", "result": "pass", "stages": []}) + "\n" for row in ROWS)
    )
    record_contents(run / "judge")
    assert main(["report", str(run)]) == 0
    change(file)
    capsys.readouterr()
    assert main(["report", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "plus.jsonl" in said and "judge" in said


def test_what_was_damaged_is_made_again_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = run_here(monkeypatch)
    file = write_config(tmp_path, {"plus": "demo"}, measures=["accuracy", "perplexity"])
    out = tmp_path / "out"
    assert main(["eval", file]) == 0
    names = ("results.json", "rows.jsonl", "answers/plus.jsonl")
    before = {name: (out / name).read_bytes() for name in names}
    for damaged in ("answers/plus.jsonl", "rows.jsonl"):
        cut(out / damaged, 1)
        assert main(["eval", file]) == 0
        assert {name: (out / name).read_bytes() for name in names} == before
    assert measured == ["plus"] * 2  # rows are written by every call
    assert main(["eval", file]) == 0 and measured == ["plus"] * 2


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The packaged adapter and its base, to be changed."""
    shutil.copytree(demo_model().parent, tmp_path / "models")
    return tmp_path / "models"


def test_a_changed_base_of_an_adapter_is_noticed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch)
    file = write_config(tmp_path, {"plus": str(models / "plus")}, measures=["perplexity"])
    assert main(["eval", file]) == 0
    weights = models / "base" / "model.safetensors"
    times = weights.stat()
    tensors = load_file(weights)
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
    tensors[name][1::2] = 0.0
    save_file(tensors, weights, metadata={"format": "pt"})
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    capsys.readouterr()
    assert main(["eval", file]) == 1
    assert "another backbone" in capsys.readouterr().err
    assert not results(tmp_path / "out", system="plus")


def test_models_that_only_lie_elsewhere_are_not_measured_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = run_here(monkeypatch)
    assert main(["eval", write_config(tmp_path, {"plus": str(models / "plus")}, measures=["perplexity"])]) == 0
    models.rename(tmp_path / "elsewhere")
    (tmp_path / "out").rename(tmp_path / "renamed")
    os.utime(tmp_path / "elsewhere" / "base" / "model.safetensors")
    file = write_config(tmp_path, {"plus": str(tmp_path / "elsewhere" / "plus")}, measures=["perplexity"])
    assert main(["eval", file, "--out", str(tmp_path / "renamed")]) == 0
    assert measured == ["plus"]


def test_one_model_has_one_fingerprint_wherever_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch)
    base = str(demo_model().parent / "base")
    assert main(["eval", write_config(tmp_path, {"plus": "demo", "base": base}, measures=["perplexity"])]) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    for name, model in (("plus", "demo"), ("base", base)):
        capsys.readouterr()
        assert main(["info", model]) == 0
        (printed,) = [
            line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("fingerprint")
        ]
        stored = json.loads((tmp_path / "out" / "parts" / name / "perplexity.json").read_text())["fingerprint"]
        assert printed == stored and f"| {printed} |" in report
    assert part(tmp_path / "out", "plus", "perplexity") != part(tmp_path / "out", "base", "perplexity")


def test_parts_that_were_stored_before_an_option_was_there_are_good(models: Path, tmp_path: Path) -> None:
    def settings(curve: dict[str, Any]) -> dict[str, Any]:
        file = write_config(tmp_path, {"plus": {"model": str(models / "plus")}}, measures=["curve"], curve=curve)
        config = load_config(file)
        return settings_of(config, "plus", "curve", hash_rows(ROWS), kept_hashes(config))

    assert "tokens_per_sentence" not in settings({"rows": 4})["curve"]
    assert settings({"rows": 4, "tokens_per_sentence": 30})["curve"]["tokens_per_sentence"] == 30


@pytest.mark.parametrize("named", ["data.train", "curve.filler", "tokenizer"])
def test_files_of_other_options_stand_by_their_content(models: Path, tmp_path: Path, named: str) -> None:
    rows = tmp_path / "file"
    system: dict[str, Any] = {"model": str(models / "plus")}
    if named == "tokenizer":
        rows = models / "base" / "tokenizer.json"
    else:
        write_rows(rows, make_rows(["code"], 4, 0, "train"))
    options = {"data": {"train": str(rows)}} if named == "data.train" else {}
    options |= {"curve": {"filler": str(rows)}} if named == "curve.filler" else {}
    config = load_config(write_config(tmp_path, {"plus": system}, measures=["curve"], **options))

    def settings() -> dict[str, Any]:
        return settings_of(config, "plus", "curve", hash_rows(ROWS), kept_hashes(config))

    before = settings()
    os.utime(rows, ns=(1, 1))
    assert settings() == before
    rows.write_text(rows.read_text("utf-8") + "\n", "utf-8")
    assert settings() != before
