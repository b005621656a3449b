"""Ablations: what each part changes, and the whole way from a configuration to the report on a tiny model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from prosg.cli import main
from prosg.demo.ablation import BACKBONE, FULL, PARTS, variants
from prosg.training.config import Perturbation, TrainConfig
from prosg.training.recipes import RECIPES
from prosg.utils.jobs import check_plan
from support.evaluations import jobs_run_here
from support.training_folder import TrainingFolder, make_training_folder

SEED = TrainConfig("", "-", "").seed


def config(recipe: str = "plus", **changes: Any) -> TrainConfig:
    chosen = RECIPES[recipe]
    values = {"recipe": recipe, "module": chosen.module, "perturbation": chosen.perturbation, "optim": chosen.optim}
    return TrainConfig(model="m", train="t", out="out", **(values | changes))


def difference(one: Any, two: Any) -> dict[str, Any]:
    """The options that differ, by dotted name, as they are in the first."""
    found = {}
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if dataclasses.is_dataclass(a):
            found |= {f"{field.name}.{name}": value for name, value in difference(a, b).items()}
        elif a != b:
            found[field.name] = a
    return found


def test_each_part_changes_what_it_names_and_nothing_else() -> None:
    full = config(perturbation=dataclasses.replace(RECIPES["plus"].perturbation, swap=0.3))
    found = variants(full)
    expected: dict[str, dict[str, Any]] = {
        FULL: {},
        "no-state-embedding": {"module.state_embedding": False},
        "no-stack": {"module.blocks": 0},
        "rank-1": {"module.rank": 1},
        "rank-2": {"module.rank": 2},
        "rank-3": {"module.rank": 3},
        "static-b": {"module.synthesize": "a"},
        "last-token": {"module.reads": "last_position"},
        "no-memory-tap": {"module.memory_tap": False},
        "no-log-length": {"module.log_length": False},
        "no-final-norm": {"module.final_norm": False},
        "no-wipe": {"perturbation.wipe_first": 0.0, "perturbation.wipe_last": 0.0},
        "no-load": {"perturbation.load": 0.0, "perturbation.load_story": 0.0},
        "no-swap": {"perturbation.swap": 0.0},
    }  # rank-8 and no-age change nothing of it
    assert {name: difference(one, full) for name, one in found.items()} == {
        name: changes | {"out": str(Path("out") / name)} for name, changes in expected.items()
    }
    assert {"rank-8", "no-age"} < set(PARTS)


def test_what_a_configuration_does_not_have_is_not_left_out() -> None:
    paper = variants(config("paper"))
    assert list(paper) == [FULL, "no-state-embedding", "no-stack", "rank-2", "rank-3", "rank-8"]
    aged = variants(config(perturbation=Perturbation(age=0.4)), ["no-age", "no-load"])
    assert list(aged) == [FULL, "no-age"]
    with pytest.raises(ValueError, match="--parts.*no-head.*no-state-emb"):
        variants(config(), ["no-head"])


# -- the command


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    return make_training_folder(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return jobs_run_here(monkeypatch, "prosg.demo.ablation")


def command(shop: TrainingFolder, out: Path, *options: str) -> list[str]:
    few = ["--optim.steps", "2", "--optim.batch-size", "4", "--rows", "2", "--sentences", "1,2", "--kinds", "code"]
    files = ["--model", str(shop.model), "--train", str(shop.train), "--validation", str(shop.validation)]
    return ["ablate", *files, "--out", str(out), *few, "--plain", *options]


def test_from_a_configuration_to_a_table_and_on(
    shop: TrainingFolder, tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command(shop, out, "--parts", "last-token,no-swap")) == 0
    names = [FULL, "last-token"]
    assert ran[:2] == names
    assert "no-swap" in capsys.readouterr().err
    found = json.loads((out / "evaluation" / "results.json").read_text())["rows"]
    cells = {(row["system"], row["update"], row["state"]) for row in found if row["measure"] == "curve"}
    three = (("own update", "own", "kept"), ("another prompt's", "other", "kept"), ("own, state wiped", "own", "wiped"))
    assert cells == {(BACKBONE, "none", "kept")} | {
        (f"{name}, {label}", *which) for name in names for label, *which in three
    }
    assert (out / "evaluation" / "forgetting.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "evaluation" / "report.md").read_text()
    assert all(f"| {name}" in report for name in (BACKBONE, *names))
    trained = json.loads((out / "last-token" / "config.json").read_text())
    assert trained["module"]["reads"] == "last_position"
    assert trained == json.loads((out / FULL / "config.json").read_text()) | {
        "module": trained["module"],
        "out": str(out / "last-token"),
    }
    assert yaml.safe_load((out / "last-token.yaml").read_text())["module"]["reads"] == "last_position"

    ran.clear()
    (out / "evaluation" / "parts" / f"last-token-own-{SEED}" / "curve.json").unlink()
    alone = tmp_path / "alone.yaml"
    alone.write_text("recipe: plus\n")
    again = command(shop, out, "--parts", "last-token")
    assert main([*again, "--config", str(alone)]) == 0
    assert len(ran) == 1  # nothing is trained again, and one part measured
    assert main(command(shop, out, "--seed", "3")) == 2
    told = capsys.readouterr().err
    assert "another plan" in told
    assert "seed" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--parts", "no-head"], ["--parts", "no-head", "no-state-embedding, no-stack"]),
        (["--train", "nothing.jsonl"], ["nothing.jsonl", "--train"]),
        (["--config", "nothing.yaml"], ["nothing.yaml"]),
        (["--model", "nowhere"], ["nowhere", "--model"]),
        (["--model", "demo"], ["demo", "adapter"]),
        (["--rows", "-1"], ["--rows is -1", "at least 1"]),
        (["--rows", "1"], ["--rows 1", "two rows of each kind"]),
        (["--split", "tset"], ["--split", "tset", "train, validation, test"]),
        (["--kinds", "nonsense"], ["--kinds", "nonsense"]),
        (["--kinds", "code,code"], ["--kinds is code,code", "each kind once"]),
        (["--kinds", "code,rule"], ["--kinds has rule", "restate"]),
        (["--sentences", "5,2"], ["--sentences is 5,2", "rising"]),
        (["--jobs", "0"], ["--jobs is 0", "at least 1"]),
        (["--recipe", "static"], ["recipe", "static", "paper, paper-perturbed, plus"]),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_begins(
    shop: TrainingFolder, tmp_path: Path, options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(shop, tmp_path / "out", *options)) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said_of_this_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--rows", "2"]) == 2
    assert "error: prosg ablate: the following options are required: --model" in capsys.readouterr().err


def test_an_ablation_does_not_go_on_from_other_rows(
    shop: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prosg.demo.ablation.run_jobs", stopped)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(shop.train.read_bytes())
    ablation = command(shop, tmp_path / "out", "--train", str(rows))
    assert main(ablation) == main(ablation) == 130
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[1:]))
    assert main(ablation) == 2
    assert "training rows" in capsys.readouterr().err


def test_a_folder_keeps_its_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    check_plan(path, {"rows": 3, "kinds": ("a", "b")}, "--out")
    check_plan(path, {"rows": 3, "kinds": ["a", "b"]}, "--out")
    with pytest.raises(ValueError, match="rows 3, now 4.*--out"):
        check_plan(path, {"rows": 4, "kinds": ["a", "b"]}, "--out")
    assert json.loads(path.read_text())["rows"] == 3
