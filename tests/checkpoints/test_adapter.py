"""Adapters: what comes back is bit-equal, what does not fit is refused in one line."""

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

from prosg.checkpoints.adapter import is_adapter, load_adapter, save_adapter
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.encoded import save_encoded
from prosg.checkpoints.fingerprints import model_fingerprint, sampled_fingerprint
from prosg.checkpoints.load import load_model
from prosg.data.templates import TEMPLATES, OwnTemplate
from prosg.model.config import ProSGConfig
from prosg.model.prosg import ProSG
from prosg.tokenizers.special import SpecialTokens
from prosg.utils.io import CheckpointError
from support.checkpoints import assert_refused, save_with_base
from support.models import MODULES, live_backbone, live_model, same_encoded, tokens, word_tokenizer

PROMPT, LENGTHS, ANSWER = tokens(2, 6), torch.tensor([6, 4]), tokens(2, 5, seed=4)


def model(module: str | None = "plus", **changes: Any) -> ProSG:
    return live_model("rwkv4", module, torch.float32, **changes)


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "prosg_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("changes", [{}, {"share_stack": True}], ids=["own stacks", "one stack"])
def test_an_adapter_comes_back_bit_for_bit(module: str, changes: dict[str, Any], tmp_path: Path) -> None:
    trained = model(module, **changes)
    loaded, where = load_adapter(save_with_base(trained, tmp_path / "adapter"))
    assert where.samefile(tmp_path / "base.pth")
    one, two = trained.encode(PROMPT, LENGTHS), loaded.encode(PROMPT, LENGTHS)
    assert same_encoded(one, two)
    for mine, theirs in zip(
        trained.score(one, ANSWER, torch.tensor([5, 3])), loaded.score(two, ANSWER, torch.tensor([5, 3])), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert loaded.prosg_config.preset == trained.prosg_config.preset
    assert not loaded.training
    assert model_fingerprint(loaded) == model_fingerprint(trained)


def test_a_base_of_which_only_some_rows_have_changed_is_refused(tmp_path: Path) -> None:
    folder = save_with_base(model(), tmp_path / "adapter")
    base = torch.load(tmp_path / "base.pth", weights_only=True)
    base["emb.weight"][1::2] = 0.0
    torch.save(base, tmp_path / "base.pth")
    assert_refused(lambda: load_adapter(folder), "another backbone than .*base.pth")


def test_an_adapter_of_version_0_1_still_finds_its_base(tmp_path: Path) -> None:
    """Its fingerprint was of a sample of the weights."""
    trained = model()
    folder = save_with_base(trained, tmp_path / "adapter")
    config = json.loads((folder / "prosg_config.json").read_text())
    assert config.pop("fingerprint_version") == 2
    config["base_fingerprint"] = sampled_fingerprint(trained.backbone)
    (folder / "prosg_config.json").write_text(json.dumps(config))
    assert model_fingerprint(load_adapter(folder)[0]) == model_fingerprint(trained)
    assert model_fingerprint(load_adapter(folder, dtype=torch.float64)[0]) == model_fingerprint(trained)
    (folder / "prosg_config.json").write_text(json.dumps(config | {"base_fingerprint": "0" * 64}))
    assert_refused(lambda: load_adapter(folder), "another backbone")


def test_a_loaded_adapter_trains_on(tmp_path: Path) -> None:
    loaded, _ = load_adapter(save_with_base(model("plus", share_stack=True), tmp_path / "adapter"))
    stacks = {id(layer.stack) for layer in loaded.synthesizer.layers}
    assert len(stacks) == 1
    assert all(p.requires_grad for p in loaded.synthesizer.parameters())


def test_an_adapter_is_two_files_of_plain_text_and_tensors(tmp_path: Path) -> None:
    folder = save_with_base(model(), tmp_path / "adapter")
    assert sorted(p.name for p in folder.iterdir()) == ["prosg_config.json", "prosg_model.safetensors"]
    config = json.loads((folder / "prosg_config.json").read_text())
    assert config["base"] == "../base.pth"
    assert len(config["base_fingerprint"]) == 64
    assert is_adapter(folder)
    assert not is_adapter(tmp_path)


def test_the_base_is_found_from_the_adapter_from_here_or_as_told(tmp_path: Path, monkeypatch: Any) -> None:
    trained = model()
    here, away = tmp_path / "here", tmp_path / "away"
    save_with_base(trained, here / "adapter")
    here.rename(away)  # both are moved together
    assert load_adapter(away / "adapter")[1].samefile(away / "base.pth")
    monkeypatch.chdir(away)
    save_adapter(trained, tmp_path / "elsewhere" / "adapter", base="base.pth")
    edit(tmp_path / "elsewhere" / "adapter", base="base.pth")  # as it was written before
    assert load_adapter(tmp_path / "elsewhere" / "adapter")[1].samefile(away / "base.pth")
    monkeypatch.chdir(tmp_path)
    missing = tmp_path / "elsewhere" / "adapter"
    assert_refused(lambda: load_adapter(missing), "base.pth.*--base", FileNotFoundError)
    assert load_adapter(missing, base=away / "base.pth")[1].samefile(away / "base.pth")
    nameless = edit(missing, base="")
    assert_refused(lambda: load_adapter(nameless), r"unnamed.*--base", FileNotFoundError)


def test_an_adapter_is_loaded_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = live_model("rwkv4", dtype=torch.float32)
    save_backbone(model.backbone, tmp_path / "base.pth")
    monkeypatch.chdir(tmp_path)
    for base in (None, "base.pth"):
        model.base = "base.pth"
        save_adapter(model, "some/adapter", base=base, overwrite=True)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path / "elsewhere")
            assert load_adapter(tmp_path / "some" / "adapter")[1].samefile(tmp_path / "base.pth")


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path: Path) -> None:
    trained, folder = model(), tmp_path / "adapter"
    assert_refused(lambda: save_adapter(trained, folder), "lies in no file.*save_backbone", ValueError)
    assert_refused(lambda: save_adapter(trained, folder, base="nowhere.pth"), "nowhere.pth is not there", ValueError)
    save_backbone(trained.backbone, tmp_path / "base.pth")
    fresh = ProSG.from_scratch(load_model(tmp_path / "base.pth"), "static")
    with torch.no_grad():
        trained.backbone.emb.weight[3] += 1.0
    assert_refused(lambda: save_adapter(trained, folder, base="../base.pth"), "base.pth .*were changed", ValueError)
    assert not folder.exists()
    for adapter in (fresh, fresh.bfloat16()):
        save_adapter(adapter, folder, overwrite=True)
        assert load_model(folder).prosg_config.preset == "static"
        assert load_model(folder, dtype="bf16").dtype == torch.bfloat16


