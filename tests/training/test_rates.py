"""Learning rates of a module's matrices follow the sizes of its backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.data.encode import EncodedRow
from prosg.demo.models import DEMO_MODELS
from prosg.model.config import PRESETS, ProSGConfig
from prosg.model.prosg import ProSG
from prosg.training.config import Optimisation, TrainConfig
from prosg.training.rates import rate_factors, scale_rates
from prosg.training.setup import training_arguments
from prosg.training.trainer import ProSGTrainer
from support.hf_models import hf_backbone
from support.models import live_backbone

LARGE: dict[str, Any] = {"hidden_size": 192, "num_attention_heads": 4, "num_hidden_layers": 8, "intermediate_size": 8}


def large(config: ProSGConfig = PRESETS["plus"]) -> ProSG:
    return ProSG(hf_backbone("llama", **LARGE), config, seed=0)


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_the_demos_rates_are_as_they_were(name: str) -> None:
    model = ProSG(DEMO_MODELS[name].fresh(0), PRESETS["plus"], seed=0)
    assert set(rate_factors(model.synthesizer).values()) == {1.0}


def test_wide_and_deep_backbones_have_lower_ones() -> None:
    factors = rate_factors(large().synthesizer)
    assert factors["layers.0.from_input.weight"] == factors["layers.7.from_memory.weight"] == 0.5
    assert factors["layers.0.stack.blocks.0.0.weight"] == factors["layers.0.map_a.q_proj.weight"] == 0.5
    assert factors["layers.0.map_b.v_proj.weight"] == 0.25
    assert factors["layers.0.base_b.v_proj"] == factors["layers.0.map_b.v_proj.bias"] == 0.5
    for name in ("queries", "slots", "norm.weight", "from_input.bias", "base_a.q_proj", "stack.blocks.0.3.weight"):
        assert factors[f"layers.0.{name}"] == 1


@pytest.mark.parametrize("preset", ["static", "paper"])
def test_other_modules_are_left_alone(preset: str) -> None:
    backbone = live_backbone("rwkv4", torch.float32)
    assert set(rate_factors(ProSG(backbone, PRESETS[preset]).synthesizer).values()) == {1.0}
    assert rate_factors(None) == {}


def test_every_parameter_is_in_one_group() -> None:
    model = large()
    named = dict(model.synthesizer.named_parameters())
    optimizer = torch.optim.AdamW(named.values(), lr=0.1)
    scale_rates(optimizer, model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates) == len(named)
    for name, factor in rate_factors(model.synthesizer).items():
        assert rates[id(named[name])] == pytest.approx(0.1 * factor)


@pytest.mark.parametrize("scaled", [True, False])
def test_the_schedule_begins_from_them(tmp_path: Path, scaled: bool) -> None:
    row = EncodedRow(1, "1", [1, 2], [3, 4, 0], 2, False, 2)
    optim = Optimisation(steps=4, batch_size=1, warmup_steps=2, lr=0.01, scale_rates=scaled)
    config = TrainConfig("m", "t", str(tmp_path), optim=optim, report_to="none", device="cpu")
    model = large()
    model.backbone.requires_grad_(False)
    trainer = ProSGTrainer(model, config, training_arguments(config, model, "fp32", evaluate=False), [row], [])
    trainer.create_optimizer_and_scheduler(4)
    initial = {group["initial_lr"] / optim.lr for group in trainer.optimizer.param_groups}
    assert initial == ({1.0, 0.5, 0.25} if scaled else {1.0})
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.0}  # a warm-up begins
