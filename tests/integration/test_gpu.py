"""On a GPU: the same model, the same numbers as on the CPU; skipped where there is none."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

from prosg.model.config import ProSGConfig
from prosg.model.prosg import ProSG
from prosg.training.perturbation import draw
from prosg.training.recipes import RECIPES
from prosg.training.state_bank import StateBank
from support.hf_models import HF_TINY, hf_backbone
from support.models import TINY
from support.training_folder import losses, make_training_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*fla has no kernel for heads:RuntimeWarning"),  # the models are tiny
]


def models(name: str) -> tuple[ProSG, ProSG]:
    torch.manual_seed(0)
    backbone = TINY[name].make(23)
    backbone.reset_parameters(torch.Generator().manual_seed(0))
    model = ProSG(backbone, ProSGConfig(), seed=1)
    for parameter in model.synthesizer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model, copy.deepcopy(model).to("cuda")


@pytest.mark.parametrize("name", TINY)
def test_encoding_and_generation_agree_with_the_cpu(name):
    cpu, gpu = models(name)
    prompt = torch.randint(1, 23, (3, 11))
    lengths = torch.tensor([11, 4, 7])
    here, there = cpu.encode(prompt, lengths), gpu.encode(prompt.cuda(), lengths.cuda())
    torch.testing.assert_close(there.logits.cpu(), here.logits, rtol=1e-4, atol=1e-4)
    for site, delta in here.update.items():
        torch.testing.assert_close(there.update[site].dense().cpu(), delta.dense(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_a_perturbed_step_has_the_cpu_s_loss_and_gradients(name):
    results = []
    for model in models(name):
        device = next(model.parameters()).device
        model.backbone.requires_grad_(False)
        generator = torch.Generator().manual_seed(2)
        prompt, answer = (torch.randint(1, 23, (4, n), generator=generator).to(device) for n in (6, 12))
        p = RECIPES["plus"].perturbation
        lengths, late = torch.full((4,), 12), torch.full((4,), 8)
        draws = draw(p, 0, 0, 0.5, torch.arange(4), late)
        draws = type(draws)(*(_to(part, device) for part in draws))
        bank = StateBank(p, 0)
        encoded = model.encode(prompt)
        bank.grow(model.backbone, 0, answer, late.to(device), encoded.state, encoded.update)
        ones = torch.ones(4, 12, device=device)
        scored = model(prompt, torch.full((4,), 6).to(device), answer, lengths.to(device), ones, draws, bank.state)
        scored.loss.backward()
        gradients = [q.grad.cpu() for q in model.synthesizer.parameters() if q.grad is not None]
        results.append((scored.loss.detach().cpu(), gradients))
    (loss, gradients), (gpu_loss, gpu_gradients) = results
    torch.testing.assert_close(gpu_loss, loss, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(gpu_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", HF_TINY)
def test_a_model_of_transformers_agrees_with_the_cpu(name):
    cpu = ProSG(hf_backbone(name), ProSGConfig(), seed=1)
    for parameter in cpu.synthesizer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    prompt, lengths = torch.randint(1, 23, (3, 11)), torch.tensor([11, 4, 7])
    answer, steps = torch.randint(1, 23, (3, 5)), torch.tensor([5, 1, 3])
    results = []
    for model in (cpu, copy.deepcopy(cpu).to("cuda")):
        rows = [t.to(next(model.parameters()).device) for t in (prompt, lengths, answer, steps, torch.ones(3, 5))]
        scored = model(*rows)
        nll, _ = model.score(model.encode(*rows[:2]), *rows[2:4])
        results.append((scored.nll.detach().cpu(), nll.cpu()))
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("phase", ["finetune", "synthesize"])
@pytest.mark.parametrize("sharded", [False, True])
def test_two_devices_train_what_one_does(tmp_path, phase, sharded):
    shop = make_training_folder(tmp_path)
    fsdp = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}
    options = ("--device", "cuda", "--perturbation.load", 0, "--perturbation.load_story", 0)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "prosg"]
    command = [sys.executable, *launcher, *shop.command(phase, tmp_path / "two", *options)]
    subprocess.run(command, env={**os.environ, **(fsdp if sharded else {})}, check=True)
    shop.run(phase, tmp_path / "one", *options)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def _to(part, device):
    return part.to(device) if isinstance(part, torch.Tensor) else type(part)(*(_to(p, device) for p in part))
