"""How options are spelled and read, whatever the command."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prosg.cli.common import check_new_file
from prosg.cli.parser import Parser, example_text
from support.commands import case


def parser() -> Parser:
    parser = Parser("A parser.", renamed={"--old-name": "--new-name"})
    parser.add_argument("file", nargs="?")
    parser.add_argument("--new-name")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_list("--sentences", int)
    parser.add_list("--rates", float)
    parser.add_list("--kinds")
    parser.add_range("--items")
    return parser


@pytest.mark.parametrize("arguments", ["--max-tokens 3", "--max_tokens 3", "--max_tokens=3", "--max-tokens=3"])
def test_dashes_and_underscores_are_one_spelling(arguments: str) -> None:
    assert parser().parse(arguments.split()).max_tokens == 3


@pytest.mark.parametrize("arguments", ["--old-name a_b", "--old_name=a_b", "--new-name a_b"])
def test_an_older_name_is_the_new_one(arguments: str) -> None:
    assert parser().parse(arguments.split()).new_name == "a_b"


def test_values_are_left_alone() -> None:
    options = parser().parse(["--new-name=--a_b", "--kinds", "a_b", "--", "--max_tokens"])
    assert (options.new_name, options.kinds, options.file) == ("--a_b", ["a_b"], "--max_tokens")


@pytest.mark.parametrize(
    "values", [["5", "20"], ["5,20"], ["5,", "20"], ["[5, 20]"], ["[5,", "20]"], ["5,20,"]], ids=" ".join
)
def test_lists_are_apart_by_spaces_or_commas(values: list[str]) -> None:
    options = parser().parse(["--sentences", *values, "--kinds", *values, "--items", *values])
    assert (options.sentences, options.kinds, options.items) == ([5, 20], ["5", "20"], [5, 20])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        case("--tem 1", "--tem"),
        case("--kinds ,", "--kinds", "names nothing"),
        case("--sentences far", "--sentences", "far", "whole numbers"),
        case("--rates 1,x", "--rates", "numbers"),
        case("--sentences [5", "--sentences", "[5"),
        case("--sentences", "--sentences", "expected"),
        case("--items 3", "--items", "MIN", "MAX"),
        case("--max-tokens 1.5", "--max-tokens", "1.5", "int"),
    ],
)
def test_what_is_no_option_or_no_value(
    command: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse(command)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1
    assert all(word in err for word in words)


def test_a_file_is_replaced_only_where_that_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    assert check_new_file("--out", str(file), False) == file
    file.touch()
    assert check_new_file("--out", str(file), True) == file
    with pytest.raises(ValueError, match="--out.*--overwrite"):
        check_new_file("--out", str(file), False)
    with pytest.raises(ValueError, match="folder"):
        check_new_file("--out", str(tmp_path), True)


WRITES = [
    case("encode plus --prompt x --out one.safetensors", "one.safetensors", "--overwrite"),
    case("curve plus --out rows.jsonl", "rows.jsonl", "--overwrite"),
    case("lm-eval plus --tasks x --out rows.jsonl", "rows.jsonl", "--overwrite"),
    case("data make rows.jsonl", "rows.jsonl", "--overwrite"),
    case("data stats rows.jsonl --out cut.txt", "cut.txt", "--overwrite"),
    case("data review rows.jsonl --apply none.jsonl", "none.jsonl", "--overwrite"),
    case("convert start other", "exists", "--overwrite"),
    case("merge run --prompt x --out other", "other", "--overwrite"),
    case("export run --prompt x --peft full", "full", "--overwrite"),
    case("inspect run --prompt x --png cut.txt", "cut.txt", "--overwrite"),
    case("report full --out full", "full"),
]


@pytest.mark.parametrize(("command", "words"), WRITES)
def test_no_command_replaces_a_file_unasked(
    refused: Callable[..., None], command: list[str], words: tuple[str, ...]
) -> None:
    if command[0] == "lm-eval":
        pytest.importorskip("lm_eval")
    refused(command, *words)


ROUNDABOUT = [
    case("data make a/x/../../rows.jsonl", "rows.jsonl: exists", "--overwrite"),
    case("data review rows.jsonl --apply a/x/../../rows.jsonl --overwrite", "is a file that is read"),
    case("data compose tasks.json --out a/x/../../run --overwrite", "not of composed tasks"),
]


@pytest.mark.parametrize(("command", "words"), ROUNDABOUT)
def test_a_way_through_folders_that_are_not_there_hides_no_file(
    refused: Callable[..., None], command: list[str], words: tuple[str, ...]
) -> None:
    refused(command, *words)


OTHER_KINDS = [
    case("convert other run --overwrite", "run", "not replaced"),
    case("convert other plus --overwrite", "plus", "not of a model"),
    case("convert other marked --overwrite", "marked", "note.txt"),
    case("convert other rows.jsonl --overwrite", "rows.jsonl", "is a file"),
    case("merge run --prompt x --out run --overwrite", "run", "not replaced"),
    case("merge run --prompt x --out start.pth --overwrite", "start.pth", "is a folder"),
    case("export run --prompt x --peft run --overwrite", "run", "not of an adapter of PEFT"),
    case("export run --prompt x --peft start --overwrite", "start", "not of an adapter of PEFT"),
    case("data compose tasks.json --out run --overwrite", "run", "not of composed tasks"),
    case("data compose tasks.json --out start --overwrite", "start", "not of composed tasks"),
    case("data make start --overwrite", "start", "is a folder"),
    case("encode plus --prompt x --out run --overwrite", "run", "is a folder"),
    case("curve plus --out start --overwrite", "start", "is a folder"),
]


@pytest.mark.parametrize(("command", "words"), OTHER_KINDS)
def test_what_is_of_another_kind_is_not_replaced_even_when_asked(
    here: Path, refused: Callable[..., None], command: list[str], words: tuple[str, ...]
) -> None:
    (here / "start.pth").mkdir(exist_ok=True)
    if not (here / "marked").exists():
        shutil.copytree(here / "start", here / "marked")
        (here / "marked" / "note.txt").write_text("mine")
    refused(command, *words)


@pytest.mark.parametrize(
    "command",
    [
        "data make",
        "data stats rows.jsonl --out",
        "data review rows.jsonl --apply",
        "encode plus --prompt x --out",
        "inspect plus --prompt x --png",
        "merge plus --prompt x --out",
        "convert start",
        "curve plus --out",
    ],
)
def test_devices_and_pipes_are_not_replaced(here: Path, refused: Callable[..., None], command: str) -> None:
    for ending in (".pth", ".png"):  # by which some commands choose what they write
        if not (here / f"pipe{ending}").exists():
            os.mkfifo(here / f"pipe{ending}")
    pipe = "pipe.png" if "--png" in command or "stats" in command else "pipe.pth"
    refused([*command.split(), pipe, "--overwrite"], pipe, "a device or a pipe")


def test_a_picture_beside_results_is_not_replaced_unasked(here: Path, refused: Callable[..., None]) -> None:
    (here / "curve.png").write_text("mine")
    refused(["curve", "plus", "--out", "curve.json"], "curve.png", "--overwrite")
    (here / "report.json").write_text("mine")
    (here / "set.report.json").write_text("mine")
    refused(["data", "compose", "tasks.json", "--out", "set.jsonl"], "set.report.json", "--overwrite")


BAD_MODELS = [
    case("info nowhere", "nowhere", "no such file or folder"),
    case("info truncated.pth", "truncated.pth", "truncated"),
    case("info code.pth", "code.pth", "code"),
    case("info v5.pth", "RWKV-5", "supported: rwkv4"),
    case("info v6.pth", "RWKV-6", "supported: rwkv4"),
    case("info train.jsonl", "train.jsonl", "checkpoint"),
    case("info full", "no weights", "model.safetensors"),
    case("info odd.pth", "odd.pth", "initial states"),
    case("info start --kernel fast", "fast", "auto, scan, torch, c"),
    case("generate start --prompt x --tokenizer many", "350 ids", "300"),
    case("generate start --prompt x --tokenizer full", "no tokenizer.json"),
    case("generate start --prompt x --tokenizer world", "65530 ids", "300"),
    case("generate alone/pile.pth --prompt x", "alone/pile.pth", "--tokenizer 20B_tokenizer.json"),
    case("generate start --prompt x --tokenizer train.jsonl", "train.jsonl"),
    case("generate start --prompt x --tokenizer cut.txt", "cut.txt, line 3", "65 '@' 1"),
    case("generate start --prompt x --tokenizer nowhere", "nowhere", "no tokenizer.json", "world"),
    case("generate alone/x.pth --prompt x", "alone/x.pth", "--tokenizer"),
    case("perplexity alone/x.pth train.jsonl", "--tokenizer"),
    case("encode alone/x.pth --prompt x --out e.safetensors", "--tokenizer"),
    case("generate plus --base other --prompt x", "another backbone", "--base"),
    case("generate plus --base nowhere --prompt x", "nowhere", "no such"),
    case("generate start --base other --prompt x", "not an adapter"),
    case("generate plus --prompt x --dtype fp8", "fp8", "fp32, bf16, fp16, fp64"),
    case("generate plus --prompt x --device tpu", "tpu", "cpu, cuda"),
    case("generate plus --prompt x --kernel fast", "fast", "auto, scan, torch, c"),
    case("generate start --prompt x --state nowhere", "nowhere", "no such file"),
    case("perplexity start train.jsonl --state alone/x.pth", "alone/x.pth", "initial states", "time_state"),
    case("encode start --prompt x --out e.safetensors --state odd.pth", "odd.pth", "(4, 4, 4)", "(2, 16)"),
    case("curve start --out x.json --state full", "full/state.pth", "no such file"),
]


@pytest.mark.parametrize(("command", "words"), BAD_MODELS)
def test_a_model_that_cannot_be_used(
    refused: Callable[..., None], here: Path, command: list[str], words: tuple[str, ...]
) -> None:
    refused(command, *words)
    assert not (here / "executed").exists()


NO_CUDA = [
    "generate plus --prompt x --device cuda",
    "train finetune --model start --train train.jsonl --out made --device cuda",
    "info start --device cuda",
]


@pytest.mark.parametrize("command", NO_CUDA)
def test_cuda_where_there_is_none(refused: Callable[..., None], command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(command.split(), "CUDA", "--device cpu")


def test_words_that_look_like_yaml_are_text(output: Callable[..., Any]) -> None:
    for prompt in ("null", "123", "true", "{a: b}", "- x", "@x"):
        assert output("generate", "plus", "--prompt", prompt, "--max-tokens", "1", "--temperature", "0")


def test_examples_are_files_of_the_package() -> None:
    assert example_text("eval.yaml").startswith("#")
