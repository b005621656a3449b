"""Adapters and encoded prompts as files: what comes back is bit-equal, what does not fit is refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.adapter import is_adapter, load_adapter, save_adapter
from prosg.checkpoints.backbone import CheckpointError, save_backbone
from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.checkpoints.load import load_model, need_tokenizer
from prosg.core.encoded import EncodedPrompt
from prosg.model.config import PRESETS
from prosg.model.prosg import ProSG
from prosg.tokenizers.files import load_tokenizer
from prosg.tokenizers.world import VOCABULARY_NAME, WORLD_FINGERPRINT, WorldTokenizer
from support.models import MODULES, live_backbone, live_model, state_bits_equal, tokens, word_tokenizer

PROMPT, LENGTHS, ANSWER = tokens(2, 6), torch.tensor([6, 4]), tokens(2, 5, seed=4)


def model(module: str | None = "plus", **changes: Any) -> ProSG:
    return live_model("rwkv4", module, torch.float32, **changes)


def save(trained: ProSG, folder: Path, base: str | Path = "../base.pth", **options: Any) -> Path:
    """An adapter beside its base, as a training run leaves them."""
    save_backbone(trained.backbone, folder.parent / "base.pth", overwrite=True)
    save_adapter(trained, folder, base=base, **options)
    return folder


def same(a: EncodedPrompt, b: EncodedPrompt) -> bool:
    return (
        torch.equal(a.logits, b.logits)
        and state_bits_equal(a.state, b.state)
        and (a.update is None) == (b.update is None)
        and set(a.update or {}) == set(b.update or {})
        and all(torch.equal(x, y) for s, d in (a.update or {}).items() for x, y in zip(d, b.update[s], strict=True))
    )


def refused(call: Callable[[], object], message: str, kind: type[Exception] = CheckpointError) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert issubclass(kind, ValueError | OSError)


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "prosg_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


# -- adapters


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("changes", [{}, {"share_stack": True}], ids=["own stacks", "one stack"])
def test_an_adapter_comes_back_bit_for_bit(module: str, changes: dict[str, Any], tmp_path: Path) -> None:
    trained = model(module, **changes)
    loaded, where = load_adapter(save(trained, tmp_path / "adapter"))
    assert where.samefile(tmp_path / "base.pth")
    one, two = trained.encode(PROMPT, LENGTHS), loaded.encode(PROMPT, LENGTHS)
    assert same(one, two)
    for mine, theirs in zip(
        trained.score(one, ANSWER, torch.tensor([5, 3])), loaded.score(two, ANSWER, torch.tensor([5, 3])), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert loaded.prosg_config.preset == trained.prosg_config.preset
    assert not loaded.training
    assert model_fingerprint(loaded) == model_fingerprint(trained)


def test_a_loaded_adapter_trains_on(tmp_path: Path) -> None:
    loaded, _ = load_adapter(save(model("plus", share_stack=True), tmp_path / "adapter"))
    stacks = {id(layer.stack) for layer in loaded.synthesizer.layers}
    assert len(stacks) == 1
    assert all(p.requires_grad for p in loaded.synthesizer.parameters())


def test_an_adapter_is_two_files_of_plain_text_and_tensors(tmp_path: Path) -> None:
    folder = save(model(), tmp_path / "adapter")
    assert sorted(p.name for p in folder.iterdir()) == ["prosg_config.json", "prosg_model.safetensors"]
    config = json.loads((folder / "prosg_config.json").read_text())
    assert config["base"] == "../base.pth"
    assert len(config["base_fingerprint"]) == 64
    assert is_adapter(folder)
    assert not is_adapter(tmp_path)


def test_the_base_is_found_from_the_adapter_from_here_or_as_told(tmp_path: Path, monkeypatch: Any) -> None:
    trained = model()
    here, away = tmp_path / "here", tmp_path / "away"
    save(trained, here / "adapter")
    here.rename(away)  # both are moved together
    assert load_adapter(away / "adapter")[1].samefile(away / "base.pth")
    monkeypatch.chdir(away)
    save_adapter(trained, tmp_path / "elsewhere" / "adapter", base="base.pth")
    assert load_adapter(tmp_path / "elsewhere" / "adapter")[1].samefile(away / "base.pth")
    monkeypatch.chdir(tmp_path)
    missing = tmp_path / "elsewhere" / "adapter"
    refused(lambda: load_adapter(missing), "its backbone base.pth is not there; say where", FileNotFoundError)
    assert load_adapter(missing, base=away / "base.pth")[1].samefile(away / "base.pth")
    save_adapter(trained, tmp_path / "nameless")
    refused(lambda: load_adapter(tmp_path / "nameless"), r"its backbone \(unnamed\) is not there", FileNotFoundError)


def test_another_base_is_refused(tmp_path: Path) -> None:
    folder = save(model(), tmp_path / "adapter")
    save_backbone(live_backbone("rwkv4", torch.float32, seed=9), tmp_path / "other.pth")
    refused(
        lambda: load_adapter(folder, base=tmp_path / "other.pth"), "adapter: made for another backbone than .*other"
    )
    save_backbone(live_backbone("rwkv4", torch.float32, seed=9), tmp_path / "base.pth", overwrite=True)
    refused(lambda: load_adapter(folder), "made for another backbone .*name the right one with --base")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown key": (lambda f: edit(f, ranks=3), "prosg_config.json: unknown key ranks; known are preset, reading"),
    "out of range": (lambda f: edit(f, rank=0), "prosg_config.json: module.rank is 0, must be at least 1"),
    "another rank": (lambda f: edit(f, rank=3), "prosg_model.safetensors: does not fit prosg_config.json: .*size mism"),
    "other tensors": (lambda f: edit(f, memory_tap=False), "prosg_model.safetensors: does not fit prosg_config.json"),
    "not JSON": (lambda f: (f / "prosg_config.json").write_text("{"), "prosg_config.json: not JSON"),
    "a list": (lambda f: (f / "prosg_config.json").write_text("[]"), "prosg_config.json: holds a list, not an object"),
    "truncated": (
        lambda f: os.truncate(f / "prosg_model.safetensors", 1000),
        "prosg_model.safetensors: truncated, or not a safetensors file",
    ),
    "empty": (lambda f: os.truncate(f / "prosg_model.safetensors", 0), "prosg_model.safetensors: truncated"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_adapters_are_refused(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = save(model(), tmp_path / "adapter")
    damage(folder)
    refused(lambda: load_adapter(folder), message)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = save(model(), tmp_path / "adapter")
    weights = load_file(folder / "prosg_model.safetensors")
    weights["layers.1.queries"][0, 0] = float("nan")
    save_file(weights, folder / "prosg_model.safetensors")
    refused(lambda: load_adapter(folder), "prosg_model.safetensors: layers.1.queries has 1 of .* values that are NaN")


def test_an_unknown_choice_is_named(tmp_path: Path) -> None:
    """In a process of its own: here the test suite's type checks would come first."""
    folder = edit(save(model(), tmp_path / "adapter"), reading="all")
    code = f"from prosg.adapter import load_adapter; load_adapter({str(folder)!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    last = run.stderr.strip().splitlines()[-1]
    assert "prosg_config.json: module.reading is 'all'; known are last, attention, none" in last


