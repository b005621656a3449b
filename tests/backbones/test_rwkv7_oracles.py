"""RWKV-7 against other people's code: rwkv.cpp's expected logits, the `rwkv` package and `rwkv7-hf`.

Every model is written by `save_backbone` and read by the other side's own loader, or the other way round, so names and
layouts are proved along with the arithmetic.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.backbone import convert, load_backbone, save_backbone
from prosg.utils.io import CheckpointError
from support.models import gap
from support.rwkv_cpp import read_rwkv_cpp
from support.rwkv_recipe import anchored_gap

CONFIGS = {
    "small": RWKV7Config(vocab_size=64, hidden_size=64, num_layers=2),
    "deep, ranks of its own": RWKV7Config(
        vocab_size=100, hidden_size=128, num_layers=6, decay_rank=24, rate_rank=16, value_rank=8, gate_rank=40
    ),
    "heads of 32, ffn not 4 E": RWKV7Config(vocab_size=50, hidden_size=96, num_layers=3, head_size=32, ffn_size=200),
}
KERNELS = ("scan", "torch", "auto")
TOKENS = 300


def live_model(config: RWKV7Config, kernel: str = "auto", seed: int = 0) -> RWKV7:
    """Random weights that leave no part of the model idle."""
    model = RWKV7(config, kernel)
    generator = torch.Generator().manual_seed(seed)
    model.reset_parameters(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".x_" in name:
                parameter.uniform_(0, 1, generator=generator)
            elif parameter.dim() != 2 or name.endswith("r_k"):
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
            elif name.rpartition(".")[2] in ("w1", "w2", "a1", "a2", "v1", "v2"):
                parameter.normal_(0, parameter.shape[0] ** -0.5, generator=generator)
        model.head.weight.normal_(generator=generator)
    return model


def run(model: RWKV7, tokens: Tensor) -> dict[str, Tensor]:
    """Logits (T, V) and state of one row, read in two calls."""
    with torch.no_grad():
        first = model(tokens[None, :7])
        second = model(tokens[None, 7:], first.state)
    result = {"logits": torch.cat([first.logits, second.logits], 1)[0]}
    for i, layer in enumerate(second.state):
        result |= {f"{i}.{name}": leaf[0] for name, leaf in layer._asdict().items()}
    return result


@pytest.fixture(scope="module")
def rwkv_package() -> ModuleType:
    """The package's module once more: which versions its class serves is settled when it is imported."""
    pytest.importorskip("rwkv.model")
    spec = importlib.util.find_spec("rwkv.model")
    assert spec is not None and spec.loader is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RWKV_V7_ON", "1")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def run_rwkv_package(package: ModuleType, path: Path, tokens: Tensor) -> dict[str, Tensor]:
    model = package.RWKV(model=str(path.with_suffix("")), strategy="cpu fp32")
    logits, state = model.forward(tokens.tolist(), None, full_output=True)
    result = {"logits": logits}
    for i in range(model.args.n_layer):
        result |= dict(zip((f"{i}.att_shift", f"{i}.memory", f"{i}.ffn_shift"), state[3 * i : 3 * i + 3], strict=True))
    return result


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    gaps = {name: gap(ours[name], theirs[name]) for name in ours}
    assert max(gaps.values()) < tolerance, gaps


