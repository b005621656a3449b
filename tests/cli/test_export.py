"""`prosg export`."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.encoded import load_encoded
from prosg.checkpoints.load import load_model
from prosg.model.prosg import ProSG
from support.commands import PROMPT, case, status
from support.hf_models import hf_model
from support.models import gap

IDS = torch.tensor([[5, 17, 200, 3, 42, 42, 7]])

BAD = [
    case("export run --encoded two.safetensors --peft x", "2 prompts"),
    case("export run --prompt x --peft full --overwrite", "full", "not replaced"),
    case("export run --prompt x --peft /proc/x", "/proc"),
    case("export run --prompt x", "nothing to write", "--peft, --gguf, --gguf-state, --gguf-model"),
    case("export run --encoded one.safetensors --peft x --activated", "template 'none'", "--prompt"),
    case("export run --gguf-state x", "--gguf-state needs --prompt"),
    case("export run --gguf-state x", "RWKV-7 alone", "rwkv4", more=("--prompt", PROMPT)),
    case("export run --prompt x --gguf-model x.gguf", "without a prompt"),
    case("export run --encoded nofile --gguf-model x.gguf", "--encoded", "without a prompt"),
    case("export run --prompt x --encoded one.safetensors --gguf-state x", "give either --prompt"),
    case("export run --prompt x --gguf x.gguf --gguf-state x.gguf", "--gguf-state x.gguf", "output of --gguf"),
    case("export run --prompt x --gguf x.bin --peft y", "x.bin", "ends in .gguf"),
    case("export run --prompt x --peft y --gguf x.gguf", "llama.cpp cannot apply"),
    case("export run --prompt x --peft y --gguf-model x.gguf", "rwkv4"),
    case("export run --prompt x --peft y --gguf-state x --gguf-state-version 9", "--gguf-state-version is 9", "3, 4"),
    case("export run --prompt x --prompt y --peft z", "--prompt", "given twice"),
    case("export run --encoded one.safetensors --peft y --window 4", "--window", "read already"),
    case("export run --encoded one.safetensors --peft y --template world", "--template", "read already"),
    case("export plus --prompt x --gguf-state start/config.json --overwrite", "start/config.json", "is read"),
    case("export run --gguf-model x.gguf --activated", "--activated is for --peft, --gguf or --gguf-state"),
    case("export run --gguf-model x.gguf --gguf-state-version 3", "--gguf-state-version is for --gguf-state"),
    case("export run --gguf-model x.gguf --window 3", "--window is for --peft or --gguf"),
    case("export run --gguf-model x.gguf --template world", "--template is for --prompt"),
    case("export run --gguf-model x.gguf/", "--gguf-model x.gguf/", "names a folder"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


def test_peft_applies_what_was_exported(here: Path, tmp_path: Path, output: Callable[..., str]) -> None:
    peft = pytest.importorskip("peft")
    from transformers import RwkvForCausalLM

    target = tmp_path / "lora"
    assert "rank 8 on 8 projections" in output("export", "run", "--prompt", PROMPT, "--peft", target)
    config = json.loads((target / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]).samefile("start") and "alora_invocation_tokens" not in config
    theirs = peft.PeftModel.from_pretrained(RwkvForCausalLM.from_pretrained("start"), target).eval()
    model = load_model("run")
    with torch.no_grad():
        updated = model.backbone(IDS, update=load_encoded("one.safetensors", model).update).logits
        assert gap(theirs(IDS).logits, updated) < 1e-4


@pytest.mark.parametrize(("template", "closing"), [("none", "."), ("raven", "\n\nResponse:")])
def test_an_activated_adapter(
    template: str, closing: str, here: Path, tmp_path: Path, output: Callable[..., str]
) -> None:
    target = tmp_path / "lora"
    command = ["export", "run", "--prompt", PROMPT, "--peft", target, "--activated", "--template", template]
    assert "activated by the ids" in output(*command)
    tokenizer = load_model("run").tokenizer
    assert tokenizer is not None
    ids = json.loads((target / "adapter_config.json").read_text())["alora_invocation_tokens"]
    assert tokenizer.decode(ids) == closing


@pytest.fixture
def rwkv7(here: Path, tmp_path: Path) -> Any:
    """An adapter on a small RWKV-7 with the folder's tokenizer."""
    backbone = RWKV7(RWKV7Config(vocab_size=512, hidden_size=64, num_layers=2, head_size=32))
    backbone.reset_parameters(torch.Generator().manual_seed(0))
    model = ProSG.from_scratch(ProSG(backbone), "plus", seed=0)
    save_backbone(backbone, tmp_path / "base", tokenizer=here / "start" / "tokenizer.json")
    model.tokenizer = load_model("start").tokenizer
    save_adapter(model, tmp_path / "seven", base="../base")
    return tmp_path / "seven"


def test_files_for_llama_cpp(
    rwkv7: Path, tmp_path: Path, output: Callable[..., str], refused: Callable[..., None]
) -> None:
    gguf = pytest.importorskip("gguf")
    files = {name: tmp_path / f"{name}.gguf" for name in ("update", "model")}
    state = tmp_path / "state.bin"
    text = output(
        *("export", rwkv7, "--prompt", PROMPT, "--gguf", files["update"], "--activated"),
        *("--gguf-state", state, "--gguf-model", files["model"]),
    )
    assert "on 8 projections, activated by the ids" in text and "rwkv7 for llama.cpp, tokenizer gpt2" in text
    fields = {name: gguf.GGUFReader(file).fields for name, file in files.items()}
    assert fields["update"]["general.type"].contents() == "adapter"
    assert fields["model"]["rwkv7.block_count"].contents() == 2
    model = load_model(rwkv7)
    assert model.tokenizer is not None
    ids = model.tokenizer.encode(PROMPT)
    assert fields["update"]["adapter.alora.invocation_tokens"].contents() == ids[-1:]
    _, _, count = struct.unpack_from("<3I", state.read_bytes())
    assert list(struct.unpack_from(f"<{count}i", state.read_bytes(), 12)) == ids[:-2]
    assert "after" in output("export", rwkv7, "--prompt", PROMPT, "--gguf-state", state, "--overwrite")
    (count,) = struct.unpack_from("<I", state.read_bytes(), 8)
    assert count == len(ids) - 1
    beside = tmp_path / "beside.gguf"
    refused(
        ["export", str(rwkv7), "--prompt", "x", "--gguf", str(beside), "--gguf-state", str(tmp_path / "y")], "1 token;"
    )
    assert not beside.exists()
    output("export", rwkv7.parent / "base", "--gguf-model", files["model"], "--dtype", "bf16", "--overwrite")


def test_an_adapter_of_a_window_names_no_model_without(
    here: Path, tmp_path: Path, output: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    hf_model("llama", vocab=512).save_pretrained(tmp_path / "llama")
    model = ProSG.from_scratch(load_model(tmp_path / "llama", sliding_window=6), "plus", seed=0)
    model.tokenizer = load_model("start").tokenizer
    save_adapter(model, tmp_path / "windowed", base=tmp_path / "llama")
    output("export", tmp_path / "windowed", "--prompt", PROMPT, "--peft", tmp_path / "lora")
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"] == ""
    assert status(["export", str(tmp_path / "windowed"), "--prompt", PROMPT, "--peft", str(tmp_path / "lora2")]) == 0
    assert f"prosg convert {tmp_path / 'llama'} FOLDER --sliding-window 6" in capsys.readouterr().err
