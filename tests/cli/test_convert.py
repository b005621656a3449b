"""`prosg convert`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import case

BAD = [
    case("convert start x.gguf", "x.gguf", "prosg export MODEL --gguf-model"),
    case("convert start x.GGUF", "x.GGUF", "prosg export MODEL --gguf-model"),
    case("convert start x.Safetensors", "cannot write .safetensors"),
    case("convert start", "empty", more=("",)),
    case("convert start full --overwrite", "full", "not replaced"),
    case("convert start x.bin", ".bin", ".pth"),
    case("convert nowhere x", "nowhere", "no such file"),
    case("convert start x --dtype fp9", "fp9", "fp32"),
    case("convert start /proc/x", "/proc/x", "cannot be written"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


def test_there_and_back(here: Path, tmp_path: Path, output: Callable[..., str]) -> None:
    output("convert", "start", tmp_path / "capitals.PTH")
    assert (tmp_path / "capitals.PTH").is_file()
    output("convert", "start", tmp_path / "x.pth")
    output("convert", tmp_path / "x.pth", tmp_path / "back")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (here / "start" / name).read_bytes()
    output("convert", "start", tmp_path / "back", "--dtype", "bf16", "--overwrite")
    assert "bfloat16" in output("info", tmp_path / "back")
