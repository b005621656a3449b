"""Updates in other people's programs: merged weights in the `rwkv` package, LoRA folders in PEFT."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.backbone import load_backbone, save_backbone
from prosg.checkpoints.export import PEFT_CONFIG, PEFT_WEIGHTS, export_peft, merge, peft_names
from prosg.core.update import LowRank, Update
from support.hf_models import hf_backbone, hf_model
from support.models import TINY, Tiny, assert_near, att_weight, gap, live_backbone, rwkv4, rwkv7, tokens

VOCAB, TIME, RANK = 50, 40, 3
# What the other programs demand: an attention as wide as the model, heads of 64.
SHAPES: dict[str, Tiny] = {
    "rwkv4": rwkv4(hidden_size=32, num_layers=3, ffn_size=72),
    "rwkv7": rwkv7(hidden_size=128, num_layers=3, head_size=64),
}


def large_update(backbone: Any, batch: int = 1, seed: int = 1) -> Update:
    """About as large as the weights."""
    generator = torch.Generator().manual_seed(seed)
    return {
        site: LowRank(
            torch.randn(batch, RANK, inp, generator=generator) / inp**0.5,
            torch.randn(batch, out, RANK, generator=generator) / RANK**0.5,
        )
        for site, (out, inp) in backbone.sites.items()
    }


def live(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(TINY, "elsewhere", SHAPES[name])
    return live_backbone("elsewhere", torch.float32, VOCAB)


def with_update(backbone: Any, ids: Tensor, update: Update) -> Tensor:
    with torch.no_grad():
        logits: Tensor = backbone(ids, update=update).logits[0]
    return logits


@pytest.fixture(scope="module")
def packages() -> dict[str, ModuleType]:
    """The `rwkv` package's module, for each version: which ones its class serves is settled when it is imported."""
    spec = importlib.util.find_spec("rwkv.model")
    assert spec is not None and spec.loader is not None
    modules = {}
    for name, on in (("rwkv4", "0"), ("rwkv7", "1")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RWKV_V7_ON", on)
            modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[name])
    return modules


def rwkv_package_logits(package: ModuleType, path: Path, ids: list[int]) -> Tensor:
    model = package.RWKV(model=str(path.with_suffix("")), strategy="cpu fp32")
    logits, state = [], None
    for token in ids:
        last, state = model.forward([token], state)
        logits.append(last.clone())
    return torch.stack(logits)


