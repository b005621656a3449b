"""Models by name: adapters, backbones, output folders; which tokenizer a model gets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.hub import local_path
from prosg.checkpoints.load import demo_model, load_model, require_tokenizer
from prosg.model.config import PRESETS
from prosg.model.prosg import ProSG
from prosg.tokenizers.files import load_tokenizer
from prosg.tokenizers.world import VOCABULARY_NAME, WORLD_FINGERPRINT, WorldTokenizer
from support.checkpoints import assert_refused, save_with_base
from support.models import live_model, word_tokenizer


def test_a_model_is_a_backbone_or_an_adapter(tmp_path: Path) -> None:
    trained = live_model("rwkv4", "plus", torch.float32, vocab=16)
    tokenizer = word_tokenizer()
    tokenizer.save(tmp_path)
    folder = save_with_base(trained, tmp_path / "adapter")
    for name, module in ((folder, True), (tmp_path / "base.pth", False)):
        loaded = load_model(name)
        assert (loaded.synthesizer is not None) == module
        assert not loaded.training
        assert loaded.tokenizer.fingerprint == tokenizer.fingerprint  # it lies beside the base
    other = tmp_path / "other"
    word_tokenizer().save(other)
    assert load_model(folder, tokenizer=other).tokenizer is not None
    assert load_model(folder, dtype=torch.float64).backbone.head.weight.dtype == torch.float64
    with pytest.raises(ValueError, match="base.pth.*prosg_config.json"):
        load_model(tmp_path / "base.pth", base=tmp_path / "base.pth")


def test_a_tokenizer_must_fit_the_vocabulary(tmp_path: Path) -> None:
    word_tokenizer().save(tmp_path)
    folder = save_with_base(live_model("rwkv4", "plus", torch.float32, vocab=12), tmp_path / "adapter")
    with pytest.raises(ValueError, match="tokenizer.json: 16 .* 12"):
        load_model(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "gpu"}, "device is 'gpu'; allowed: auto, cpu, cuda"),
        ({"kernel": "gpu"}, "unknown wkv4 kernel 'gpu'; known are auto"),
        ({"begin_token": "x"}, "begin token is 'x'"),
        ({"target_modules": ["key"]}, r"target_modules is \['key'\], but .* is an adapter, which names its own"),
        ({"dtype": torch.int8}, "dtype is torch.int8; allowed: fp32, bf16"),
    ],
)
def test_a_name_or_an_id_that_is_none_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_model("demo", **options)


def test_projections_that_a_native_backbone_does_not_have_are_refused() -> None:
    base = load_model("demo").base
    assert len(load_model(base, target_modules=["key", "value"]).backbone.sites) == 12
    with pytest.raises(ValueError, match=r"target_modules \['q_proj'\] not in this rwkv4; it has key, value"):
        load_model(base, target_modules=["key", "q_proj"])
    with pytest.raises(ValueError, match="target_modules is 'key'; give a list"):
        load_model(base, target_modules="key")


def test_a_begin_token_is_a_number_too() -> None:
    assert load_model("demo", begin_token=5).special.begin == load_model("demo", begin_token="5").special.begin == 5


def small(vocab: int) -> ProSG:
    return ProSG(RWKV4(RWKV4Config(vocab_size=vocab, hidden_size=4, num_layers=1)), PRESETS["plus"])


def test_world_is_picked_by_the_vocabulary_size_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_with_base(small(65536), tmp_path / "adapter")
    for name in (tmp_path / "base.pth", folder):
        loaded = load_model(name)
        assert loaded.tokenizer.fingerprint == WORLD_FINGERPRINT
        said = capsys.readouterr().err
        assert all(word in said for word in ("World", "65536", "--tokenizer"))
    assert load_model(folder, tokenizer="world").tokenizer.fingerprint == WORLD_FINGERPRINT
    word_tokenizer().save(tmp_path)
    assert load_model(tmp_path / "base.pth").tokenizer.fingerprint == word_tokenizer().fingerprint
    assert capsys.readouterr().err == ""


def test_an_adapter_remembers_world_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = small(65540)  # not picked for this size
    trained.tokenizer = load_tokenizer("world")
    folder = save_with_base(trained, tmp_path / "adapter")
    assert not (folder / VOCABULARY_NAME).exists()
    assert load_model(folder).tokenizer.fingerprint == WORLD_FINGERPRINT
    assert capsys.readouterr().err == ""
    assert_refused(
        lambda: load_model(folder, tokenizer=word_tokenizer().save(tmp_path)), "not the tokenizer", ValueError
    )
    config = json.loads((folder / "prosg_config.json").read_text())
    (folder / "prosg_config.json").write_text(json.dumps(config | {"tokenizer": "word"}))
    assert_refused(lambda: load_model(folder), "prosg_config.json: .*'word'.*'world'")


def test_an_adapter_keeps_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    trained = small(300)
    trained.tokenizer = WorldTokenizer({byte + 1: bytes([byte]) for byte in range(256)} | {299: b"ab"})
    folder = save_with_base(trained, tmp_path / "adapter")
    assert load_model(folder).tokenizer.encode("abc") == [299, 100]
    save_adapter(load_model(folder), folder, base="../base.pth", overwrite=True)
    assert load_model(folder).tokenizer.fingerprint == trained.tokenizer.fingerprint


def test_world_is_too_large_for_a_small_model(tmp_path: Path) -> None:
    save_with_base(small(65529), tmp_path / "adapter")
    message = "world: 65530 .* 65529"
    assert_refused(lambda: load_model(tmp_path / "base.pth", tokenizer="world"), message, ValueError)


def test_who_has_no_tokenizer_is_told_which_one_is_meant(tmp_path: Path) -> None:
    for size, words in ((50277, "--tokenizer 20B_tokenizer.json.*50277"), (300, "--token")):
        save_with_base(small(size), tmp_path / str(size) / "adapter")
        name = tmp_path / str(size) / "base.pth"
        loaded = load_model(name)
        assert loaded.tokenizer is None
        assert_refused(lambda: require_tokenizer(loaded, name), f"base.pth: .*{words}", ValueError)  # noqa: B023


def test_an_output_folder_stands_for_what_it_holds(tmp_path: Path) -> None:
    shutil.copytree(demo_model().parent, tmp_path / "assets")
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "assets" / "plus").rename(run / "adapter")
    (tmp_path / "assets" / "base").rename(tmp_path / "base")
    config = run / "adapter" / "prosg_config.json"
    config.write_text(config.read_text().replace("../base", "../../base"))
    (run / "result.json").write_text("{}")
    model = load_model(run)
    assert model.synthesizer is not None
    assert model.tokenizer is not None
    assert model.generate("Remember the code 4821937. Now repeat the code.", temperature=0.0) == "Code: 4821937"


def test_a_model_that_a_killed_process_was_replacing_comes_back(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".model.{dead.pid}.old").mkdir()
    assert local_path(tmp_path / "model").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
