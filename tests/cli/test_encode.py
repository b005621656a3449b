"""`prosg encode`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import case

BAD = [
    case("encode plus --out e.safetensors", "empty", more=("--prompt", "")),
    case("encode plus --prompt x --out nowhere/e.safetensors", "no folder nowhere"),
    case("encode plus --prompt x --out full", "--out", "folder"),
    case("encode plus --prompt x --out train.jsonl/e.safetensors", "no folder train.jsonl"),
    case("encode plus --prompt x --out /proc/e.safetensors", "/proc/e.safetensors", "cannot be written"),
    case("encode plus --prompt x", "required", "--out"),
    case("encode plus --prompt x --prompt y --out e.safetensors", "--prompt", "given twice", "one prompt"),
    case("encode plus --prompt x --out e.safetensors/", "--out", "names a folder"),
    case("encode plus --prompt-file train.jsonl --out train.jsonl --overwrite", "--out train.jsonl", "that is read"),
    case("encode plus --prompt x --out plus/prosg_model.safetensors --overwrite", "prosg_model", "that is read"),
    case("encode start --prompt x --out e.safetensors --window 4", "window is 4", "memory 'none'"),
    case("encode plus --prompt x --out e.safetensors --window 4 --memory none", "window is 4", "memory 'none'"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


def test_encode_says_what_it_wrote(tmp_path: Path, output: Callable[..., str]) -> None:
    file = tmp_path / "x.safetensors"
    line = output("encode", "plus", "--prompt", "Hello.", "--out", file)
    assert "update" in line and f"{file.stat().st_size:,} bytes" in line
    assert "no module" in output("encode", "start", "--prompt", "Hello.", "--out", file, "--overwrite")
