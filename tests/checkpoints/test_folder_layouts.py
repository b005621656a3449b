"""RWKV-7's folders in the wild: told apart by their tensors, read, and written back bit for bit."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prosg.backbones.layouts import FOLDER_LAYOUTS
from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.backbone import convert, load_backbone, save_backbone
from prosg.utils.io import CheckpointError
from support.checkpoints import same_weights
from support.models import TINY, gap, live_backbone, rwkv7, tokens

LAYOUTS = FOLDER_LAYOUTS["rwkv7"]
SIZES = {"hidden_size": 128, "num_layers": 3, "head_size": 64}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> RWKV7:
    """What every layout's own code can compute: attention as wide as the model, heads of 64."""
    monkeypatch.setitem(TINY, "usual", rwkv7(**SIZES))
    backbone: RWKV7 = live_backbone("usual", torch.float32)
    return backbone


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back(layout: str, dtype: torch.dtype, model: RWKV7, tmp_path: Path) -> None:
    model.to(dtype)
    save_backbone(model, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "folder", layout=layout)
    convert(tmp_path / "folder", tmp_path / "y.pth")
    assert (tmp_path / "y.pth").read_bytes() == (tmp_path / "x.pth").read_bytes()
    assert same_weights(load_backbone(tmp_path / "folder"), model)
    for other in LAYOUTS:
        convert(tmp_path / "folder", tmp_path / other, layout=other)
        assert same_weights(load_backbone(tmp_path / other), model)
    again = load_file(tmp_path / layout / "model.safetensors")
    first = load_file(tmp_path / "folder" / "model.safetensors")
    assert again.keys() == first.keys() and all(torch.equal(again[name], first[name]) for name in first)


ATT = ("receptance", "key", "value", "output")


def names_of_transformers(layers: int) -> dict[str, tuple[int, ...]]:
    """The parameters of `Rwkv7ForCausalLM` of the RWKV organisation's port, as its modules register them."""
    e, ranks = SIZES["hidden_size"], {"w": 3, "a": 4, "v": 2, "g": 4}
    shapes: dict[str, tuple[int, ...]] = {"rwkv7.emb.weight": (23, e), "head.weight": (23, e)}
    norms = ["rwkv7.ln_out", "rwkv7.blocks.0.ln0"]
    for i in range(layers):
        block = f"rwkv7.blocks.{i}"
        norms += [f"{block}.ln1", f"{block}.ln2", f"{block}.att.ln_x"]
        shapes |= {f"{block}.att.x_{letter}": (1, 1, e) for letter in "rwkvag"}
        for letter, rank in ranks.items():
            shapes |= {f"{block}.att.{letter}1": (e, rank), f"{block}.att.{letter}2": (rank, e)}
        shapes |= {f"{block}.att.{name}": (1, 1, e) for name in ("w0", "a0", "v0", "k_k", "k_a")}
        shapes |= {f"{block}.att.r_k": (2, 64), f"{block}.ffn.x_k": (1, 1, e)}
        shapes |= {f"{block}.att.{name}.weight": (e, e) for name in ATT}
        shapes |= {f"{block}.ffn.key.weight": (4 * e, e), f"{block}.ffn.value.weight": (e, 4 * e)}
    return shapes | {f"{norm}.{part}": (e,) for norm in norms for part in ("weight", "bias")}


def names_of_fla(layers: int, stacked: bool) -> dict[str, tuple[int, ...]]:
    """The parameters of fla's `RWKV7ForCausalLM`, as its modules register them; `stacked`: of its first version."""
    e, ranks = SIZES["hidden_size"], {"w": 3, "a": 4, "v": 2, "g": 4}
    shapes: dict[str, tuple[int, ...]] = {"model.embeddings.weight": (23, e), "lm_head.weight": (23, e)}
    norms = ["model.norm", "model.layers.0.pre_norm"]
    for i in range(layers):
        layer = f"model.layers.{i}"
        norms += [f"{layer}.attn_norm", f"{layer}.ffn_norm", f"{layer}.attn.g_norm"]
        mixes = {"x_x": (6, e)} if stacked else {f"x_{letter}": (1, 1, e) for letter in "rwkvag"}
        shapes |= {f"{layer}.attn.{name}": shape for name, shape in mixes.items()}
        for letter in "wavg" if i else "wag":
            lora = f"{layer}.attn.{letter}_lora.lora"
            shapes |= {f"{lora}.0.weight": (ranks[letter], e), f"{lora}.2.weight": (e, ranks[letter])}
            shapes |= {f"{lora}.2.bias": (e,)} if letter != "g" else {}
        shapes |= {f"{layer}.attn.k_k": (e,), f"{layer}.attn.k_a": (e,), f"{layer}.attn.r_k": (2, 64)}
        shapes |= {f"{layer}.attn.{letter}_proj.weight": (e, e) for letter in "rkvo"}
        shapes |= {f"{layer}.ffn.x_k": (e,)}
        shapes |= {f"{layer}.ffn.key.weight": (4 * e, e), f"{layer}.ffn.value.weight": (e, 4 * e)}
    return shapes | {f"{norm}.{part}": (e,) for norm in norms for part in ("weight", "bias")}