def test_tiny_published_model(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "rwkv7-tiny"
    if not folder.is_dir():
        pytest.skip(f"{folder} has none of rwkv.cpp's tiny-rwkv-7v0-834K-FP32.bin and expected-logits-7v0-834K.bin")
    torch.save(read_rwkv_cpp(folder / "tiny-rwkv-7v0-834K-FP32.bin"), tmp_path / "tiny.pth")
    model = load_backbone(tmp_path / "tiny.pth")
    logits = model(torch.tensor([list(b'"in')]), logits="last").logits[0]
    expected = torch.tensor(np.fromfile(folder / "expected-logits-7v0-834K.bin", "<f4"))
    assert (logits - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_rwkv_package(config: RWKV7Config, kernel: str, rwkv_package: ModuleType, tmp_path: Path) -> None:
    model = live_model(config, kernel)
    save_backbone(model, tmp_path / "model.pth")
    tokens = torch.randint(config.vocab_size, (TOKENS,))
    compare(run(model, tokens), run_rwkv_package(rwkv_package, tmp_path / "model.pth", tokens), 2e-5)


def test_files_of_older_trainers_are_read(tmp_path: Path) -> None:
    """Block 0 may hold v0, v1 and v2, which nothing reads, and vectors may lack their axes of length 1."""
    model = live_model(CONFIGS["small"])
    tensors = dict(model.state_dict())
    tensors |= {f"blocks.0.att.{name}": tensors[f"blocks.1.att.{name}"] for name in ("v0", "v1", "v2")}
    tensors["blocks.0.att.w0"] = tensors["blocks.0.att.w0"].flatten()
    torch.save(tensors, tmp_path / "old.pth")
    loaded = load_backbone(tmp_path / "old.pth")
    assert loaded.config == model.config
    tokens = torch.randint(64, (1, 9))
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@pytest.fixture(scope="module")
def rwkv7_hf() -> ModuleType:
    module: ModuleType = pytest.importorskip("rwkv7_hf.modeling_rwkv7")
    return module


HEADS_OF_64 = [name for name, config in CONFIGS.items() if config.head_size == 64]


@pytest.mark.parametrize("name", HEADS_OF_64)
def test_a_folder_of_ours_is_read_by_rwkv7_hf(name: str, rwkv7_hf: ModuleType, tmp_path: Path) -> None:
    model = live_model(CONFIGS[name])
    save_backbone(model, tmp_path / "model")
    theirs, report = rwkv7_hf.RWKV7ForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values()), report
    tokens = torch.randint(CONFIGS[name].vocab_size, (1, 40))
    with torch.no_grad():
        assert gap(model(tokens).logits, theirs.eval()(tokens).logits) < 1e-5


@pytest.mark.parametrize("head_dim", [64, 16])
def test_a_folder_of_rwkv7_hf_is_read(head_dim: int, rwkv7_hf: ModuleType, tmp_path: Path) -> None:
    config = rwkv7_hf.RWKV7Config(
        vocab_size=60, hidden_size=64, num_hidden_layers=3, head_dim=head_dim, gate_low_rank_dim=24, v_low_rank_dim=8
    )
    theirs = rwkv7_hf.RWKV7ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_backbone(tmp_path / "theirs")
    tokens = torch.randint(60, (1, 40))
    with torch.no_grad():
        assert gap(ours(tokens).logits, theirs(tokens).logits) < 1e-5
    if head_dim == 64:
        convert(tmp_path / "theirs", tmp_path / "x.pth")
        assert torch.equal(load_backbone(tmp_path / "x.pth")(tokens).logits, ours(tokens).logits)
    else:  # its group norm has another eps than BlinkDL's, and a .pth has no place to say so
        with pytest.raises(CheckpointError, match=r"x\.pth: .*ln_x_eps=.*folder"):
            convert(tmp_path / "theirs", tmp_path / "x.pth")


def test_there_and_back_gives_the_same_bytes(tmp_path: Path) -> None:
    save_backbone(live_model(CONFIGS["heads of 32, ffn not 4 E"]), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "c.pth")
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pth", "c.pth"))
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("tau", [20.0, 200.0])
def test_the_anchor_of_the_rwkv_packages_recipe(tau: float, rwkv_package: ModuleType, tmp_path: Path) -> None:
    model = live_model(CONFIGS["small"])
    save_backbone(model, tmp_path / "model.pth")
    theirs = rwkv_package.RWKV(model=str(tmp_path / "model"), strategy="cpu fp32")
    assert anchored_gap(model, theirs, tau) < 1e-5