def test_missing_parts_are_named(tmp_path: Path) -> None:
    refused(lambda: load_adapter(tmp_path), "not an adapter folder: it has no prosg_config.json")
    folder = save(model(), tmp_path / "adapter")
    (folder / "prosg_model.safetensors").unlink()
    refused(lambda: load_adapter(folder), "prosg_model.safetensors: no such file", FileNotFoundError)
    with pytest.raises(ValueError, match="this model has no synthesis module to save"):
        save_adapter(model(None), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = model()
    folder = save(trained, tmp_path / "adapter")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    for name in ("json.dumps", "prosg.checkpoints.adapter.save_model"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            with pytest.raises(OSError, match="no space left"):
                save_adapter(trained, folder, overwrite=True)
            with pytest.raises(OSError, match="no space left"):
                save_adapter(trained, tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr("prosg.checkpoints.adapter.save_file", full)
        with pytest.raises(OSError, match="no space left"):
            save_encoded(trained.encode(PROMPT), trained, tmp_path / "prompt.safetensors")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base.pth"]


def test_adapters_are_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = save(model(), tmp_path / "adapter")
    refused(lambda: save_adapter(model(), folder), "adapter: exists; pass overwrite=True", FileExistsError)
    save_adapter(model("paper"), folder, base="../base.pth", overwrite=True)
    assert load_adapter(folder)[0].prosg_config.preset == "paper"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("mine")
    refused(lambda: save_adapter(model(), tmp_path / "notes", overwrite=True), "not replaced", FileExistsError)


# -- models by name


def test_a_model_is_a_backbone_or_an_adapter(tmp_path: Path) -> None:
    trained = live_model("rwkv4", "plus", torch.float32, vocab=16)
    tokenizer = word_tokenizer()
    tokenizer.save(tmp_path)
    folder = save(trained, tmp_path / "adapter")
    for name, module in ((folder, True), (tmp_path / "base.pth", False)):
        loaded = load_model(name)
        assert (loaded.synthesizer is not None) == module
        assert not loaded.training
        assert loaded.tokenizer.fingerprint == tokenizer.fingerprint  # it lies beside the base
    other = tmp_path / "other"
    word_tokenizer().save(other)
    assert load_model(folder, tokenizer=other).tokenizer is not None
    assert load_model(folder, dtype=torch.float64).backbone.head.weight.dtype == torch.float64
    with pytest.raises(ValueError, match="is not an adapter folder .it has no prosg_config.json., so it has no base"):
        load_model(tmp_path / "base.pth", base=tmp_path / "base.pth")


def test_a_tokenizer_must_fit_the_vocabulary(tmp_path: Path) -> None:
    word_tokenizer().save(tmp_path)
    folder = save(live_model("rwkv4", "plus", torch.float32, vocab=12), tmp_path / "adapter")
    with pytest.raises(ValueError, match="tokenizer.json: 16 tokens, but the model's vocabulary has 12; they must fit"):
        load_model(folder)


def small(vocab: int) -> ProSG:
    return ProSG(RWKV4(RWKV4Config(vocab_size=vocab, hidden_size=4, num_layers=1)), PRESETS["plus"])


def test_world_is_picked_by_the_vocabulary_size_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(small(65536), tmp_path / "adapter")
    for name in (tmp_path / "base.pth", folder):
        loaded = load_model(name)
        assert loaded.tokenizer.fingerprint == WORLD_FINGERPRINT
        said = capsys.readouterr().err
        assert said == "tokenizer: World (picked by the vocabulary size 65536; another with --tokenizer)\n"
    assert load_model(folder, tokenizer="world").tokenizer.fingerprint == WORLD_FINGERPRINT
    word_tokenizer().save(tmp_path)
    assert load_model(tmp_path / "base.pth").tokenizer.fingerprint == word_tokenizer().fingerprint
    assert capsys.readouterr().err == ""


def test_an_adapter_remembers_world_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = small(65540)  # not picked for this size
    trained.tokenizer = load_tokenizer("world")
    folder = save(trained, tmp_path / "adapter")
    assert not (folder / VOCABULARY_NAME).exists()
    assert load_model(folder).tokenizer.fingerprint == WORLD_FINGERPRINT
    assert capsys.readouterr().err == ""
    refused(lambda: load_model(folder, tokenizer=word_tokenizer().save(tmp_path)), "not the tokenizer", ValueError)
    config = json.loads((folder / "prosg_config.json").read_text())
    (folder / "prosg_config.json").write_text(json.dumps(config | {"tokenizer": "word"}))
    refused(lambda: load_model(folder), "prosg_config.json: tokenizer is 'word', allowed: 'world'")


def test_an_adapter_keeps_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    trained = small(300)
    trained.tokenizer = WorldTokenizer({byte + 1: bytes([byte]) for byte in range(256)} | {299: b"ab"})
    folder = save(trained, tmp_path / "adapter")
    assert load_model(folder).tokenizer.encode("abc") == [299, 100]
    save_adapter(load_model(folder), folder, base="../base.pth", overwrite=True)
    assert load_model(folder).tokenizer.fingerprint == trained.tokenizer.fingerprint


def test_world_is_too_large_for_a_small_model(tmp_path: Path) -> None:
    save(small(65529), tmp_path / "adapter")
    message = "world: 65530 tokens, but the model's vocabulary has 65529; they must fit"
    refused(lambda: load_model(tmp_path / "base.pth", tokenizer="world"), message, ValueError)


def test_who_has_no_tokenizer_is_told_which_one_is_meant(tmp_path: Path) -> None:
    for size, words in ((50277, "--tokenizer 20B_tokenizer.json: models with a vocabulary of 50277"), (300, "--token")):
        save(small(size), tmp_path / str(size) / "adapter")
        name = tmp_path / str(size) / "base.pth"
        loaded = load_model(name)
        assert loaded.tokenizer is None
        refused(lambda: need_tokenizer(loaded, name), f"base.pth: no tokenizer lies beside it.*{words}", ValueError)  # noqa: B023


# -- encoded prompts


@pytest.mark.parametrize("module", [*MODULES, None])
def test_an_encoded_prompt_comes_back_bit_for_bit(module: str | None, tmp_path: Path) -> None:
    trained = model(module)
    encoded = trained.encode(PROMPT, LENGTHS)
    save_encoded(encoded, trained, tmp_path / "prompt.safetensors")
    assert same(load_encoded(tmp_path / "prompt.safetensors", trained), encoded)
    one = encoded.take(torch.tensor([1]))
    save_encoded(one, trained, tmp_path / "prompt.safetensors")
    assert same(load_encoded(tmp_path / "prompt.safetensors", trained), one)
    with pytest.raises(FileExistsError, match="exists"):
        save_encoded(one, trained, tmp_path / "prompt.safetensors", overwrite=False)


def test_an_encoded_prompt_belongs_to_the_model_that_made_it(tmp_path: Path) -> None:
    trained, path = model(), tmp_path / "prompt.safetensors"
    save_encoded(trained.encode(PROMPT), trained, path)
    changed = model()
    with torch.no_grad():
        changed.synthesizer.layers[1].queries[0, 0] += 1e-6
    others = (model("paper"), model(None), model(seed=5), changed)
    assert len({model_fingerprint(other) for other in (*others, trained)}) == 5
    for other in others:
        refused(lambda other=other: load_encoded(path, other), "prompt.safetensors: made by another model; encode")


def test_damaged_encoded_prompts_are_refused(tmp_path: Path) -> None:
    trained, path = model(), tmp_path / "prompt.safetensors"
    refused(lambda: load_encoded(path, trained), "prompt.safetensors: no such file", FileNotFoundError)
    save_encoded(trained.encode(PROMPT), trained, path)
    whole = {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file is mapped, and cut below
    metadata = {"format": "prosg-encoded-1", "model": model_fingerprint(trained)}
    for size in (0, 5, 3000):
        os.truncate(path, size)
        refused(lambda: load_encoded(path, trained), "prompt.safetensors: truncated, or not a safetensors file")
    save_file(whole, path)
    refused(
        lambda: load_encoded(path, trained), "prompt.safetensors: not an encoded prompt; make one with: prosg encode"
    )
    for name in ("state.1.num", "update.0.key.b", "logits"):
        save_file({n: t for n, t in whole.items() if n != name}, path, metadata=metadata)
        refused(lambda name=name: load_encoded(path, trained), f"prompt.safetensors: tensor '{name}' is missing")
    save_file(whole | {"state.0.num": torch.zeros(2, 3)}, path, metadata=metadata)
    refused(lambda: load_encoded(path, trained), r"num has shape \(2, 3\), expected")
    save_file(whole | {"update.0.key.a": torch.zeros(2, 8, 3)}, path, metadata=metadata)
    refused(lambda: load_encoded(path, trained), r"site 0.key: a has shape \(2, 8, 3\), expected")
