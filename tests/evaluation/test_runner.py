"""Evaluations that are killed, changed and run again: nothing is lost, and nothing is measured twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prosg.cli import main
from prosg.data.row import write_rows
from prosg.data.synthetic import make_rows
from prosg.evaluation.systems.local import LocalSystem
from support.evaluations import DEMO_BASE, answers, part, results, run_here, write_config

TWO = {"base": {"model": DEMO_BASE}, "plus": {"model": "demo"}}
QUICK = ["accuracy", "perplexity", "curve"]


def stored(out: Path) -> tuple[int, int]:
    """Answers in the cache, and how many were ever put there: a row that is put again gets a new number."""
    if not (out / "cache.sqlite").exists():
        return 0, 0
    connection = sqlite3.connect(out / "cache.sqlite", timeout=60)
    try:
        count, last = connection.execute("SELECT count(*), max(rowid) FROM answers").fetchone()
        return count, last or 0
    except sqlite3.OperationalError:  # not begun
        return 0, 0
    finally:
        connection.close()


def report(out: Path) -> tuple[Any, str]:
    """results.json without its folder, and report.md without times."""
    found = json.loads((out / "results.json").read_text())
    found["config"].pop("out")
    return found, (out / "report.md").read_text().partition("## How this was made")[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        assert main(["eval", write_config(folder, TWO, measures=QUICK)]) == 0
    return folder


def test_a_run_leaves_all_that_it_promises(whole: Path) -> None:
    out = whole / "out"
    for name in ("report.html", "report.md", "results.json", "config.json", "rows.jsonl", "systems.json", "about.json"):
        assert (out / name).is_file()
    assert not [*out.rglob("*.tmp"), *out.rglob(".*.tmp"), *out.rglob("progress.json")]
    assert len(answers(out, "base")) == len(answers(out, "plus")) == 4
    assert stored(out) == (8, 8)
    (row,) = results(out, system="plus", measure="free")
    assert row["n"] == 4 and row["perplexity"] > 1 and row["backbone"] == "rwkv4"
    assert len(results(out, measure="curve", kind="all")) == 2 * 2
    assert "prosg eval" not in json.loads((out / "about.json").read_text())["machine"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_moment_it_goes_on(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that runs the whole evaluation is killed several times, each time a little later, then left alone."""
    file = write_config(tmp_path, TWO, measures=QUICK)
    out, draw, counts = tmp_path / "out", random.Random(0), list[int]()
    for _ in range(6):
        child = os.fork()
        if child == 0:  # what is loaded is loaded: a start of Python takes longer than all that is measured here
            status = 1
            try:
                run_here(monkeypatch)
                with open(os.devnull, "w") as nothing:
                    os.dup2(nothing.fileno(), 1)
                    os.dup2(nothing.fileno(), 2)
                status = main(["eval", file, "--plain"])
            finally:
                os._exit(status)
        before, wanted = stored(out)[0], draw.randint(0, 2)
        end = time.monotonic() + 120
        # Until something more is kept, then a moment: in a batch, in a part, in the report.
        while stored(out)[0] < min(before + wanted, 8) and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.3)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        counts.append(stored(out)[0])
        assert counts == sorted(counts) and stored(out)[1] == counts[-1]
    run_here(monkeypatch)
    assert main(["eval", file]) == 0
    assert stored(out) == (8, 8)
    assert report(out) == report(whole / "out")
    assert answers(out, "plus") == answers(whole / "out", "plus")


