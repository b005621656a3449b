"""Reading native checkpoints: folders of every shape, and what is refused."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prosg.backbones.layouts import RWKV4_LAYOUT, RWKV7_LAYOUT, to_hf
from prosg.backbones.rwkv4 import RWKV4
from prosg.checkpoints.backbone import convert, load_backbone, save_backbone
from prosg.checkpoints.initial_state import load_initial
from prosg.cli import main
from prosg.utils.io import CheckpointError
from support.checkpoints import same_weights
from support.models import live_backbone


def test_other_shapes_of_folders(model: RWKV4, weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "folder")
    config = (tmp_path / "folder" / "config.json").read_text()
    hf = load_file(tmp_path / "folder" / "model.safetensors")

    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / "config.json").write_text(config)
    names = sorted(hf)
    shards = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for shard, members in shards.items():
        save_file({name: hf[name] for name in members}, sharded / shard)
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same_weights(load_backbone(sharded), model)

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text(config)
    torch.save(hf, pickled / "pytorch_model.bin")
    assert same_weights(load_backbone(pickled), model)

    tied = tmp_path / "tied"
    tied.mkdir()
    (tied / "config.json").write_text(json.dumps(json.loads(config) | {"tie_word_embeddings": True}))
    save_file({name: tensor for name, tensor in hf.items() if name != "head.weight"}, tied / "model.safetensors")
    assert torch.equal(load_backbone(tied).head.weight, model.emb.weight)

    legacy = tmp_path / "legacy.pth"
    torch.save(weights, legacy, _use_new_zipfile_serialization=False)
    assert same_weights(load_backbone(legacy), model)

    (sharded / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-2.safetensors: no such file"):
        load_backbone(sharded)
    index["weight_map"]["head.weight"] = "../model.safetensors"
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="model.safetensors.index.json: .*plain"):
        load_backbone(sharded)


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def hf_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {to_hf(name, RWKV4_LAYOUT.names) or name: tensor for name, tensor in weights.items()}


ONE = torch.zeros(1)
REFUSED = {
    "RWKV-5": ({"emb.weight": ONE, "blocks.0.att.ln_x.weight": ONE}, "RWKV-5 .*rwkv4"),
    "RWKV-5.1": (
        {"blocks.0.att.ln_x.weight": ONE, "blocks.0.att.gate.weight": ONE, "blocks.0.att.time_decay": ONE},
        "RWKV-5.1",
    ),
    "RWKV-5.2": (
        {"blocks.0.att.ln_x.weight": ONE, "blocks.0.att.time_decay": torch.zeros(2, 64)},
        "RWKV-5.2",
    ),
    "RWKV-6": ({"blocks.0.att.ln_x.weight": ONE, "blocks.0.att.time_maa_x": ONE}, "RWKV-6"),
    "RWKV-6 of fla": ({"model.layers.0.attn.x_bias": ONE, "model.layers.0.attn.bonus": ONE}, "RWKV-6"),
    "RWKV-7a": ({"blocks.0.att.r_k": ONE, "blocks.0.ffn.s_emb.weight": ONE}, "RWKV-7a"),
    "RWKV-7b": (
        {"blocks.0.att.r_k": ONE, "blocks.0.ffn.s_emb.weight": ONE, "blocks.0.qkv.k_emb.weight": ONE},
        "RWKV-7b",
    ),
    "RWKV-7b of the port": ({"rwkv7.blocks.0.att.r_k": ONE, "rwkv7.blocks.0.qkv.qq.weight": ONE}, "RWKV-7b"),
    "RWKV-8": ({"blocks.0.rosa.q.weight": ONE, "blocks.0.ffn.key.weight": ONE}, "RWKV-8"),
    "RWKV-7 in part": ({"blocks.0.att.ln_x.weight": ONE, "blocks.0.att.r_k": ONE}, "emb.weight"),
    "initial states": ({"blocks.0.att.time_state": ONE}, "initial states"),
    "another model": ({"model.layers.0.mlp.weight": ONE}, "rwkv4"),
    "a list": ([ONE], "list"),
    "a nested dict": ({"optimizer": {"emb.weight": ONE}}, "optimizer .*tensors"),
    "one of several": ({"model": {"emb.weight": ONE}, "step": ONE}, "model .*tensors"),
    "a name that is none": ({0: ONE}, "a tensor's name is 0, of type int"),
    "a name of two lines": ({"emb.weight": ONE, "a\nb": ONE}, r"a tensor's name is 'a\\nb'; allowed"),
    "a long name": ({"emb.weight": ONE, "a" * 5000: ONE}, r"a tensor's name is 'a{79}\.\.\.; allowed"),
    "sparse": ({"emb.weight": torch.zeros(2, 2).to_sparse()}, "emb.weight is stored as sparse"),
    "code": ({"emb.weight": ONE, "args": Malice()}, "code"),
    "integers": ({"emb.weight": torch.zeros(1, dtype=torch.int8)}, "emb.weight is int8.*bfloat16"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_files(content: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=f"bad.pth: .*{message}") as caught:
        load_backbone(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickles_of_other_protocols(
    is_zip: bool, weights: dict[str, Tensor], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for protocol in (3, 4, 5):
        path = tmp_path / f"{protocol}.pth"
        torch.save(weights, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
        if protocol == 3:
            load_backbone(path)
            continue
        with pytest.raises(
            CheckpointError, match=rf"{protocol}.pth: pickled with protocol {protocol}, .*pickle_protocol=2"
        ):
            load_backbone(path)
    assert not [warned for warned in recwarn if "protocol" in str(warned.message)]


CHANGES = {
    "missing": ({"ln_out.bias": None, "blocks.1.ln2.bias": None}, "missing .*blocks.1.ln2.bias, ln_out.bias"),
    "missing size": ({"blocks.0.ffn.key.weight": None}, "tensor 'blocks.0.ffn.key.weight'"),
    "missing block": ({"blocks.9.ln1.bias": ONE}, r"missing .*rwkv4.* \d+ more"),
    "unexpected": ({"blocks.1.tiny_att.weight": ONE}, "unexpected .*blocks.1.tiny_att.weight"),
    "layers differ": (
        {"blocks.2.ffn.key.weight": torch.zeros(41, 16)},
        r"blocks.2.ffn.key.weight has shape \(41, 16\), expected \(40, 16\)",
    ),
    "odd shape": ({"emb.weight": torch.zeros(40)}, ".*shape"),
    "no vocabulary": ({"emb.weight": torch.zeros(0, 16)}, ".*shape.*vocab_size is 0"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("names", ["BlinkDL", "Hugging Face"])
def test_refused_tensors(
    weights: dict[str, Tensor], change: dict[str, Tensor | None], message: str, names: str, tmp_path: Path
) -> None:
    changed = {name: tensor for name, tensor in (weights | change).items() if tensor is not None}
    torch.save(changed if names == "BlinkDL" else hf_names(changed), tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=f"bad.pth: {message}") as caught:
        load_backbone(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)


def test_damaged_files(model: RWKV4, weights: dict[str, Tensor], tmp_path: Path) -> None:
    def cut(path: Path, size: int) -> Path:
        path.write_bytes(path.read_bytes()[:size])
        return path

    save_backbone(model, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x.pth: truncated"):
        load_backbone(cut(tmp_path / "x.pth", 10_000))
    with pytest.raises(CheckpointError, match=r"x.pth: empty"):
        load_backbone(cut(tmp_path / "x.pth", 0))
    for size in (500, 20_000):
        torch.save(weights, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
        with pytest.raises(CheckpointError, match=r"truncated|damaged"):
            load_backbone(cut(tmp_path / "legacy.pth", size))
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match=r"page.pth: not a PyTorch checkpoint"):
        load_backbone(tmp_path / "page.pth")
    save_backbone(model, tmp_path / "folder")
    cut(tmp_path / "folder" / "model.safetensors", 5_000)
    with pytest.raises(CheckpointError, match=r"model.safetensors: truncated"):
        load_backbone(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match=r"nothing.pth: no such file or folder"):
        load_backbone(tmp_path / "nothing.pth")


CONFIGS = {
    "rwkv6": ({"model_type": "rwkv6"}, "model_type is 'rwkv6' .RWKV-6.; .*rwkv4"),
    "rwkv5": ({"model_type": "rwkv5"}, "model_type is 'rwkv5' .RWKV-5.; .*rwkv4"),
    "rwkv6qwen2": ({"model_type": "rwkv6qwen2"}, "model_type is 'rwkv6qwen2'; .*rwkv4"),
    "no layers": ({"num_hidden_layers": None}, "num_hidden_layers is None"),
    "layers beyond all models": ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; .* at most 1000"),
    "other layers": ({"num_hidden_layers": 7}, "num_hidden_layers is 7, but the tensors"),
    "width": ({"hidden_size": True}, "hidden_size is True"),
    "no vocabulary": ({"vocab_size": 0}, "vocab_size is 0"),
    "a fraction": ({"vocab_size": 40.0}, "vocab_size is 40.0"),
    "no number": ({"hidden_size": float("nan")}, "not JSON .NaN"),
    "inner": ({"inner": {"num_layers": 10**9}}, "inner.num_layers is 1000000000"),
    "a size beyond all models": ({"intermediate_size": 10**12}, "intermediate_size is 1000000000000"),
    "digits": ({"other": 10**400}, "an integer of 401 digits"),
    "type": ({"model_type": ["rwkv"]}, "model_type is ..rwkv"),
    "epsilon": ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06.*1e-05"),
}


@pytest.mark.parametrize(("change", "message"), CONFIGS.values(), ids=CONFIGS.keys())
def test_refused_folders(model: RWKV4, change: dict[str, object], message: str, tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "folder")
    config = tmp_path / "folder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(CheckpointError, match=f"config.json: {message}"):
        load_backbone(tmp_path / "folder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 3}, "head_dim is 3, but the tensors' is 6"),
        ({"head_dim": "x"}, "head_dim is 'x', but the tensors' is 6"),
        ({"intermediate_size": 7}, "intermediate_size is 7, but the tensors' is 48"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported: 'sqrelu'"),
        ({"attn": {"layers": [1]}}, "attn is .*; supported: None"),
    ],
)
def test_an_rwkv7_is_what_its_tensors_say(change: dict[str, object], message: str, tmp_path: Path) -> None:
    save_backbone(live_backbone("rwkv7", torch.float32), tmp_path)
    config = tmp_path / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "hidden_act": "sqrelu", "attn": None, "num_heads": 32}))
    load_backbone(tmp_path)
    config.write_text(json.dumps({**said, **change}))
    with pytest.raises(CheckpointError, match=f"config.json: {message}"):
        load_backbone(tmp_path)


def test_two_tensors_of_one_name_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({**weights, "_orig_mod.head.weight": weights["head.weight"] + 1}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="x.pth: two tensors are head.weight without the prefix '_orig_mod.'"):
        load_backbone(tmp_path / "x.pth")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("1", "2"):
        save_file(weights, tmp_path / "f" / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="2.safetensors: has .*, which another file of .*f has, too"):
        load_backbone(tmp_path / "f")


def test_ambiguous_folders(model: RWKV4, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model.safetensors.*pth"):
        load_backbone(tmp_path)
    save_backbone(model, tmp_path / "a.pth")
    assert same_weights(load_backbone(tmp_path), model)
    save_backbone(model, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"2 \.pth or \.st files \(a.pth, b.pth"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: not JSON"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", {"emb.weight": None}, {"emb.weight": ["a"]}, 3])
def test_an_index_names_files(weight_map: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"index.json: weight_map must be an object"):
        load_backbone(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"a":' * 5000)
    with pytest.raises(CheckpointError, match=r"index.json: brackets deeper"):
        load_backbone(tmp_path)


def test_a_zip_that_is_larger_inside_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as whole, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
        bomb.writestr("x/data/99", bytes(10_000_000), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"bomb.pth: has compressed or overlapping entries"):
        load_backbone(tmp_path / "bomb.pth")


def test_a_tensor_is_not_larger_than_what_is_stored(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights | {"emb.weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x.pth: emb.weight has shape \(1000000, 1000000\), which takes more"):
        load_backbone(tmp_path / "x.pth")


def test_a_training_that_has_not_ended_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-3" / "trainer_state.json").write_text("{}")
    torch.save({"python": Malice()}, tmp_path / "run" / "checkpoint-3" / "rng_state.pth")
    for folder in (tmp_path / "run" / "checkpoint-3", tmp_path / "run"):
        with pytest.raises(CheckpointError, match="of a training that has not ended"):
            load_backbone(folder)


def test_memory_that_is_short_is_no_damage(weights: dict[str, Tensor], tmp_path: Path, monkeypatch: Any) -> None:
    torch.save(weights, tmp_path / "x.pth")

    def load(*_: Any, **__: Any) -> None:
        raise RuntimeError("unable to mmap 3 bytes from file <x.pth>: Cannot allocate memory (12)\nmore")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(CheckpointError, match=r"x.pth: there is not enough memory .*mmap") as error:
        load_backbone(tmp_path / "x.pth")
    assert "truncated" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.st", "model.pth"])
def test_the_content_says_what_a_file_is(
    name: str, model: RWKV4, weights: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(weights, tmp_path / name)
    assert same_weights(load_backbone(tmp_path / name), model)
    assert same_weights(load_backbone(tmp_path), model)  # a folder with this file alone
    convert(tmp_path / name, tmp_path / "folder")
    assert same_weights(load_backbone(tmp_path / "folder"), model)
    assert main(["info", str(tmp_path / name)]) == 0
    assert "rwkv4" in capsys.readouterr().out
    torch.save(weights, tmp_path / "pickled.st")
    assert same_weights(load_backbone(tmp_path / "pickled.st"), model)


@pytest.mark.parametrize("tiny", ["rwkv7", "rwkv7, own widths"])
def test_matrices_of_st_files_that_are_transposed(tiny: str, tmp_path: Path) -> None:
    model = live_backbone(tiny, torch.float32)
    turned = {n: t.mT.contiguous() if RWKV7_LAYOUT.transposed.search(n) else t for n, t in model.state_dict().items()}
    save_file(turned, tmp_path / "x.st")
    assert same_weights(load_backbone(tmp_path / "x.st"), model)
    torch.save(turned, tmp_path / "x.pth")
    assert same_weights(load_backbone(tmp_path / "x.pth"), model)


def test_st_files_that_are_refused(model: RWKV4, weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.st"
    save_file(weights, path)
    path.write_bytes(path.read_bytes()[:5_000])
    with pytest.raises(CheckpointError, match=r"x.st: truncated, or not a safetensors file") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=r"x.st: truncated, or not a safetensors file"):
        load_backbone(path)
    with pytest.raises(CheckpointError, match=r"y.st: cannot write .st; allowed: a .pth file or a folder"):
        save_backbone(model, tmp_path / "y.st")
    with pytest.raises(CheckpointError, match=r"x.st: a state in a .st file may be transposed"):
        load_initial(path, model)
