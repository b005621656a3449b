"""RWKV-4 against other people's code: rwkv.cpp's expected logits, the `rwkv` package and transformers.

Every model is written by `save_backbone` and read by the other side's own loader, so names and layouts are proved along
with the arithmetic. Channel-mixing is proved on random models only: in the trained tiny model it is as good as dead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.backbone import load_backbone, save_backbone
from support.models import gap
from support.rwkv_cpp import read_rwkv_cpp
from support.rwkv_recipe import anchored_gap

CONFIGS = {
    "plain": RWKV4Config(vocab_size=64, hidden_size=32, num_layers=2),
    "deep": RWKV4Config(vocab_size=100, hidden_size=48, num_layers=8),
    "ffn not 4 E": RWKV4Config(vocab_size=50, hidden_size=40, num_layers=3, ffn_size=72),
}
FREE = CONFIGS | {
    "attention wider": RWKV4Config(vocab_size=50, hidden_size=32, num_layers=3, attention_size=48, ffn_size=72),
    "attention narrower": RWKV4Config(vocab_size=50, hidden_size=48, num_layers=3, attention_size=32),
}
"""With those that transformers cannot carry a state for."""
KERNELS = ("scan", "auto")


def live_model(config: RWKV4Config, kernel: str = "auto") -> RWKV4:
    """Random weights that leave no part of the model idle."""
    model = RWKV4(config, kernel)
    model.reset_parameters()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "time_mix" in name:
                parameter.uniform_(0, 1)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        model.head.weight.normal_()
    return model


def as_memory(num: Tensor, den: Tensor, top: Tensor) -> Tensor:
    """Mean and log-weight of a memory: the same however it was normalised."""
    return torch.stack([num / den, den.log() + top])


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    gaps = {name: gap(ours[name], theirs[name]) for name in ours}
    assert max(gaps.values()) < tolerance, gaps


def run(model: RWKV4, tokens: Tensor) -> dict[str, Tensor]:
    """Logits (T, V) and state of one row, read in two calls."""
    with torch.no_grad():
        first = model(tokens[None, :7])
        second = model(tokens[None, 7:], first.state)
    result = {"logits": torch.cat([first.logits, second.logits], 1)[0]}
    for i, layer in enumerate(second.state):
        result[f"{i}.att_shift"], result[f"{i}.ffn_shift"] = layer.att_shift[0], layer.ffn_shift[0]
        result[f"{i}.memory"] = as_memory(layer.num[0], layer.den[0], layer.top[0])
    return result


def run_rwkv_package(path: Path, tokens: Tensor) -> dict[str, Tensor]:
    model = pytest.importorskip("rwkv.model").RWKV(str(path), "cpu fp32", verbose=False)
    assert model.version == 4
    # Token by token: reading several at once assumes an attention as wide as the model. The state is changed in place.
    logits, state = [], None
    for token in tokens.tolist():
        last, state = model.forward([token], state)
        logits.append(last.clone())
    result = {"logits": torch.stack(logits)}
    for i in range(model.args.n_layer):
        att_shift, num, den, top, ffn_shift = state[5 * i : 5 * i + 5]
        result[f"{i}.att_shift"], result[f"{i}.ffn_shift"] = att_shift, ffn_shift
        result[f"{i}.memory"] = as_memory(num, den, top)
    return result


def run_transformers(path: Path, tokens: Tensor) -> dict[str, Tensor]:
    from transformers import RwkvForCausalLM

    model, report = RwkvForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.rescale_every == 0
    with torch.no_grad():
        out = model.eval()(tokens[None], use_cache=True)
    result = {"logits": out.logits[0]}
    ffn_shift, att_shift, num, den, top = (part[0] for part in out.state)
    for i in range(model.config.num_hidden_layers):
        result[f"{i}.att_shift"], result[f"{i}.ffn_shift"] = att_shift[:, i], ffn_shift[:, i]
        result[f"{i}.memory"] = as_memory(num[:, i], den[:, i], top[:, i])
    return result


def run_numpy(model: RWKV4, tokens: Tensor) -> dict[str, Tensor]:
    """The equations once more, per token in fp64 with the memory unnormalised, for widths that others refuse."""
    w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    layers, width, size = model.config.num_layers, model.config.hidden_size, model.config.attention_size
    att, ffn = np.zeros((2, layers, width))
    num, den = np.zeros((2, layers, size))

    def norm(x: Any, name: str) -> Any:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    logits = []
    for token in tokens.tolist():
        x = norm(w["emb.weight"][token], "blocks.0.ln0")
        for i in range(layers):
            seen, last, p = norm(x, f"blocks.{i}.ln1"), att[i], f"blocks.{i}.att"
            r, k, v = (
                w[f"{p}.{name}.weight"] @ (seen * mu + last * (1 - mu))
                for name in ("receptance", "key", "value")
                for mu in (w[f"{p}.time_mix_{name[0]}"][0, 0],)
            )
            now = np.exp(w[f"{p}.time_first"] + k)
            memory = (num[i] + now * v) / (den[i] + now)
            decay = np.exp(-np.exp(w[f"{p}.time_decay"]))
            num[i], den[i] = decay * num[i] + np.exp(k) * v, decay * den[i] + np.exp(k)
            x = x + w[f"{p}.output.weight"] @ (sigmoid(r) * memory)
            att[i] = seen
            seen, last, p = norm(x, f"blocks.{i}.ln2"), ffn[i], f"blocks.{i}.ffn"
            r, k = (
                w[f"{p}.{name}.weight"] @ (seen * mu + last * (1 - mu))
                for name in ("receptance", "key")
                for mu in (w[f"{p}.time_mix_{name[0]}"][0, 0],)
            )
            x = x + sigmoid(r) * (w[f"{p}.value.weight"] @ np.maximum(k, 0) ** 2)
            ffn[i] = seen
        logits.append(w["head.weight"] @ norm(x, "ln_out"))
    result = {"logits": torch.tensor(np.array(logits))}
    for i in range(layers):
        result[f"{i}.att_shift"], result[f"{i}.ffn_shift"] = torch.tensor(att[i]), torch.tensor(ffn[i])
        result[f"{i}.memory"] = as_memory(torch.tensor(num[i]), torch.tensor(den[i]), torch.zeros(size))
    return result


def test_tiny_trained_model(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "rwkv4-tiny"
    torch.save(read_rwkv_cpp(folder / "tiny-rwkv-4v0-660K-FP32.bin"), tmp_path / "tiny.pth")
    model = load_backbone(tmp_path / "tiny.pth")
    assert model.config == RWKV4Config(vocab_size=256, hidden_size=128, num_layers=4, ffn_size=256)
    logits = model(torch.tensor([list(b'"in')]), logits="last").logits[0]
    expected = torch.tensor(np.fromfile(folder / "expected-logits-4v0-660K.bin", "<f4"))
    assert (logits - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("config", FREE.values(), ids=FREE.keys())
def test_rwkv_package(config: RWKV4Config, kernel: str, tmp_path: Path) -> None:
    model = live_model(config, kernel)
    save_backbone(model, tmp_path / "model.pth")
    tokens = torch.randint(config.vocab_size, (40,))
    compare(run(model, tokens), run_rwkv_package(tmp_path / "model.pth", tokens), 1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_transformers(config: RWKV4Config, kernel: str, tmp_path: Path) -> None:
    model = live_model(config, kernel)
    save_backbone(model, tmp_path / "model")
    tokens = torch.randint(config.vocab_size, (40,))
    compare(run(model, tokens), run_transformers(tmp_path / "model", tokens), 1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("config", FREE.values(), ids=FREE.keys())
def test_numpy_transcription_in_fp64(config: RWKV4Config, kernel: str) -> None:
    model = live_model(config, kernel).double()
    tokens = torch.randint(config.vocab_size, (40,))
    compare(run(model, tokens), run_numpy(model, tokens), 1e-10)


@pytest.mark.parametrize("tau", [20.0, 200.0])
def test_the_anchor_of_the_rwkv_packages_recipe(tau: float, tmp_path: Path) -> None:
    model = live_model(RWKV4Config(vocab_size=64, hidden_size=64, num_layers=3))
    save_backbone(model, tmp_path / "model.pth")
    theirs = pytest.importorskip("rwkv.model").RWKV(str(tmp_path / "model.pth"), "cpu fp32", verbose=False)
    assert anchored_gap(model, theirs, tau) < 1e-5
