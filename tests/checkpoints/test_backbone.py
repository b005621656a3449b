"""Backbones in and out of files: bit for bit in every layout, with their tokenizers, and nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints import fingerprints
from prosg.checkpoints.backbone import convert, load_backbone, save_backbone
from prosg.checkpoints.fingerprints import backbone_fingerprint, checkpoint_fingerprint
from prosg.checkpoints.load import load_model
from prosg.checkpoints.native_reader import read_checkpoint
from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.files import tokenizer_beside
from prosg.tokenizers.world import VOCABULARY_NAME, WORLD_FINGERPRINT, world_file
from prosg.utils.io import CheckpointError
from support.checkpoints import SMALL_RWKV4, same_weights
from support.models import word_tokenizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_roundtrips_bit_for_bit(model: RWKV4, dtype: torch.dtype, tmp_path: Path) -> None:
    model.to(dtype)
    save_backbone(model, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "b.pth")
    save_backbone(load_backbone(tmp_path / "folder"), tmp_path / "c.pth")
    for name in ("a.pth", "folder", "b.pth", "c.pth"):
        loaded = load_backbone(tmp_path / name)
        assert loaded.config == SMALL_RWKV4
        assert same_weights(loaded, model)
        assert backbone_fingerprint(loaded) == backbone_fingerprint(model) == checkpoint_fingerprint(tmp_path / name)
    assert len({path.stat().st_mode for path in (tmp_path / "folder").iterdir()}) == 1
    assert len({(tmp_path / name).read_bytes() for name in ("a.pth", "b.pth", "c.pth")}) == 1


def test_half_precision(model: RWKV4, weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_backbone(model.half(), tmp_path / "half.pth")
    loaded = load_backbone(tmp_path / "half.pth")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert backbone_fingerprint(loaded) == backbone_fingerprint(model)
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


def test_a_type_may_be_named(model: RWKV4, tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", "bf16")
    assert {
        load_backbone(tmp_path / "b").emb.weight.dtype,
        load_backbone(tmp_path / "a", dtype="bf16").emb.weight.dtype,
    } == {torch.bfloat16}
    with pytest.raises(ValueError, match="'bf61'.*allowed: fp32, bf16"):
        convert(tmp_path / "a", tmp_path / "c", "bf61")


def test_loaded_weights_train_and_leave_the_file_alone(model: RWKV4, tmp_path: Path) -> None:
    for name in ("model.pth", "folder"):
        save_backbone(model, tmp_path / name)
        loaded = load_backbone(tmp_path / name)
        loaded(torch.tensor([[1, 2, 3]])).logits.square().mean().backward()
        torch.optim.SGD(loaded.parameters(), 1.0).step()
        assert not same_weights(loaded, model)
        assert same_weights(load_backbone(tmp_path / name), model)


def test_tokenizer_is_carried_along(model: RWKV4, tmp_path: Path) -> None:
    tokenizer = word_tokenizer().save(tmp_path)
    save_backbone(model, tmp_path / "one" / "model.pth", tokenizer=tokenizer)
    convert(tmp_path / "one", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "two" / "model.pth")
    found = read_checkpoint(tmp_path / "two").tokenizer
    assert found is not None
    assert found.read_text() == tokenizer.read_text()
    tokenizer.write_text('{"version": "2.0"}')
    with pytest.raises(
        FileExistsError, match=r"tokenizer.json: exists, and is another tokenizer than the model's tokenizer.json; "
    ):
        convert(tmp_path / "folder", tmp_path / "other.pth")
    assert not (tmp_path / "other.pth").exists()


def test_an_rwkv_vocabulary_is_carried_along(model: RWKV4, tmp_path: Path) -> None:
    vocabulary = tmp_path / "mine" / "vocabulary.txt"
    vocabulary.parent.mkdir()
    vocabulary.write_text("".join(f"{byte + 1} {bytes([byte])!r} 1\n" for byte in range(256)))
    save_backbone(model, tmp_path / "one" / "model.pth", tokenizer=vocabulary)
    convert(tmp_path / "one" / "model.pth", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "two" / "model.pth")
    found = read_checkpoint(tmp_path / "two" / "model.pth").tokenizer
    assert found == tmp_path / "two" / VOCABULARY_NAME
    assert found.read_text() == vocabulary.read_text()
    # Of two kinds in a folder one would be taken for both models.
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "tokenizer.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"tokenizer.json: .*rwkv_vocab"):
        convert(tmp_path / "folder", tmp_path / "three" / "model.pth")


def test_nothing_is_overwritten_unasked(model: RWKV4, tmp_path: Path) -> None:
    other = RWKV4(SMALL_RWKV4)
    other.reset_parameters()
    for name in ("model.pth", "folder"):
        save_backbone(model, tmp_path / name)
        with pytest.raises(FileExistsError, match="exists; overwrite=True replaces it"):
            save_backbone(other, tmp_path / name)
        assert same_weights(load_backbone(tmp_path / name), model)
        save_backbone(other, tmp_path / name, overwrite=True)
        assert same_weights(load_backbone(tmp_path / name), other)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"precious: .*config.json"):
        save_backbone(model, tmp_path / "precious", overwrite=True)
    with pytest.raises(CheckpointError, match=r"model.safetensors: .*\.pth.*folder"):
        save_backbone(model, tmp_path / "model.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"model.pth", "folder", "precious"}


def test_the_kernel_and_the_device_are_passed_on(model: RWKV4, tmp_path: Path) -> None:
    save_backbone(model, tmp_path / "model.pth")
    loaded = load_backbone(tmp_path / "model.pth", kernel="scan", device="meta")
    assert loaded.kernel == "scan"
    assert loaded.emb.weight.device.type == "meta"


def test_importing_does_not_pull_in_transformers() -> None:
    code = "import sys, prosg.checkpoints.backbone; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_converted_world_model_is_whole_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = RWKV4(RWKV4Config(vocab_size=65536, hidden_size=4, num_layers=1))
    model.reset_parameters()
    save_backbone(model, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "folder")
    convert(tmp_path / "x.pth", tmp_path / "y.pth")
    assert {path.name for path in tmp_path.iterdir()} == {"x.pth", "y.pth", "folder"}
    world = world_file().read_bytes()
    monkeypatch.setitem(sys.modules, "rwkv", None)
    moved = (tmp_path / "folder").rename(tmp_path / "moved")
    loaded = load_model(moved)
    assert loaded.tokenizer is not None and loaded.tokenizer.fingerprint == WORLD_FINGERPRINT
    assert (moved / VOCABULARY_NAME).read_bytes() == world


@pytest.mark.parametrize("name", ["folder", "model.pth"])
def test_a_tokenizer_is_written_as_its_file_is(name: str, model: RWKV4, tmp_path: Path) -> None:
    tokenizer = train_bpe(["a cat sat", "a dog"], 270)
    for place, source in (("object", tokenizer), ("file", str(tokenizer.save(tmp_path)))):
        save_backbone(model, tmp_path / place / name, tokenizer=source)
    written = [tokenizer_beside(tmp_path / place / name) for place in ("object", "file")]
    assert written[0] is not None and written[1] is not None
    assert written[0].read_bytes() == written[1].read_bytes()
    with pytest.raises(ValueError, match=r"nowhere.json: no tokenizer.json"):
        save_backbone(model, tmp_path / "x", tokenizer=tmp_path / "nowhere.json")


def test_a_file_is_hashed_once_while_it_stays_as_it_is(
    model: RWKV4, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prosg.utils.file_hashes.SETTLED", -1)
    read: list[Path] = []
    monkeypatch.setattr(fingerprints, "_of_files", lambda path, *options: read.append(path) or f"{len(read)}")
    save_backbone(model, tmp_path / "a.pth")
    assert fingerprints.checkpoint_fingerprint(tmp_path / "a.pth") == "1"
    assert fingerprints.checkpoint_fingerprint(str(tmp_path / "a.pth")) == "1"
    save_backbone(model, tmp_path / "a.pth", overwrite=True)
    assert fingerprints.checkpoint_fingerprint(tmp_path / "a.pth") == "2"
    monkeypatch.setattr("prosg.utils.file_hashes.SETTLED", 1 << 62)  # written just now
    assert fingerprints.checkpoint_fingerprint(tmp_path / "a.pth") == "3"
    assert fingerprints.checkpoint_fingerprint(tmp_path / "a.pth") == "4"
