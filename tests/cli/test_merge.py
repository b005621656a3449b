"""`prosg merge`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prosg.checkpoints.backbone import load_backbone
from prosg.checkpoints.encoded import load_encoded
from prosg.checkpoints.load import load_model
from support.commands import PROMPT, case, contents, status
from support.models import gap

IDS = torch.tensor([[5, 17, 200, 3, 42, 42, 7]])

BAD = [
    case("merge run --out x.pth", "--prompt", "--encoded"),
    case("merge run --prompt x --encoded one.safetensors --out x.pth", "--prompt", "--encoded"),
    case("merge run --encoded two.safetensors --out x.pth", "two.safetensors", "2 prompts"),
    case("merge run --encoded nowhere --out x.pth", "nowhere", "no such file"),
    case("merge start --prompt x --out x.pth", "start", "no module", "adapter"),
    case("merge start --encoded bare.safetensors --out x.pth", "no module"),
    case("merge start --encoded one.safetensors --out x.pth", "another model"),
    case("merge run --prompt x", "required", "--out"),
    case("merge run --prompt x --out x.bin", ".bin", ".pth"),
    case("merge run --prompt x --out x.gguf", "prosg export MODEL --gguf-model"),
    case("merge run --prompt x --out full --overwrite", "full", "not replaced"),
    case("merge run --prompt x --out x.pth --window 0", "window is 0"),
    case("merge run --encoded one.safetensors --out x.pth --window 4", "--window", "read already"),
    case("merge run --encoded one.safetensors --out x.pth --template world", "--template", "read already"),
    case("merge plus --prompt x --out start --overwrite", "--out start", "holds start", "is read"),
    case("merge run --prompt x --out x.pth --template no", "template", "world, pile, raven"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


@pytest.mark.parametrize("out", ["merged.pth", "merged"])
def test_merge(here: Path, out: str, tmp_path: Path, output: Callable[..., str]) -> None:
    target = tmp_path / out
    text = output("merge", "run", "--encoded", "one.safetensors", "--out", target)
    assert "8 projections" in text and "float32" in text
    model = load_model("run")
    with torch.no_grad():
        updated = model.backbone(IDS, update=load_encoded("one.safetensors", model).update).logits
    assert gap(load_backbone("start")(IDS).logits.detach(), updated) > 1e-3
    assert gap(load_backbone(target)(IDS).logits.detach(), updated) < 1e-5
    # Its tokenizer lies beside it, so it is a model like any other.
    output("generate", target, "--prompt", "x", "--max-tokens", "2")
    before = contents(tmp_path)
    assert status(["merge", "run", "--prompt", PROMPT, "--out", str(target)]) == 2
    assert contents(tmp_path) == before
    output("merge", "run", "--prompt", PROMPT, "--out", target, "--overwrite")
    assert gap(load_backbone(target)(IDS).logits.detach(), updated) < 1e-5