def test_a_fresh_module_keeps_what_the_model_had(tmp_path: Path) -> None:
    own = load_model(save_with_base(model(), tmp_path / "adapter"))
    own.tokenizer, own.special, own.chunk = word_tokenizer(), SpecialTokens((3,), 2), 5
    own.own_template = OwnTemplate(trained=TEMPLATES["pile"])
    made = ProSG.from_scratch(own, ProSGConfig.from_preset("static", rank=2), seed=4)
    assert made.backbone is own.backbone and made.prosg_config.rank == 2 and not made.training
    for name in ("tokenizer", "special", "own_template", "base", "chunk", "initial", "anchor"):
        assert getattr(made, name) == getattr(own, name)
    again = ProSG.from_scratch(own, ProSGConfig.from_preset("static", rank=2), seed=4).synthesizer.state_dict()
    assert all(torch.equal(again[name], value) for name, value in made.synthesizer.state_dict().items())
    save_adapter(made, tmp_path / "fresh")
    loaded = load_model(tmp_path / "fresh")
    assert loaded.prosg_config == made.prosg_config and loaded.template == TEMPLATES["pile"]
    with pytest.raises(ValueError, match="paper, plus, static"):
        ProSG.from_scratch(own, "pluss")


def test_another_base_is_refused(tmp_path: Path) -> None:
    folder = save_with_base(model(), tmp_path / "adapter")
    save_backbone(live_backbone("rwkv4", torch.float32, seed=9), tmp_path / "other.pth")
    assert_refused(lambda: load_adapter(folder, base=tmp_path / "other.pth"), "adapter: .*another backbone.*other")
    save_backbone(live_backbone("rwkv4", torch.float32, seed=9), tmp_path / "base.pth", overwrite=True)
    assert_refused(lambda: load_adapter(folder), "another backbone.*--base")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown key": (lambda f: edit(f, ranks=3), "prosg_config.json: .*ranks.*reads, rank"),
    "out of range": (lambda f: edit(f, rank=0), "prosg_config.json: .*rank is 0.*1"),
    "another rank": (lambda f: edit(f, rank=3), "prosg_model.safetensors: .*prosg_config.json.*size mism"),
    "other tensors": (lambda f: edit(f, memory_tap=False), "prosg_model.safetensors: .*prosg_config.json"),
    "not JSON": (lambda f: (f / "prosg_config.json").write_text("{"), "prosg_config.json: not JSON"),
    "a list": (lambda f: (f / "prosg_config.json").write_text("[]"), "prosg_config.json: .*list"),
    "truncated": (
        lambda f: os.truncate(f / "prosg_model.safetensors", 1000),
        "prosg_model.safetensors: truncated",
    ),
    "empty": (lambda f: os.truncate(f / "prosg_model.safetensors", 0), "prosg_model.safetensors: truncated"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_adapters_are_refused(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = save_with_base(model(), tmp_path / "adapter")
    damage(folder)
    assert_refused(lambda: load_adapter(folder), message)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = save_with_base(model(), tmp_path / "adapter")
    weights = load_file(folder / "prosg_model.safetensors")
    weights["layers.1.queries"][0, 0] = float("nan")
    save_file(weights, folder / "prosg_model.safetensors")
    assert_refused(lambda: load_adapter(folder), "prosg_model.safetensors: layers.1.queries .*NaN")


def test_an_unknown_choice_is_named(tmp_path: Path) -> None:
    """In a process of its own: here the test suite's type checks would come first."""
    folder = edit(save_with_base(model(), tmp_path / "adapter"), reads="all")
    code = f"from prosg.checkpoints.adapter import load_adapter; load_adapter({str(folder)!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    last = run.stderr.strip().splitlines()[-1]
    assert all(word in last for word in ("prosg_config.json", "module.reads", "'all'", "all_positions"))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    assert_refused(lambda: load_adapter(tmp_path), "prosg_config.json")
    folder = save_with_base(model(), tmp_path / "adapter")
    (folder / "prosg_model.safetensors").unlink()
    assert_refused(lambda: load_adapter(folder), "prosg_model.safetensors: no such file", FileNotFoundError)
    with pytest.raises(ValueError, match="module"):
        save_adapter(model(None), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = model()
    folder = save_with_base(trained, tmp_path / "adapter")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    for name in ("json.dumps", "prosg.checkpoints.adapter.save_tensors"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            with pytest.raises(OSError, match="no space left"):
                save_adapter(trained, folder, base="../base.pth", overwrite=True)
            with pytest.raises(OSError, match="no space left"):
                save_adapter(trained, tmp_path / "new", base="../base.pth")
    with monkeypatch.context() as patch:
        patch.setattr("prosg.checkpoints.encoded.save_file", full)
        with pytest.raises(OSError, match="no space left"):
            save_encoded(trained.encode(PROMPT), tmp_path / "prompt.safetensors", trained)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base.pth"]


def test_adapters_are_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = save_with_base(model(), tmp_path / "adapter")
    assert_refused(lambda: save_adapter(model(), folder), "adapter: exists; overwrite=True", FileExistsError)
    save_adapter(model("paper"), folder, base="../base.pth", overwrite=True)
    assert load_adapter(folder)[0].prosg_config.preset == "paper"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("mine")
    assert_refused(lambda: save_adapter(model(), tmp_path / "notes", overwrite=True), "not replaced", FileExistsError)


SLIPS: list[tuple[str, Any]] = [
    ("alpha", float("nan")),
    ("alpha", 1e39),
    ("alpha", 1e20),
    ("alpha", True),
    ("alpha", "1"),
    ("rank", None),
    ("rank", 1e9),
    ("rank", 10**9),
    ("rank", 10**400),
    ("memory_tap", 1),
    ("reads", None),
    ("reads", ["nothing"]),
    ("target_modules", "key"),
    ("target_modules", [1]),
    ("target_modules", None),
    ("reference_length", float("inf")),
    ("blocks", -1),
    ("base", None),
    ("base", 3),
    ("tokenizer", []),
    ("base_fingerprint", {}),
]


@pytest.mark.parametrize(("key", "value"), SLIPS)
def test_a_configuration_has_values_of_the_right_type_and_size(key: str, value: Any, tmp_path: Path) -> None:
    folder = save_with_base(live_model("rwkv4", "plus", torch.float32), tmp_path / "adapter")
    file = folder / "prosg_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=r"prosg_config.json: ") as error:
        load_model(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    file.write_text("[" * 5000)
    with pytest.raises(CheckpointError, match=r"prosg_config.json: brackets deeper"):
        load_model(folder)


@pytest.mark.parametrize("damage", [torch.Tensor.bool, torch.Tensor.long, lambda t: t.double() * 1e300])
def test_weights_are_finite_floating_point_numbers(damage: Any, tmp_path: Path) -> None:
    folder = save_with_base(live_model("rwkv4", "plus", torch.float32), tmp_path / "adapter")
    file = folder / "prosg_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file({**tensors, "layers.0.queries": damage(tensors["layers.0.queries"] + 1)}, file)
    with pytest.raises(CheckpointError, match=r"prosg_model.safetensors: layers.0.queries"):
        load_model(folder)
