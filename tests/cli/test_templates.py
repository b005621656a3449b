"""The same template wherever a prompt is read: typed, encoded, scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prosg.cli import main
from support.training_folder import TrainingFolder, make_training_folder

FRAMED = "Question: Say.\n\nAnswer:"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    return make_training_folder(tmp_path_factory.mktemp("workshop"))


def said(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    capsys.readouterr()
    assert main([str(part) for part in command]) == 0
    return capsys.readouterr().out


def test_a_typed_prompt_is_framed_and_the_reply_is_not(
    shop: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--max-tokens", 40, "--temperature", 1.0, "--seed", 3)
    by_hand = said(capsys, "generate", shop.model, "--prompt", FRAMED, *more)
    assert said(capsys, "generate", shop.model, "--prompt", "Say.", "--template", "pile", *more) in (
        by_hand,
        by_hand.removeprefix(" "),
    )
    file = tmp_path / "prompt.safetensors"
    said(capsys, "encode", shop.model, "--prompt", "Say.", "--template", "pile", "--out", file)
    assert said(capsys, "generate", shop.model, "--encoded", file, *more) == by_hand


def test_a_reply_ends_where_the_next_turn_would_begin(
    shop: TrainingFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def stream(self: object, encoded: object, **sampling: object) -> list[str]:
        seen.append(sampling["stop"])
        return ["", " ", " Tree", "."]

    monkeypatch.setattr("prosg.model.prosg.ProSG.stream", stream)
    command = ("generate", shop.model, "--prompt", "Say.", "--stop", "x")
    assert said(capsys, *command, "--template", "world") == " Tree.\n"
    assert said(capsys, *command) == "  Tree.\n"
    assert seen == [["x", "\n\nUser:"], ["x"]]


def test_rows_are_scored_under_the_template(shop: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "Say."}, {"role": "assistant", "content": "Tree."}]
    rows = {
        "chat": {"messages": turns},
        "pair": {"prompt": "Say.", "answer": "Tree."},
        "text": {"text": f"{FRAMED} Tree."},
        "by hand": {"prompt": FRAMED, "answer": " Tree."},
    }
    scores = {}
    for name, row in rows.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps(row) + "\n")
        options = ("--template", "pile") if name in ("chat", "pair") else ()
        scores[name] = json.loads(said(capsys, "perplexity", shop.model, file, *options))
    assert all(score == scores["by hand"] for score in scores.values())
