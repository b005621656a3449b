"""Whole curves, in a file: conditions, harder instructions, stories that are read, windows, the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.cli import main
from prosg.data.synthetic import Filler, make_rows
from prosg.evaluation.config import CurveConfig
from prosg.evaluation.curve_file import measure_curve
from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.json_file import JsonTokenizer
from support.models import live_model


@pytest.fixture(scope="module")
def tokenizer() -> JsonTokenizer:
    return train_bpe([text for row in make_rows(size=60) for text in (row.prompt, row.answer)], 300)


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prose") / "prose.txt"
    file.write_text("\n\n".join(f"Number {n} was not here. It went to number {n + 1} at once." for n in range(90)))
    return file


def measured(
    tokenizer: JsonTokenizer,
    out: Path,
    window: int | None = None,
    kinds: Sequence[str] = ("code",),
    memories: Sequence[Any] = (),
    **curve: Any,
) -> dict[str, Any]:
    model = live_model("rwkv4", "plus", torch.float32, vocab=300)
    model.tokenizer = tokenizer
    status = measure_curve(
        model,
        str(out),
        system="x",
        seed=0,
        memories=memories,
        tau=None,
        updates=["own", "other", "wiped"],
        kinds=list(kinds),
        split="test",
        free=True,
        replay=False,
        window=window,
        curve=CurveConfig(rows=2 * len(kinds), **{"sentences": [1, 2], **curve}),
    )
    assert status == 0
    content = json.loads(out.read_text())
    assert isinstance(content, dict)
    return content


def test_every_condition_has_a_row_for_each_kind_and_distance(tokenizer: JsonTokenizer, tmp_path: Path) -> None:
    found = measured(tokenizer, tmp_path / "curve.json", kinds=("code", "names"))
    controlled = [row for row in found["rows"] if row["measure"] == "curve"]
    cells = {(row["update"], row["state"], row["kind"], row["sentences"]) for row in controlled}
    conditions = [("own", "kept"), ("other", "kept"), ("own", "wiped")]
    assert cells == {(*c, kind, n) for c in conditions for kind in ("all", "code", "names") for n in (1, 2)}
    assert {row["system"] for row in found["rows"]} == {"x"}
    assert all(0 <= row["late_interval"][0] <= row["late_accuracy"] <= row["late_interval"][1] for row in controlled)
    assert {row["measure"] for row in found["rows"]} == {"curve", "free"}
    assert not {"turns", "items", "filler", "window", "prompt_tokens"} & {name for row in found["rows"] for name in row}
    others = {
        (answer["sentences"], answer["id"]): answer["distance_tokens"]
        for answer in found["answers"]
        if (answer["measure"], answer["update"]) == ("curve", "other")
    }
    assert len(others) == 8
    assert all(others[2, name] >= others[1, name] for _, name in others)


def test_a_filler_is_read_from_the_file_at_every_distance(
    tokenizer: JsonTokenizer, prose: Path, tmp_path: Path
) -> None:
    found = measured(tokenizer, tmp_path / "curve.json", filler=str(prose))
    assert {(row["measure"], row["filler"]) for row in found["rows"] if "late_accuracy" in row} == {
        ("curve", "prose.txt")
    }
    told = {
        (a["sentences"], a["id"]): a["text"].partition("\n")[0]
        for a in found["answers"]
        if (a["update"], a["state"]) == ("own", "kept")
    }
    parts = Filler.read(prose).parts["test"]
    for (n, row), text in told.items():
        assert text.count(".") == n
        assert all(f"{sentence.strip('.')}." in parts for sentence in text.split(". "))
        assert told[2, row].startswith(told[1, row])


def test_rows_say_what_made_them_harder_and_only_that(tokenizer: JsonTokenizer, tmp_path: Path) -> None:
    found = measured(tokenizer, tmp_path / "hard.json", prompt_tokens=[300], turns=[2], items=[5], window=7)
    curve = [row for row in found["rows"] if row["measure"] == "curve"]
    assert curve
    assert not [row for row in found["rows"] if row["measure"] == "free" and "late_accuracy" in row]
    assert {(row["turns"], row["items"], row["window"]) for row in curve} == {(2, 5, 7)}
    assert {row["prompt_tokens"] for row in curve} < set(range(250, 351))
    for answer in found["answers"]:
        assert answer["text"].count("Turn:") == 2


def test_a_window_changes_what_the_module_sees(tokenizer: JsonTokenizer, prose: Path, tmp_path: Path) -> None:
    def perplexities(window: int | None) -> list[float]:
        rows = measured(tokenizer, tmp_path / f"{window}.json", window, filler=str(prose), sentences=[1])["rows"]
        return [row["perplexity"] for row in rows if "perplexity" in row]

    whole = perplexities(None)
    assert whole == pytest.approx(perplexities(4000), rel=1e-4)
    assert whole != pytest.approx(perplexities(5), rel=1e-4)


def test_the_command_measures_them(prose: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "curve.json"
    few = ["curve", "demo", "--out", str(out), "--rows", "2", "--kinds", "code", "--sentences", "1"]
    assert main([*few, "--updates", "own", "--turns", "0,1", "--items", "6", "--filler", str(prose)]) == 0
    cells = [row for row in json.loads(out.read_text())["rows"] if row["kind"] == "all" and "late_accuracy" in row]
    assert [(row["turns"], row["items"], row["filler"]) for row in cells] == [(0, 6, "prose.txt"), (1, 6, "prose.txt")]
    assert "turns 1" in capsys.readouterr().out
    assert not out.with_suffix(".progress").exists()
    assert main([*few, "--overwrite", "--items", "2"]) == 2
    told = capsys.readouterr().err
    assert "code" in told
    assert "4 to 64" in told


def test_memories_stand_side_by_side_with_a_picture(tokenizer: JsonTokenizer, tmp_path: Path) -> None:
    content = measured(tokenizer, tmp_path / "x.json", memories=("none", "anchor", "both"), kinds=("password",))
    conditions = {(row["memory"], row["update"], row["state"]) for row in content["rows"]}
    held = {("own", "kept"), ("other", "kept"), ("own", "wiped")}
    assert conditions == {("none", "none", "kept")} | {(m, *c) for m in ("anchor", "both") for c in held}
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_no_picture_of_another_curve_is_left_beside_a_new_one(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    few = ["curve", "demo", "--out", str(out), "--memory", "none", "--kinds", "code", "--rows", "2", "--no-free"]
    assert main([*few, "--sentences", "1,2"]) == 0
    assert out.with_suffix(".png").exists()
    assert main([*few, "--sentences", "1", "--overwrite"]) == 0
    assert not out.with_suffix(".png").exists()


def test_what_is_measured_how_far_it_is_and_what_columns_mean_is_said(
    tokenizer: JsonTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prosg.utils.progress.LINE_SECONDS", 0.0)
    measured(tokenizer, tmp_path / "a.json", memories=["none", "anchor"], sentences=[1, 2])
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0].startswith("measuring 2 prompts, stories of 1, 2 sentences, memory none, anchor own, ")
    assert lines[1] == "measuring none-none curve: 0%"
    assert any(line.startswith("measuring anchor-own ") and "% left" not in line and " left" in line for line in lines)
    assert "\ncolumns:\n  memory " in err and lines[-1].startswith("A memory holds its prompt where")
    assert "measuring" not in out
