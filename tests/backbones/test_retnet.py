"""RetNet against a plain transcription of the paper's equations; ageing and loading; its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from prosg.backbones.retnet import RETNET_SIZES, RetNet, RetNetConfig
from prosg.backbones.versions import detect
from prosg.checkpoints.backbone import convert, load_backbone, save_backbone
from prosg.checkpoints.fingerprints import backbone_fingerprint
from prosg.checkpoints.native_reader import read_checkpoint
from prosg.core.update import LowRank, Site
from prosg.ops.retention import KERNELS, RETENTION
from prosg.utils.io import CheckpointError
from support.kernels import CPU
from support.models import TOLERANCE, assert_near, live_backbone, live_model, tokens

NAMES = ("retnet", "retnet, own widths")
Array = np.ndarray


def tiny(name: str = "retnet", dtype: torch.dtype = torch.float64) -> RetNet:
    model: RetNet = live_backbone(name, dtype)
    for block in model.blocks:  # eq. 8 to the type's own precision, where files hold fp32
        block.att.decay.copy_(torch.log1p(-(2.0 ** (-5 - torch.arange(model.config.num_heads).double()))))
    return model


# The paper's equations, for one text and without a state: nothing is shared with the package.


def layer_norm(x: Array, weight: Array | float = 1.0, bias: Array | float = 0.0) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def multi_scale_retention(x: Array, w: dict[str, Array], heads: int) -> tuple[Array, Array]:
    """Eq. 5 and 8, with normalisation (1) of section 2.2: MSR(x), and Y before the gate."""
    steps = np.arange(len(x))
    outputs = []
    for head in range(heads):
        q, k, v = (np.split(w[f"att.{name}.weight"], heads)[head] for name in ("query", "key", "value"))
        width = len(q)
        gamma = 1 - 2.0 ** (-5 - head)
        theta = 10000.0 ** -np.linspace(0, 1, width // 2)
        turn = np.exp(1j * np.outer(steps, theta))
        pairs_q, pairs_k = ((x @ z.T)[:, ::2] + 1j * (x @ z.T)[:, 1::2] for z in (q, k))
        decay = np.array([[gamma ** (n - m) if n >= m else 0.0 for m in steps] for n in steps])
        scores = ((pairs_q * turn) @ (pairs_k * turn).conj().T).real / math.sqrt(width)
        outputs.append(layer_norm((scores * decay) @ (x @ v.T)))
    y = np.concatenate(outputs, 1)
    gate = x @ w["att.gate.weight"].T
    return (gate / (1 + np.exp(-gate)) * y) @ w["att.output.weight"].T, y


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def by_the_paper(model: RetNet, text: list[int]) -> tuple[Array, list[Array]]:
    """Eq. 9: logits (T, V), and every layer's Y."""
    w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    x, tapped = w["emb.weight"][text], []
    for layer in range(model.config.num_layers):
        own = {name.split(".", 2)[2]: z for name, z in w.items() if name.startswith(f"blocks.{layer}.")}
        seen = layer_norm(x, own["ln1.weight"], own["ln1.bias"])
        retained, y = multi_scale_retention(seen, own, model.config.num_heads)
        tapped.append(y)
        x = x + retained
        x = (
            x
            + gelu(layer_norm(x, own["ln2.weight"], own["ln2.bias"]) @ own["ffn.up.weight"].T)
            @ own["ffn.down.weight"].T
        )
    return layer_norm(x, w["ln_out.weight"], w["ln_out.bias"]) @ w["head.weight"].T, tapped


