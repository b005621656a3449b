"""`prosg batch`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prosg.checkpoints.load import load_model
from support.commands import case, status

BAD = [
    case("batch plus nowhere.jsonl --out x.jsonl", "nowhere.jsonl", "cannot be read"),
    case("batch plus train.jsonl", "required", "--out"),
    case("batch plus train.jsonl --out x.jsonl --rows 0", "--rows is 0"),
    case("batch plus train.jsonl --out x.jsonl --temperature -1", "temperature is -1.0"),
    case("batch plus train.jsonl --out x.jsonl --template alpaca", "'alpaca'", "world"),
    case("batch plus train.jsonl --out train.jsonl", "train.jsonl:1", "name another"),
    case("batch plus train.jsonl --out /dev/null", "/dev/null: is a device"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


def test_a_file_is_answered_and_gone_on_with(tmp_path: Path, output: Callable[..., str]) -> None:
    lines = [{"prompt": "Tell a story.", "seed": 2}, {"prompt": "Say a word.", "memory": "none"}]
    file, out = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("batch", "plus", file, "--out", out, "--max-tokens", 5, "--template", "none")
    assert output(*command) == f"{out}: 2 answers\n"
    answers = {record["line"]: record["answer"] for record in map(json.loads, out.read_text().splitlines())}
    model = load_model("plus")
    assert answers[1] == model.generate("Tell a story.", seed=2, max_tokens=5)
    assert answers[2] == model.generate("Say a word.", memory="none", max_tokens=5)
    assert "2 were answered before" in output(*command)
    file.write_text(file.read_text() + '{"prompt": ""}\n')
    assert status([str(part) for part in command]) == 1
    assert status([str(part) for part in command]) == 1  # what failed is no answer
    good = file.read_text().replace('{"prompt": ""}', '{"prompt": "Say it.", "kind": "own", "note": "mine"}')
    file.write_text(good)  # mended, it is answered; fields of a data set are no options
    assert "1 answers, 2 were answered before" in output(*command)
    assert "0 answers, 3 were answered before" in output(*command)


def test_more_rows_than_the_queue_has_places(tmp_path: Path, output: Callable[..., str]) -> None:
    file, out = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    file.write_text('{"prompt": "Go."}\n' * 300)
    said = output("batch", "plus", file, "--out", out, "--max-tokens", 1, "--rows", 150, "--template", "none")
    assert "300 answers" in said