def test_killed_with_all_its_processes_it_goes_on(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = write_config(tmp_path, TWO, measures=QUICK), tmp_path / "out"
    command = [sys.executable, "-m", "prosg", "eval", file, "--plain", "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not stored(out)[0] and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    count = stored(out)[0]
    assert count in range(2, 9, 2)  # whole batches
    for _ in range(500):  # until the last of them has ended
        if subprocess.run(["pgrep", "-g", str(process.pid)], stdout=subprocess.DEVNULL).returncode:
            break
        time.sleep(0.01)
    run_here(monkeypatch)
    assert main(["eval", file]) == 0
    assert stored(out) == (8, 8)
    assert report(out) == report(whole / "out")


# -- changes


@pytest.fixture
def again(whole: Path, tmp_path: Path) -> Path:
    """A copy of the whole one, to change."""
    shutil.copytree(whole / "out", tmp_path / "out")
    return tmp_path


def times(out: Path) -> dict[str, int]:
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in out.glob("parts/*/*.json")}


def changed(out: Path, before: dict[str, int]) -> set[str]:
    return {name.removeprefix("parts/") for name, at in times(out).items() if before.get(name) != at}


def test_what_is_there_is_not_measured_again(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = run_here(monkeypatch)
    before = times(again / "out")
    assert main(["eval", write_config(again, TWO, measures=QUICK)]) == 0
    assert measured == [] and not changed(again / "out", before)
    # Labels and seeds are words: the report has them, and nothing is measured.
    named = {"base": {"model": DEMO_BASE, "label": "phase 1"}, "plus": {"model": "demo", "seed": 7}}
    assert main(["eval", write_config(again, named, measures=QUICK, title="Named")]) == 0
    assert measured == [] and not changed(again / "out", before)
    assert results(again / "out", system="phase 1", measure="free") and results(again / "out", seed=7)
    assert (again / "out" / "report.md").read_text().startswith("# Named\n")


def test_a_changed_system_alone_is_measured_again(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, out = run_here(monkeypatch), again / "out"
    before = times(out)
    wiped = {**TWO, "plus": {"model": "demo", "state": "wiped"}}
    assert main(["eval", write_config(again, wiped, measures=QUICK)]) == 0
    assert measured == ["plus"]
    assert changed(out, before) == {f"plus/{measure}.json" for measure in QUICK}
    assert stored(out) == (12, 12)
    # Back again: the answers are kept.
    assert main(["eval", write_config(again, TWO, measures=QUICK)]) == 0
    assert measured == ["plus", "plus"] and stored(out) == (12, 12)


def test_a_system_and_a_measure_more(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, out = run_here(monkeypatch), again / "out"
    before = times(out)
    three = {**TWO, "other": {"model": "demo", "update": "other"}}
    assert main(["eval", write_config(again, three, measures=["accuracy"], data={"rows": 6})]) == 0
    # More rows: the first four answers of each system are kept, another's are new.
    assert measured == ["base", "plus", "other"] and stored(out) == (8 + 2 + 2 + 6, 18)
    before = times(out)
    measured.clear()
    assert main(["eval", write_config(again, three, measures=["accuracy", "overhead"], data={"rows": 6})]) == 0
    assert measured == ["base", "plus", "other"]
    assert changed(out, before) == {f"{name}/overhead.json" for name in three}


def test_two_evaluations_share_a_cache(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    shared = tmp_path / "shared.sqlite"
    shutil.copy(whole / "out" / "cache.sqlite", shared)
    file = write_config(tmp_path, TWO, measures=["accuracy"], cache=str(shared), batch_size=3)
    assert main(["eval", file]) == 0
    assert answers(tmp_path / "out", "plus") == answers(whole / "out", "plus")
    connection = sqlite3.connect(shared)
    assert connection.execute("SELECT count(*), max(rowid) FROM answers").fetchone() == (8, 8)
    connection.close()
    assert not (tmp_path / "out" / "cache.sqlite").exists()


def test_a_part_of_other_options_is_no_result(again: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A change, then a failure: the report does not pass what is left of before for what is asked now."""
    measured, out = run_here(monkeypatch), again / "out"
    broken = {**TWO, "plus": {"model": str(again / "nowhere")}}
    assert main(["eval", write_config(again, broken, measures=QUICK)]) == 1
    assert measured == ["plus"]
    told = capsys.readouterr().err
    assert "nowhere: no such file or folder" in told
    assert all(f"plus: {measure}" in told for measure in QUICK)
    assert results(out, system="base", measure="free") and not results(out, system="plus")
    said = (out / "report.md").read_text()
    assert "Not whole" in said
    assert all(f"plus: {measure}" in said for measure in QUICK)
    assert main(["report", str(out)]) == 1
    # Mended, it goes on, with what was kept.
    assert main(["eval", write_config(again, TWO, measures=QUICK)]) == 0
    assert "Not whole" not in (out / "report.md").read_text()


def test_a_system_that_fails_first_does_not_stop_the_others(tmp_path: Path, capsys: Any) -> None:
    """In processes of their own."""
    systems = {"bad": str(tmp_path / "nowhere"), "base": {"model": DEMO_BASE}}
    file = write_config(tmp_path, systems, measures=["perplexity"])
    assert main(["eval", file, "--plain", "--jobs", "2"]) == 1
    told = capsys.readouterr().err
    assert "bad failed; the end of" in told and "nowhere: no such file or folder" in told
    assert results(tmp_path / "out", system="base")[0]["perplexity"] > 1
    assert "Not whole: bad: perplexity are missing" in (tmp_path / "out" / "report.md").read_text()


def test_an_evaluation_of_the_same_folder_waits(again: Path, capsys: Any) -> None:
    from prosg.utils.locks import locked

    with locked(again / "out"):
        assert main(["eval", write_config(again, TWO, measures=QUICK)]) == 2
    assert "another command is at work there" in capsys.readouterr().err


def test_the_folder_of_another_command_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch)
    file = write_config(tmp_path, {"base": {"model": DEMO_BASE}}, measures=["perplexity"])
    (tmp_path / "out").mkdir()
    for name, content in (("config.json", '{"model": "start", "out": "run"}'), ("plan.json", "{}"), ("rows.jsonl", "")):
        (tmp_path / "out" / name).write_text(content)
        assert main(["eval", file]) == 2
        assert f"holds {name}" in capsys.readouterr().err
        assert (tmp_path / "out" / name).read_text() == content
        (tmp_path / "out" / name).unlink()
    for _ in range(2):
        assert main(["eval", file]) == 0


def test_rows_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    rows = make_rows(["names"], 5, 0, "test", sentences=(1, 1))
    write_rows(tmp_path / "rows.jsonl", rows)
    data = {"file": str(tmp_path / "rows.jsonl"), "rows": 3}
    file = write_config(tmp_path, {"plus": "demo"}, measures=["accuracy", "perplexity"], data=data)
    assert main(["eval", file]) == 0
    assert list(answers(tmp_path / "out", "plus")) == [row.id for row in rows[:3]]
    assert list(part(tmp_path / "out", "plus", "perplexity")) == [row.id for row in rows[:3]]
    # The folder on the command line takes the place of the file's.
    assert main(["eval", file, "--out", str(tmp_path / "there")]) == 0
    assert json.loads((tmp_path / "there" / "config.json").read_text())["out"] == str(tmp_path / "there")
    assert yaml.safe_load(Path(file).read_text())["out"] == str(tmp_path / "out")


def test_a_model_that_has_changed_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its weights lie in the output folder of a training."""
    measured = run_here(monkeypatch)
    shutil.copytree(DEMO_BASE, tmp_path / "trained" / "model")
    (tmp_path / "trained" / "result.json").write_text("{}")
    file = write_config(tmp_path, {"base": str(tmp_path / "trained")}, measures=["perplexity"])
    assert main(["eval", file]) == 0 and main(["eval", file]) == 0
    assert measured == ["base"]
    before = results(tmp_path / "out", system="base")[0]["perplexity"]
    weights = tmp_path / "trained" / "model" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    save_file({name: torch.zeros_like(t) if name == "head.weight" else t for name, t in tensors.items()}, weights)
    assert main(["eval", file]) == 0
    assert measured == ["base", "base"]
    assert results(tmp_path / "out", system="base")[0]["perplexity"] > before


def test_systems_with_other_special_tokens_do_not_share_a_model() -> None:
    from prosg.evaluation.config import EvalConfig, SystemConfig
    from prosg.evaluation.runner import _Models

    models = _Models(EvalConfig(device="cpu"))
    plain = models.open(SystemConfig(model="demo")).special
    assert models.open(SystemConfig(model="demo", end_token=[7], begin_token="5")).special == ((7,), 5)
    assert models.open(SystemConfig(model="demo")).special == plain == ((0,), None)


def test_rows_of_the_mean_update_are_answered_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as what it changes, it would not fit for all rows of a large model; the answers are the same."""
    run_here(monkeypatch)
    encoded = LocalSystem.encode
    sizes: dict[str, list[int]] = {"all": [], "few": []}
    for name, most in (("all", 1 << 40), ("few", 1)):
        (tmp_path / name).mkdir()
        file = write_config(tmp_path / name, {"mean": {"model": "demo", "update": "mean"}}, batch_size=4)

        def noted(self: LocalSystem, indices: Any, name: str = name) -> Any:
            sizes[name].append(len(indices))
            return encoded(self, indices)

        monkeypatch.setattr(LocalSystem, "encode", noted)
        monkeypatch.setattr("prosg.evaluation.systems.local.MEAN_BYTES", most)
        assert main(["eval", file]) == 0
    assert set(sizes["few"]) == {1} and max(sizes["all"]) > 1
    both = [{key: one["text"] for key, one in answers(tmp_path / name / "out", "mean").items()} for name in sizes]
    assert both[0] == both[1] and len(both[0]) == 4
    late = [results(tmp_path / name / "out", measure="curve", kind="all") for name in sizes]
    assert late[0] and late[0] == late[1]
