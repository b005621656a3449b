"""Checkpoints: roundtrips bit for bit, what is refused and in which words, and that nothing half-written stays."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import prosg.checkpoints.weights
from prosg.backbones.layouts import RWKV4_LAYOUT, from_hf, to_hf
from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.backbone import convert, fingerprint_file, load_backbone, read_checkpoint, save_backbone
from prosg.checkpoints.fingerprints import fingerprint
from prosg.checkpoints.weights import check_finite
from prosg.tokenizers.world import VOCABULARY_NAME
from prosg.utils.io import CheckpointError, written_whole

CONFIG = RWKV4Config(vocab_size=40, hidden_size=16, num_layers=3, attention_size=24, ffn_size=40)


@pytest.fixture
def model() -> RWKV4:
    model = RWKV4(CONFIG)
    model.reset_parameters()
    return model


@pytest.fixture
def weights(model: RWKV4) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: RWKV4, b: RWKV4) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


def test_names_go_both_ways(weights: dict[str, Tensor]) -> None:
    there = {name: to_hf(name, RWKV4_LAYOUT.names) for name in weights}
    assert len(set(there.values())) == len(weights)
    assert all(from_hf(hf or "", RWKV4_LAYOUT.names) == name for name, hf in there.items())
    assert there["blocks.2.att.time_mix_r"] == "rwkv.blocks.2.attention.time_mix_receptance"
    assert to_hf("lm_head.weight", RWKV4_LAYOUT.names) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_roundtrips_bit_for_bit(model: RWKV4, dtype: torch.dtype, tmp_path: Path) -> None:
    model.to(dtype)
    save_backbone(model, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "b.pth")
    save_backbone(load_backbone(tmp_path / "folder"), tmp_path / "c.pth")
    for name in ("a.pth", "folder", "b.pth", "c.pth"):
        loaded = load_backbone(tmp_path / name)
        assert loaded.config == CONFIG
        assert same(loaded, model)
        assert fingerprint(loaded) == fingerprint(model) == fingerprint_file(tmp_path / name)
    assert len({path.stat().st_mode for path in (tmp_path / "folder").iterdir()}) == 1
    assert len({(tmp_path / name).read_bytes() for name in ("a.pth", "b.pth", "c.pth")}) == 1


def test_fingerprint_tells_weights_apart(model: RWKV4) -> None:
    before = fingerprint(model)
    wider = RWKV4(CONFIG).double()
    wider.load_state_dict(model.state_dict())
    assert fingerprint(wider) == before
    with torch.no_grad():
        model.blocks[1].ffn.value.weight[0, 0] += 1
    assert fingerprint(model) != before


def test_half_precision(model: RWKV4, weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_backbone(model.half(), tmp_path / "half.pth")
    loaded = load_backbone(tmp_path / "half.pth")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert fingerprint(loaded) == fingerprint(model)
    assert load_backbone(tmp_path / "half.pth", dtype=torch.float16).emb.weight.dtype == torch.float16

    # As transformers stores it: matrices narrow, decays in fp32.
    mixed = {name: t if t.dim() == 1 and "time_" in name else t.bfloat16() for name, t in weights.items()}
    torch.save(mixed, tmp_path / "mixed.pth")
    loaded = load_backbone(tmp_path / "mixed.pth")
    assert loaded.emb.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.blocks[0].att.time_decay, weights["blocks.0.att.time_decay"])
    assert loaded(torch.tensor([[1, 2]])).logits.isfinite().all()

    convert(tmp_path / "mixed.pth", tmp_path / "narrow", torch.bfloat16)
    stored = load_file(tmp_path / "narrow" / "model.safetensors")
    assert stored["rwkv.blocks.0.attention.time_decay"].dtype == torch.float32
    assert json.loads((tmp_path / "narrow" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(
    weights: dict[str, Tensor], wrong: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    narrow = {name: tensor.to(dtype) for name, tensor in weights.items()}
    narrow["blocks.1.ffn.key.weight"][3, 2:4] = wrong
    torch.save(narrow, tmp_path / "bad.pth")
    for use in (load_backbone, lambda path: convert(path, tmp_path / "made")):
        with pytest.raises(CheckpointError, match=r"bad.pth: blocks.1.ffn.key.weight has 2 of 640 values that are NaN"):
            use(tmp_path / "bad.pth")
    assert not (tmp_path / "made").exists()


def test_values_are_looked_through_in_parts(weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prosg.weights, "PART", 7)
    check_finite("x.pth", weights | {"none": torch.zeros(0), "whole": torch.ones(2, dtype=torch.int8)})
    weights["head.weight"][39, 15] = float("nan")  # the very last
    with pytest.raises(CheckpointError, match=r"x.pth: head.weight has 1 of 640"):
        check_finite("x.pth", weights)


def test_the_largest_numbers_are_finite(weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights["head.weight"].fill_(torch.finfo(torch.float32).max)  # their sum is not
    torch.save(weights, tmp_path / "large.pth")
    assert load_backbone(tmp_path / "large.pth").head.weight.max() == torch.finfo(torch.float32).max


def test_what_does_not_fit_is_refused_before_it_is_cast(
    model: RWKV4, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_backbone(model.half(), tmp_path / "half.pth")
    size = sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(prosg.weights, "_available", lambda: 3 * size)
    with pytest.raises(CheckpointError, match=r"half.pth: is float16 and takes .* as float32, but .*--dtype bf16"):
        load_backbone(tmp_path / "half.pth")
    assert load_backbone(tmp_path / "half.pth", dtype=torch.bfloat16).emb.weight.dtype == torch.bfloat16
    assert load_backbone(tmp_path / "half.pth", dtype=torch.float16).emb.weight.dtype == torch.float16  # mapped


def test_what_was_cast_is_let_go_of_unharmed(tmp_path: Path) -> None:
    """Pages are given back: of a mapped file, of one that is read at once, and of a tensor that two names share."""
    wide = RWKV4(RWKV4Config(vocab_size=4000, hidden_size=128, num_layers=1))
    wide.reset_parameters()
    tensors = {name: tensor.half() for name, tensor in wide.state_dict().items()}
    tensors["head.weight"] = tensors["emb.weight"]
    for legacy in (False, True):
        torch.save(tensors, tmp_path / "half.pth", _use_new_zipfile_serialization=not legacy)
        loaded = load_backbone(tmp_path / "half.pth").state_dict()
        assert all(torch.equal(loaded[name], tensors[name].float()) for name in tensors)


def test_loaded_weights_train_and_leave_the_file_alone(model: RWKV4, tmp_path: Path) -> None:
    for name in ("model.pth", "folder"):
        save_backbone(model, tmp_path / name)
        loaded = load_backbone(tmp_path / name)
        loaded(torch.tensor([[1, 2, 3]])).logits.square().mean().backward()
        torch.optim.SGD(loaded.parameters(), 1.0).step()
        assert not same(loaded, model)
        assert same(load_backbone(tmp_path / name), model)


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
    assert same(load_backbone(sharded), model)

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text(config)
    torch.save(hf, pickled / "pytorch_model.bin")
    assert same(load_backbone(pickled), model)

    tied = tmp_path / "tied"
    tied.mkdir()
    (tied / "config.json").write_text(json.dumps(json.loads(config) | {"tie_word_embeddings": True}))
    save_file({name: tensor for name, tensor in hf.items() if name != "head.weight"}, tied / "model.safetensors")
    assert torch.equal(load_backbone(tied).head.weight, model.emb.weight)

    legacy = tmp_path / "legacy.pth"
    torch.save(weights, legacy, _use_new_zipfile_serialization=False)
    assert same(load_backbone(legacy), model)

    (sharded / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-2.safetensors: no such file"):
        load_backbone(sharded)
    index["weight_map"]["head.weight"] = "../model.safetensors"
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not a plain file name"):
        load_backbone(sharded)


def test_tokenizer_is_carried_along(model: RWKV4, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text('{"version": "1.0"}')
    save_backbone(model, tmp_path / "one" / "model.pth", tokenizer=tokenizer)
    convert(tmp_path / "one", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "two" / "model.pth")
    found = read_checkpoint(tmp_path / "two").tokenizer
    assert found is not None
    assert found.read_text() == tokenizer.read_text()
    tokenizer.write_text('{"version": "2.0"}')
    with pytest.raises(FileExistsError, match=r"tokenizer.json: exists and differs"):
        convert(tmp_path / "folder", tmp_path / "other.pth")
    assert not (tmp_path / "other.pth").exists()


def test_an_rwkv_vocabulary_is_carried_along(model: RWKV4, tmp_path: Path) -> None:
    vocabulary = tmp_path / "mine" / "vocabulary.txt"
    vocabulary.parent.mkdir()
    vocabulary.write_text("1 'a' 1\n")
    save_backbone(model, tmp_path / "one" / "model.pth", tokenizer=vocabulary)
    convert(tmp_path / "one" / "model.pth", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "two" / "model.pth")
    found = read_checkpoint(tmp_path / "two" / "model.pth").tokenizer
    assert found == tmp_path / "two" / VOCABULARY_NAME
    assert found.read_text() == vocabulary.read_text()
    # Of two kinds in a folder one would be taken for both models.
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "tokenizer.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"tokenizer.json: exists and differs from .*rwkv_vocab"):
        convert(tmp_path / "folder", tmp_path / "three" / "model.pth")


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def hf_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {to_hf(name, RWKV4_LAYOUT.names) or name: tensor for name, tensor in weights.items()}


ONE = torch.zeros(1)
REFUSED = {
    "RWKV-5": ({"emb.weight": ONE, "blocks.0.att.ln_x.weight": ONE}, "this is an RWKV-5 checkpoint; supported: rwkv4"),
    "RWKV-5.1": (
        {"blocks.0.att.ln_x.weight": ONE, "blocks.0.att.gate.weight": ONE, "blocks.0.att.time_decay": ONE},
        "an RWKV-5.1 checkpoint",
    ),
    "RWKV-5.2": (
        {"blocks.0.att.ln_x.weight": ONE, "blocks.0.att.time_decay": torch.zeros(2, 64)},
        "an RWKV-5.2 checkpoint",
    ),
    "RWKV-6": ({"blocks.0.att.ln_x.weight": ONE, "blocks.0.att.time_maa_x": ONE}, "an RWKV-6 checkpoint"),
    "RWKV-7 in part": ({"blocks.0.att.ln_x.weight": ONE, "blocks.0.att.r_k": ONE}, "tensor 'emb.weight' is missing"),
    "initial states": ({"blocks.0.att.time_state": ONE}, "holds learned initial states, not a model"),
    "another model": ({"model.layers.0.mlp.weight": ONE}, "not a checkpoint of a native backbone; supported: rwkv4"),
    "a list": ([ONE], "holds a list; needs a dict of tensors"),
    "a nested dict": ({"model": {"emb.weight": ONE}}, "model is a dict; only tensors are allowed"),
    "code": ({"emb.weight": ONE, "args": Malice()}, "contains code or pickled objects other than tensors; refused"),
    "integers": ({"emb.weight": torch.zeros(1, dtype=torch.int8)}, "emb.weight is int8; supported: bfloat16"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_files(content: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=f"bad.pth: .*{re.escape(message)}") as caught:
        load_backbone(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


CHANGES = {
    "missing": ({"ln_out.bias": None, "blocks.1.ln2.bias": None}, "missing tensors .*: blocks.1.ln2.bias, ln_out.bias"),
    "missing size": ({"blocks.0.ffn.key.weight": None}, "tensor 'blocks.0.ffn.key.weight' is missing"),
    "missing block": ({"blocks.9.ln1.bias": ONE}, r"missing tensors in this rwkv4 checkpoint: .* and \d+ more"),
    "unexpected": ({"blocks.1.tiny_att.weight": ONE}, "unexpected tensors .*: blocks.1.tiny_att.weight"),
    "layers differ": (
        {"blocks.2.ffn.key.weight": torch.zeros(41, 16)},
        r"blocks.2.ffn.key.weight has shape \(41, 16\), expected \(40, 16\)",
    ),
    "odd shape": ({"emb.weight": torch.zeros(40)}, "a tensor has an impossible shape"),
    "no vocabulary": ({"emb.weight": torch.zeros(0, 16)}, "a tensor has an impossible shape .*vocab_size is 0"),
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
    "rwkv6": ({"model_type": "rwkv6"}, "model_type is 'rwkv6'; supported: 'rwkv' .rwkv4."),
    "epsilon": ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06; supported: 1e-05"),
}


@pytest.mark.parametrize(("change", "message"), CONFIGS.values(), ids=CONFIGS.keys())
def test_refused_folders(model: RWKV4, change: dict[str, object], message: str, tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "folder")
    config = tmp_path / "folder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(CheckpointError, match=f"config.json: {message}"):
        load_backbone(tmp_path / "folder")


def test_ambiguous_folders(model: RWKV4, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights; needs"):
        load_backbone(tmp_path)
    save_backbone(model, tmp_path / "a.pth")
    assert same(load_backbone(tmp_path), model)
    save_backbone(model, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"2 \.pth files \(a.pth, b.pth"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: not JSON"):
        load_backbone(tmp_path)


def test_nothing_is_overwritten_unasked(model: RWKV4, tmp_path: Path) -> None:
    other = RWKV4(CONFIG)
    other.reset_parameters()
    for name in ("model.pth", "folder"):
        save_backbone(model, tmp_path / name)
        with pytest.raises(FileExistsError, match="exists; pass overwrite=True"):
            save_backbone(other, tmp_path / name)
        assert same(load_backbone(tmp_path / name), model)
        save_backbone(other, tmp_path / name, overwrite=True)
        assert same(load_backbone(tmp_path / name), other)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"a folder without config.json"):
        save_backbone(model, tmp_path / "precious", overwrite=True)
    with pytest.raises(CheckpointError, match=r"cannot write .safetensors; allowed: a .pth file or a folder"):
        save_backbone(model, tmp_path / "model.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"model.pth", "folder", "precious"}


def test_an_interrupted_write_leaves_things_as_they_were(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "config.json").write_text("old")

    def interrupted() -> None:
        with written_whole(target, overwrite=True, marker="config.json") as temporary:
            temporary.mkdir()
            (temporary / "config.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "config.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_kernel_and_the_device_are_passed_on(model: RWKV4, tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "model.pth")
    loaded = load_backbone(tmp_path / "model.pth", kernel="scan", device="meta")
    assert loaded.kernel == "scan"
    assert loaded.emb.weight.device.type == "meta"


def test_importing_does_not_pull_in_transformers() -> None:
    code = "import sys, prosg.checkpoint; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
