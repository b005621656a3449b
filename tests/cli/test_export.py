"""`prosg export`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prosg.checkpoints.encoded import load_encoded
from prosg.checkpoints.load import load_model
from support.commands import PROMPT, case
from support.models import gap

IDS = torch.tensor([[5, 17, 200, 3, 42, 42, 7]])

BAD = [
    case("export run --encoded two.safetensors --peft x", "2 prompts"),
    case("export run --prompt x --peft full --overwrite", "full", "not replaced"),
    case("export run --prompt x --peft /proc/x", "/proc"),
    case("export run --prompt x", "required", "--peft"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


def test_peft_applies_what_was_exported(here: Path, tmp_path: Path, output: Callable[..., str]) -> None:
    peft = pytest.importorskip("peft")
    from transformers import RwkvForCausalLM

    target = tmp_path / "lora"
    assert "rank 8 on 8 projections" in output("export", "run", "--prompt", PROMPT, "--peft", target)
    assert Path(json.loads((target / "adapter_config.json").read_text())["base_model_name_or_path"]).samefile("start")
    theirs = peft.PeftModel.from_pretrained(RwkvForCausalLM.from_pretrained("start"), target).eval()
    model = load_model("run")
    with torch.no_grad():
        updated = model.backbone(IDS, update=load_encoded("one.safetensors", model).update).logits
        assert gap(theirs(IDS).logits, updated) < 1e-4