@pytest.mark.parametrize("name", SHAPES)
def test_merged_weights_in_the_rwkv_package(
    name: str, packages: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = live(name, monkeypatch)
    update, ids = large_update(backbone), tokens(1, TIME, vocab=VOCAB)
    ours = with_update(backbone, ids, update)
    assert gap(backbone(ids).logits[0].detach(), ours) > 0.1
    save_backbone(merge(backbone, update), tmp_path / "x.pth")
    assert gap(rwkv_package_logits(packages[name], tmp_path / "x.pth", ids[0].tolist()), ours) < 1e-4
    save_backbone(merge(backbone, update), tmp_path / "folder")
    assert gap(load_backbone(tmp_path / "folder")(ids).logits[0].detach(), ours) < 1e-5


def test_merging_is_done_in_fp32_and_shares_what_it_does_not_change() -> None:
    backbone = live_backbone("rwkv4", torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    update = large_update(backbone)
    after = merge(backbone, update)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    for site, delta in update.items():
        weight = att_weight(after, site)
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, (att_weight(backbone, site).float() + delta.dense()[0]).bfloat16())
    assert after.emb.weight is backbone.emb.weight
    assert type(after.blocks[0].att.key) is type(backbone.blocks[0].att.key)


@pytest.mark.parametrize(("name", "sites"), [("mamba", ("in_proj", "x_proj")), ("gpt2", ()), ("llama", ())])
def test_models_of_transformers_are_merged_and_exported(name: str, sites: tuple[str, ...], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    backbone = HFBackbone(hf_model(name), sites)
    update, ids = large_update(backbone), tokens(1, 12)
    ours = with_update(backbone, ids, update)
    with torch.no_grad():
        assert_near(merge(backbone, update)(ids).logits[0], ours, 1e-5)
    export_peft(backbone, update, tmp_path / "lora")
    theirs = peft.PeftModel.from_pretrained(backbone.model, tmp_path / "lora").eval()
    with torch.no_grad():
        assert gap(theirs(ids).logits[0], ours) < 1e-4


def transformers_model(name: str, folder: Path) -> Any:
    if name == "rwkv4":
        from transformers import RwkvForCausalLM

        return RwkvForCausalLM.from_pretrained(folder)
    return pytest.importorskip("rwkv7_hf.modeling_rwkv7").RWKV7ForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("name", SHAPES)
def test_a_lora_folder_in_peft(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    backbone = live(name, monkeypatch)
    update, ids = large_update(backbone), tokens(1, TIME, vocab=VOCAB)
    ours = with_update(backbone, ids, update)
    save_backbone(backbone, tmp_path / "base")
    export_peft(backbone, update, tmp_path / "lora", base=str(tmp_path / "base"))
    base = transformers_model(name, tmp_path / "base").eval()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    wrapped = [path for path, module in base.named_modules() if hasattr(module, "lora_A")]
    assert sorted(wrapped) == sorted(peft_names(backbone).values())
    with torch.no_grad():
        assert gap(theirs(ids).logits[0], ours) < 1e-4
        with theirs.disable_adapter():
            assert gap(theirs(ids).logits[0], backbone(ids).logits[0]) < 1e-5


@pytest.mark.parametrize("name", ["rwkv4", "rwkv7", "mamba", "llama"])
def test_an_activated_folder_in_peft(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last occurrence of the invocation's tokens on, PEFT computes with the update, and not before."""
    peft = pytest.importorskip("peft")
    if name in SHAPES:
        backbone = live(name, monkeypatch)
        save_backbone(backbone, tmp_path / "base")
        base = transformers_model(name, tmp_path / "base").eval()
    else:
        backbone = HFBackbone(hf_model(name), ("in_proj", "x_proj") if name == "mamba" else ())
        base = backbone.model
    update, ids = large_update(backbone), tokens(1, TIME)
    ids[0, 8:10] = ids[0, 24:26] = torch.tensor([3, 5])
    with torch.no_grad():
        ours = backbone_from(backbone, ids, update, 24)
        bare = backbone(ids).logits[0]
        everywhere = backbone(ids, update=update).logits[0]
    assert gap(ours[24:], everywhere[24:]) > 1e-3 and gap(ours, bare) > 0.1
    export_peft(backbone, update, tmp_path / "lora", invocation=[3, 5])
    assert json.loads((tmp_path / "lora" / PEFT_CONFIG).read_text())["alora_invocation_tokens"] == [3, 5]
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    with torch.no_grad():
        assert gap(theirs(ids).logits[0], ours) < 1e-4
        # With the offset given, from any place on: an answer's first token.
        assert gap(theirs(ids, alora_offsets=[TIME - 30]).logits[0], backbone_from(backbone, ids, update, 30)) < 1e-4


def backbone_from(backbone: Any, ids: Tensor, update: Update, start: int) -> Tensor:
    with torch.no_grad():
        logits: Tensor = backbone(ids, update=update, update_from=torch.tensor([start])).logits[0]
    return logits


def test_an_adapter_says_what_it_is(tmp_path: Path) -> None:
    backbone = live_backbone("rwkv4", torch.float32)
    export_peft(backbone, large_update(backbone), tmp_path / "lora", base="base")
    assert sorted(path.name for path in (tmp_path / "lora").iterdir()) == [PEFT_CONFIG, PEFT_WEIGHTS]
    config = json.loads((tmp_path / "lora" / PEFT_CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (RANK, RANK, "LORA")
    assert config["base_model_name_or_path"] == "base"
    pattern = config["target_modules"]
    assert re.fullmatch(pattern, "rwkv.blocks.11.attention.key")
    assert not re.fullmatch(pattern, "rwkv.blocks.11.feed_forward.key")


@pytest.mark.parametrize("act", ["merge", "export"])
def test_what_is_refused(act: str, tmp_path: Path) -> None:
    backbone = live_backbone("rwkv4", torch.float32)

    def run(update: Update, of: Any = backbone, folder: str = "lora") -> None:
        if act == "merge":
            merge(of, update)
        else:
            export_peft(of, update, tmp_path / folder)

    with pytest.raises(ValueError, match="2 prompts"):
        run(large_update(backbone, batch=2))
    other = live_backbone("rwkv4, own widths", torch.float32)
    with pytest.raises(ValueError, match="site 2.key|has shape"):
        run(large_update(other))
    if act == "export":
        retnet = live_backbone("retnet", torch.float32)
        with pytest.raises(ValueError, match="retnet.*prosg merge"):
            run(large_update(retnet), retnet)
        mamba = hf_backbone("mamba")
        with pytest.raises(ValueError, match="out_proj of mamba"):
            run(large_update(mamba), mamba)
        mixed = dict(large_update(backbone))
        site = next(iter(mixed))
        mixed[site] = LowRank(mixed[site].a[:, :1], mixed[site].b[:, :, :1])
        with pytest.raises(ValueError, match="ranks 1, 3"):
            run(mixed)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "note.txt").write_text("mine")
        with pytest.raises(FileExistsError, match="full: exists"):
            run(large_update(backbone), folder="full")
        assert [path.name for path in tmp_path.iterdir()] == ["full"]