NAMES: dict[str, dict[str, tuple[int, ...]]] = {
    "transformers": names_of_transformers(3),
    "fla": names_of_fla(3, stacked=False),
    "fla-stacked": names_of_fla(3, stacked=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_names_and_shapes_are_those_of_the_layouts_own_code(layout: str, model: RWKV7, tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "folder", layout=layout)
    stored = load_file(tmp_path / "folder" / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == NAMES[layout]
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["model_type"] == "rwkv7" and config["head_dim"] == 64 and config["num_heads"] == 2
    assert config["architectures"] == [{"transformers": "Rwkv7ForCausalLM"}.get(layout, "RWKV7ForCausalLM")]


def test_a_folder_written_by_other_code(tmp_path: Path) -> None:
    other = pytest.importorskip("rwkv7_hf")
    ranks = {"decay_low_rank_dim": 8, "gate_low_rank_dim": 16, "a_low_rank_dim": 8, "v_low_rank_dim": 4}
    config = other.RWKV7Config(vocab_size=50, hidden_size=128, num_hidden_layers=3, head_dim=64, **ranks)
    torch.manual_seed(0)
    theirs = other.RWKV7ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    theirs.save_pretrained(tmp_path / "hf")
    ids = tokens(1, 40, vocab=50)
    with torch.no_grad():
        expected = theirs(ids).logits[0]
    # The same weights as the other layouts have them.
    convert(tmp_path / "hf", tmp_path / "transformers", layout="transformers")
    convert(tmp_path / "hf", tmp_path / "fla-stacked", layout="fla-stacked")
    for name in ("hf", "transformers", "fla-stacked"):
        assert gap(load_backbone(tmp_path / name)(ids).logits[0].detach(), expected) < 1e-5


@pytest.mark.parametrize("said", ["head_dim", "num_heads", "nothing"])
def test_the_eps_of_a_folder_is_that_of_its_heads(said: str, tmp_path: Path) -> None:
    other = pytest.importorskip("rwkv7_hf")
    ranks = {"decay_low_rank_dim": 4, "gate_low_rank_dim": 4, "a_low_rank_dim": 4, "v_low_rank_dim": 4}
    torch.manual_seed(0)
    theirs = other.RWKV7ForCausalLM(
        other.RWKV7Config(vocab_size=50, hidden_size=48, num_hidden_layers=2, head_dim=48, **ranks)
    ).eval()
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key == said or key not in ("head_dim", "num_heads")}
    kept.pop("num_attention_heads", None)
    (tmp_path / "config.json").write_text(json.dumps(kept))
    loaded = load_backbone(tmp_path)
    assert loaded.config.ln_x_eps == pytest.approx(48e-5)
    ids = tokens(1, 20, vocab=50)
    with torch.no_grad():
        expected = other.RWKV7ForCausalLM.from_pretrained(tmp_path).eval()(ids).logits[0]
    assert gap(loaded(ids).logits[0].detach(), expected) < 1e-5


def compiled(name: str) -> str:
    """As torch.compile names what it compiled block by block."""
    return name.replace(".att.", "._orig_mod.att.")


PREFIXES: dict[str, tuple[Callable[[str], str], str]] = {
    "torch.compile": (lambda name: f"_orig_mod.{name}", r"_orig_mod\. \(of torch.compile\)"),
    "blocks": (compiled, r"_orig_mod\."),
    "DDP": (lambda name: f"module.{name}", r"module\. \(of DistributedDataParallel"),
    "Lightning": (lambda name: f"model.{name}", r"model\."),
    "a body": (lambda name: name if name == "head.weight" else f"model.{name}", r"model\."),
    "two": (lambda name: f"module._orig_mod.{name}", r"_orig_mod\. .*, module\."),
    "three": (lambda name: f"_forward_module.model._orig_mod.{name}", r"_orig_mod\. .*, _forward_module\. .*, model\."),
}


@pytest.mark.parametrize(("rename", "said"), PREFIXES.values(), ids=PREFIXES.keys())
def test_prefixes_of_tools_are_stripped_and_said(
    rename: Callable[[str], str], said: str, model: RWKV7, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({rename(name): tensor for name, tensor in model.state_dict().items()}, tmp_path / "x.pth")
    assert same_weights(load_backbone(tmp_path / "x.pth"), model)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"{tmp_path / 'x.pth'}: stripped ")
    assert re.search(said, captured.err)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prefixes_before_the_names_of_folders(layout: str, model: RWKV7, tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "folder", layout=layout)
    stored = load_file(tmp_path / "folder" / "model.safetensors")
    torch.save({f"module.{name}": tensor for name, tensor in stored.items()}, tmp_path / "ddp.pth")
    assert same_weights(load_backbone(tmp_path / "ddp.pth"), model)


@pytest.mark.parametrize("key", ["model", "module", "state_dict"])
def test_tensors_in_a_dictionary_of_a_tool(key: str, model: RWKV7, tmp_path: Path) -> None:
    torch.save({key: model.state_dict()}, tmp_path / "x.pth")
    assert same_weights(load_backbone(tmp_path / "x.pth"), model)


def test_other_words_for_rwkv7_and_layer_0_as_official_files_have_it(model: RWKV7, tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "folder")
    config = tmp_path / "folder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "rwkv7_fla"}))
    weights = load_file(tmp_path / "folder" / "model.safetensors")
    for part in ("0.weight", "2.weight", "2.bias"):
        weights[f"model.layers.0.attn.v_lora.lora.{part}"] = weights[f"model.layers.1.attn.v_lora.lora.{part}"].clone()
    save_file(weights, tmp_path / "folder" / "model.safetensors")
    assert same_weights(load_backbone(tmp_path / "folder"), model)


def test_what_a_layout_cannot_say_is_refused(model: RWKV7, tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="layout is 'hf'; allowed for rwkv7: fla, fla-stacked, transformers"):
        convert(tmp_path / "x.pth", tmp_path / "y", layout="hf")
    with pytest.raises(ValueError, match="layout is 'fla', but .*y.pth is a .pth file"):
        convert(tmp_path / "x.pth", tmp_path / "y.pth", layout="fla")
    small = RWKV7(RWKV7Config(vocab_size=9, hidden_size=32, num_layers=1, head_size=16))
    save_backbone(small, tmp_path / "small.pth")
    with pytest.raises(CheckpointError, match="ln_x_eps is 0.00064, but .*'transformers' computes with 0.00016"):
        convert(tmp_path / "small.pth", tmp_path / "y", layout="transformers")
    assert not (tmp_path / "y").exists()


def test_a_folder_that_other_programs_would_compute_otherwise_is_said(
    model: RWKV7, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = RWKV7(RWKV7Config(vocab_size=9, hidden_size=32, num_layers=1, head_size=16))
    for name, one in (("small", small), ("model", model)):
        save_backbone(one, tmp_path / f"{name}.pth")
        convert(tmp_path / f"{name}.pth", tmp_path / name)
    said = capsys.readouterr().err
    assert "small: heads of 16: other programs compute the group norm with an eps of 0.00016" in said
    assert len(said.splitlines()) == 1


SHARDS = {
    "DeepSpeed": (
        ["latest", "zero_to_fp32.py", "global_step3/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"],
        "python {0}/zero_to_fp32.py {0} NEW",
    ),
    "DeepSpeed's step": (
        ["global_step3/mp_rank_00_model_states.pt"],
        "python {0}/zero_to_fp32.py {0} NEW",
    ),
    "FSDP": (["pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata"], "dcp_to_torch {0}/pytorch_model"),
}


@pytest.mark.parametrize(("files", "command"), SHARDS.values(), ids=SHARDS.keys())
def test_shards_are_named_with_the_command_that_joins_them(files: list[str], command: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    for path in (tmp_path, (tmp_path / files[-1]).parent):
        with pytest.raises(CheckpointError, match=command.format(tmp_path)):
            load_backbone(path)
    if files[-1].endswith(".pt"):
        with pytest.raises(CheckpointError, match=command.format(tmp_path)):
            load_backbone(tmp_path / files[-1])
    save_backbone(RWKV7(RWKV7Config(vocab_size=9, hidden_size=64, num_layers=1)), tmp_path / "x.pth")
    load_backbone(tmp_path / "x.pth")


@pytest.mark.slow
def test_the_command_for_fsdp_makes_a_file_that_opens(model: RWKV7, tmp_path: Path) -> None:
    from torch.distributed import checkpoint

    state: dict[str, Any] = {"model": dict[str, Tensor](model.state_dict())}
    checkpoint.save(state, checkpoint_id=tmp_path / "shards", no_dist=True)
    with pytest.raises(CheckpointError, match="python -m torch") as caught:
        load_backbone(tmp_path / "shards")
    command = str(caught.value).partition(": python ")[2].replace("NEW.pth", str(tmp_path / "new.pth"))
    subprocess.run([sys.executable, *shlex.split(command)], check=True, capture_output=True)
    assert same_weights(load_backbone(tmp_path / "new.pth"), model)
