"""Ablations: what each part changes, and the whole way from a configuration to the report on a tiny model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from prosg.evaluation.ablation import BACKBONE, FULL, write_ablation

from prosg.cli import main
from prosg.demo.ablation import PARTS, variants
from prosg.training.config import Perturbation, TrainConfig
from prosg.training.recipes import RECIPES
from prosg.utils.jobs import Job, check_plan
from support.training_folder import TrainingFolder, make_training_folder


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
        "last-token": {"module.positions": "last"},
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
    with pytest.raises(ValueError, match="--parts has no-head; allowed: no-state-emb"):
        variants(config(), ["no-head"])


# -- the command


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    return make_training_folder(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Jobs run here, one after the other, instead of in processes; names of those that were not done."""
    names: list[str] = []

    def run_jobs(jobs: Sequence[Job], width: int, live: bool) -> None:
        for job in jobs:
            if not job.done.exists():
                names.append(job.name)
                assert main(job.command) == 0
                assert job.done.exists()

    monkeypatch.setattr("prosg.demo.ablation.run_jobs", run_jobs)
    return names


def command(shop: TrainingFolder, out: Path, *options: str) -> list[str]:
    few = ["--optim.steps", "2", "--optim.batch_size", "4", "--rows", "4", "--sentences", "1", "--kinds", "code"]
    files = ["--model", str(shop.model), "--train", str(shop.train), "--validation", str(shop.validation)]
    return ["ablate", *files, "--output", str(out), *few, "--plain", *options]


def test_from_a_configuration_to_a_table_and_on(
    shop: TrainingFolder, tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command(shop, out, "--parts", "last-token,no-swap")) == 0
    names = [FULL, "last-token"]
    assert ran == ["measure backbone", *(job for name in names for job in (name, f"measure {name}"))]
    told = capsys.readouterr()
    assert "no-swap: nothing that this configuration has" in told.err
    assert all(f"\n{name} " in told.out for name in (BACKBONE, *names))
    rows = json.loads((out / "ablation.json").read_text())["rows"]
    cells = {(row["part"], row["update"], row["state"]) for row in rows}
    three = (("own", "kept"), ("other", "kept"), ("own", "wiped"))
    assert cells == {(BACKBONE, "none", "kept")} | {(name, *which) for name in names for which in three}
    assert {row["steps"] for row in rows} == {0, 2}
    sizes = {row["part"]: row["parameters"] for row in rows}
    assert sizes[BACKBONE] == 0 < sizes["last-token"] < sizes[FULL]
    assert (out / "ablation.md").read_text().count("\n| ") == 5
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    trained = json.loads((out / "last-token" / "config.json").read_text())
    assert trained["module"]["positions"] == "last"
    assert trained == json.loads((out / FULL / "config.json").read_text()) | {
        "module": trained["module"],
        "out": str(out / "last-token"),
    }
    assert yaml.safe_load((out / "last-token.yaml").read_text())["module"]["positions"] == "last"

    ran.clear()
    (out / "curves" / "last-token.json").unlink()
    alone = tmp_path / "alone.yaml"  # a configuration needs no option's name
    alone.write_text("recipe: plus\n")
    again = command(shop, out, "--parts", "last-token")
    assert main([again[0], str(alone), *again[1:]]) == 0
    assert ran == ["measure last-token"]
    assert main(command(shop, out, "--seed", "3")) == 2
    assert "was begun with another plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parts", "no-head"], "--parts has no-head; allowed: no-state-embedding, no-stack"),
        (["--train", "nothing.jsonl"], "nothing.jsonl: no such file; --train and --validation name jsonl files"),
        (["--config", "nothing.yaml"], "nothing.yaml: cannot be read"),
        (["--model", "nowhere"], "nowhere: no such file or folder; --model names a backbone"),
        (["--model", "demo"], "demo: is an adapter already; train on its backbone"),
        (["--recipe", "static"], "recipe is 'static'; for synthesize allowed: paper, plus"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_begins(
    shop: TrainingFolder, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(shop, tmp_path / "out", *options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_keeps_its_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    check_plan(path, {"rows": 3, "kinds": ("a", "b")}, "--out")
    check_plan(path, {"rows": 3, "kinds": ["a", "b"]}, "--out")
    with pytest.raises(ValueError, match=r"another plan \(rows 3, now 4\); choose another --out, or delete it"):
        check_plan(path, {"rows": 4, "kinds": ["a", "b"]}, "--out")
    assert json.loads(path.read_text())["rows"] == 3


def test_the_report_compares_with_the_full_module_on_the_same_prompts(tmp_path: Path) -> None:
    (tmp_path / "curves").mkdir()

    def cell(update: str, state: str, n: int, share: float) -> dict[str, Any]:
        same = {"kind": "all", "n": 8, "split": "test", "seed": 0, "backbone": "rwkv4", "distance_tokens": 10 * n}
        found = {"update": update, "state": state, "sentences": n, "late_accuracy": share, "late_interval": [0.0, 1.0]}
        return same | found

    def write(name: str, right: int) -> None:
        rows = [cell("none", "kept", n, 0.0) for n in (1, 5)]
        if name != BACKBONE:
            rows = [cell(*which, n, right / 8) for n in (1, 5) for which in (("own", "kept"), ("own", "wiped"))]
            rows += [cell("other", "kept", n, 0.125) for n in (1, 5)]
            folder = tmp_path / name / "adapter"
            folder.mkdir(parents=True)
            (tmp_path / name / "result.json").write_text('{"steps": 2, "seconds": 1.0}')
            import torch
            from safetensors.torch import save_file

            save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, folder / "prosg_model.safetensors")
        update = rows[0]["update"]
        answers = [
            {"id": f"row-{i}", "late": i < right, "sentences": n, "update": update, "state": "kept"}
            for i in range(8)
            for n in (1, 5)
        ]
        (tmp_path / "curves" / f"{name}.json").write_text(json.dumps({"rows": rows, "answers": answers}))

    for name, right in ((BACKBONE, 0), (FULL, 8), ("no-stack", 4)):
        write(name, right)
    told = write_ablation(tmp_path, [BACKBONE, FULL, "no-stack"])
    lines = [line.split() for line in told.splitlines()]
    assert lines[0] == ["tokens", "parameters", "10", "50", "difference"]
    assert [*lines[3][:2], *lines[3][7:12]] == ["full", "17", "1.0", "/", ".12", "/", "1.0"]
    assert lines[4][12] == "-0.50"
    assert lines[2][4] == "-1.00"