@pytest.mark.parametrize("kernel", ["auto", *RETENTION.available(CPU, torch.float64)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_papers_model(name: str, dtype: torch.dtype, kernel: str) -> None:
    model, text = tiny(name, dtype), tokens(2, 70)
    model.kernel = kernel
    with torch.no_grad():
        output = model(text, taps=("memory",))
    for row in range(2):
        logits, tapped = by_the_paper(model, text[row].tolist())
        assert_near(output.logits[row].double(), torch.from_numpy(logits), TOLERANCE[dtype])
        for ours, theirs in zip(output.taps.memory, tapped, strict=True):
            assert_near(ours[row].double(), torch.from_numpy(theirs), 10 * TOLERANCE[dtype])


def test_an_update_is_the_papers_model_with_other_weights() -> None:
    """Every site at once, each row another update; read in two calls."""
    model, text = tiny("retnet, own widths"), tokens(2, 9)
    update = {
        site: LowRank(0.5 * torch.randn(2, 2, inp).double(), torch.randn(out, 2).double())
        for site, (out, inp) in model.sites.items()
    }
    with torch.no_grad():
        first = model(text[:, :4], update=update)
        rest = model(text[:, 4:], first.state, update=update)
        for row in range(2):
            merged = tiny("retnet, own widths")
            for site, delta in update.items():
                getattr(merged.blocks[site.layer].att, site.name).weight += delta.dense()[row]
            logits, _ = by_the_paper(merged, text[row].tolist())
            assert_near(torch.cat([first.logits[row], rest.logits[row]]), torch.from_numpy(logits), 1e-10)


def test_ageing_is_reading_tokens_that_write_nothing() -> None:
    """Each layer's memory, aged, is what is left of it after as many steps of keys that are 0."""
    model = tiny()
    state = model(tokens(3, 6), logits="none").state
    steps, shift = torch.tensor([0, 4, 9]), torch.tensor([0.0, -1.0, -0.5]).double()
    aged = model.age(state, steps.double(), shift)
    for block, before, after in zip(model.blocks, state, aged, strict=True):
        heads, values, keys = before.memory.shape[1:]
        none, v = torch.zeros(3, 9, heads, keys).double(), torch.randn(3, 9, heads, values).double()
        _, left = KERNELS["recurrent"](none, none, v, block.att.decay, before.memory, steps)
        torch.testing.assert_close(after.memory, left * shift.exp().view(-1, 1, 1, 1), rtol=0, atol=1e-12)


def test_loading_adds_memories() -> None:
    model = tiny()
    with torch.no_grad():
        own, other = (model(tokens(3, 6, seed=seed), logits="none").state for seed in (1, 2))
        keep, weight = torch.tensor([1.0, 0.25, 0.5]).double(), torch.tensor([1.0, 7.0, 0.0])
        loaded = model.load(own, other, keep, weight, own)
    for before, other_layer, after in zip(own, other, loaded, strict=True):
        expected = keep.view(-1, 1, 1, 1) * before.memory + other_layer.memory * (weight > 0).view(-1, 1, 1, 1)
        assert torch.equal(after.memory, expected)


def test_where_a_call_ends_makes_no_difference_to_a_long_text() -> None:
    """No absolute place is carried, and in fp32 a thousand turns of the memory lose no more than a thousand sums."""
    model, text = tiny("retnet", torch.float32), tokens(1, 1200)
    with torch.no_grad():
        whole = model(text, logits="last")
        state = model.init_state(1)
        for piece in text.split(1, dim=1):
            step = model(piece, state)
            state = step.state
    for ours, theirs in zip(state, whole.state, strict=True):
        assert_near(ours.memory, theirs.memory, 1e-4)


@pytest.mark.parametrize("chunk", [1, 4])
def test_the_last_tokens_input_of_rows_that_end_in_different_chunks(chunk: int) -> None:
    """`paper` serves where the sites are as wide as the model: query, key and, with values as wide, value."""
    model = live_model("retnet", "paper", target_modules=("query", "key"))
    prompt, lengths = tokens(3, 9), torch.tensor([9, 2, 5])
    whole, parts = model.encode(prompt, lengths), model.encode(prompt, lengths, chunk=chunk)
    for site in whole.update:
        assert_near(parts.update[site].dense(), whole.update[site].dense(), 1e-10)
    with pytest.raises(ValueError, match="site 0.output has 24 inputs"):
        live_model("retnet", "paper")


def test_sizes() -> None:
    """The paper's, by their numbers of parameters (embedding and head of 50277 tokens included), and its rules."""
    for name, matrices, blocks in (("1.3B", 24, 2048), ("2.7B", 32, 2560), ("6.7B", 32, 4096)):
        config = RETNET_SIZES[name]
        assert config.hidden_size // config.num_heads == 256
        assert (config.value_size, config.ffn_size) == (2 * blocks, 2 * blocks)
        with torch.device("meta"):
            model = RetNet(config)
        assert (
            sum(p.numel() for p in model.parameters() if p.dim() == 2) == (12 * matrices * blocks + 2 * 50277) * blocks
        )
    demo = RetNet(RETNET_SIZES["demo"])
    kept = [0.96875, 0.984375, 0.9921875]
    torch.testing.assert_close(demo.blocks[0].att.decay.exp(), torch.tensor(kept), rtol=1e-6, atol=0)
    assert demo.sites[Site(2, "output")] == (96, 192)
    assert demo.sites[Site(2, "query")] == (96, 96)
    assert demo.kernel_in_use.startswith("retention: chunked; linear: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is 0.* 1"),
        ({"num_heads": -2}, "num_heads is -2.* 1, or 0"),
        ({"num_heads": 3}, "hidden_size is 8.* multiple of 6"),
        ({"hidden_size": 7}, "hidden_size is 7.* multiple of 2"),
        ({"num_heads": 2, "value_size": 9}, "value_size is 9.* multiple of 2"),
    ],
)
def test_sizes_that_make_no_model(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetNetConfig(**{"vocab_size": 8, "hidden_size": 8, "num_layers": 1, **change})


def test_files_tell_all_sizes_and_keep_decays(tmp_path: Path) -> None:
    model = tiny("retnet, own widths", torch.float32)
    with torch.no_grad():
        for block in model.blocks:  # as in the paper's experiments
            block.att.decay.copy_(torch.log1p(-torch.linspace(math.log(1 / 32), math.log(1 / 512), 2).exp()))
    assert detect(model.state_dict()) == "retnet"
    save_backbone(model, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "b.pth")
    convert(tmp_path / "folder", tmp_path / "narrow", torch.bfloat16)
    for path in (tmp_path / "a.pth", tmp_path / "folder", tmp_path / "b.pth"):
        again = load_backbone(path)
        assert again.config == model.config
        assert backbone_fingerprint(again) == backbone_fingerprint(model)
        assert torch.equal(again(tokens(1, 5)).logits, model(tokens(1, 5)).logits)
    narrow = load_backbone(tmp_path / "narrow")
    assert narrow.emb.weight.dtype == torch.bfloat16
    assert torch.equal(narrow.blocks[0].att.decay, model.blocks[0].att.decay)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["model_type"] == "retnet"
    assert (config["num_heads"], config["value_size"]) == (2, 20)
    (tmp_path / "folder" / "config.json").write_text(json.dumps({**config, "group_norm_epsilon": 1e-6}))
    with pytest.raises(CheckpointError, match="group_norm_epsilon is 1e-06.*1e-05"):
        read_checkpoint(tmp_path / "folder")
    tensors = dict(model.state_dict())
    del tensors["blocks.0.att.decay"]
    torch.save(tensors, tmp_path / "without.pth")
    with pytest.raises(CheckpointError, match="'blocks.0.att.decay' is missing"):
        read_checkpoint(tmp_path / "without.pth")
