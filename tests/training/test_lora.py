"""Phase 1 as a LoRA: what trains, what is saved, and that PEFT reads it."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers

from prosg.checkpoints.backbone import load_backbone
from prosg.checkpoints.export import merge
from prosg.checkpoints.load import load_model
from prosg.cli import main
from prosg.training.lora import add_lora, is_lora, remove_lora
from support.hf_models import HF_TINY, hf_backbone
from support.kills import assert_same_run, between_steps, run_killed
from support.models import TINY, live_backbone
from support.training_folder import TrainingFolder, checkpointed, losses

LORA = ("--lora", 2, "--optim.lr", 1e-2)


@pytest.mark.parametrize("name", [*TINY, *HF_TINY])
def test_a_removed_lora_is_the_update_that_was_added(name: str) -> None:
    backbone = live_backbone(name, torch.float32) if name in TINY else hf_backbone(name)
    tokens = torch.randint(1, 23, (2, 7))
    with torch.no_grad():
        before = backbone(tokens).logits
    modules = dict(backbone.named_modules())
    add_lora(backbone, 2, 3.0, [], seed=0)
    factors = {name: p for name, p in backbone.named_parameters() if is_lora(name)}
    assert factors
    with torch.no_grad():
        for parameter in factors.values():
            parameter += 0.2 * torch.randn(parameter.shape)
        wrapped = backbone(tokens).logits
        trained = remove_lora(backbone)
        assert dict(backbone.named_modules()).keys() == modules.keys()
        torch.testing.assert_close(backbone(tokens).logits, before)
        assert not torch.allclose(wrapped, before, atol=1e-3)
        torch.testing.assert_close(merge(backbone, trained)(tokens).logits, wrapped, rtol=1e-4, atol=1e-4)


def test_a_killed_run_repeats_an_uninterrupted_one(folder: TrainingFolder, tmp_path: Path) -> None:
    command = folder.command("finetune", tmp_path / "killed", *LORA)
    run_killed(command, between_steps())
    assert main(command) == 0
    folder.run("finetune", tmp_path / "whole", *LORA)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1] < losses(tmp_path / "whole")[0]
    weights = checkpointed(tmp_path / "whole")
    assert weights and all(is_lora(name) for name in weights)


def test_a_run_leaves_a_merged_model_and_pefts_folder_beside_it(folder: TrainingFolder, tmp_path: Path) -> None:
    folder.run("finetune", tmp_path / "run", *LORA, "--lora_modules", "[key, value]")
    model = load_model(tmp_path / "run")
    before, after = load_backbone(folder.model).state_dict(), model.backbone.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [f"blocks.{layer}.att.{name}.weight" for layer in (0, 1) for name in ("key", "value")]
    assert json.loads((tmp_path / "run" / "lora" / "adapter_config.json").read_text())["r"] == 2

    theirs = transformers.RwkvForCausalLM.from_pretrained(folder.model)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "run" / "lora")
    tokens = torch.randint(1, 300, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model.backbone(tokens).logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lora", 2, "--lora_modules", "[keys]"), ("keys", "allowed: key, value, receptance, output")),
        (("--lora_alpha", 2), ("--lora",)),
        (("--lora", -1), ("lora is -1", "must not be negative")),
    ],
)
def test_wrong_options_are_refused(
    folder: TrainingFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    words: tuple[str, ...],
) -> None:
    assert main(folder.command("finetune", tmp_path / "run", *options)) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not (tmp_path / "run").exists()
