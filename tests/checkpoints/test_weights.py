"""Checks of values and memory, and casting tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.backbone import convert, load_backbone
from prosg.checkpoints.weights import check_finite, check_memory
from prosg.core.checks import GREATEST
from prosg.utils.io import CheckpointError
from support.hf_models import hf_model


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(
    weights: dict[str, Tensor], wrong: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    narrow = {name: tensor.to(dtype) for name, tensor in weights.items()}
    narrow["blocks.1.ffn.key.weight"][3, 2:4] = wrong
    torch.save(narrow, tmp_path / "bad.pth")
    for use in (load_backbone, lambda path: convert(path, tmp_path / "made")):
        with pytest.raises(CheckpointError, match=r"bad.pth: blocks.1.ffn.key.weight has 2 of 640 "):
            use(tmp_path / "bad.pth")
    assert not (tmp_path / "made").exists()


def test_numbers_with_which_nothing_can_be_computed_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights["head.weight"].fill_(GREATEST)
    torch.save(weights, tmp_path / "large.pth")
    assert load_backbone(tmp_path / "large.pth").head.weight.max() == GREATEST
    with pytest.raises(CheckpointError, match="large.pth: head.weight has values up to 1e.10, beyond 65504; .*bf16"):
        load_backbone(tmp_path / "large.pth", dtype=torch.float16)
    weights["head.weight"][0, 0] = -torch.finfo(torch.float32).max
    torch.save(weights, tmp_path / "large.pth")
    with pytest.raises(CheckpointError, match="large.pth: head.weight has values up to 3.4e.38"):
        load_backbone(tmp_path / "large.pth")


@pytest.mark.parametrize(("factor", "said"), [(1e6, "beyond 65504; load it as bf16 or fp32"), (torch.nan, "damaged")])
def test_weights_that_transformers_casts_are_checked_too(factor: float, said: str, tmp_path: Path) -> None:
    model = hf_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(factor)
    model.save_pretrained(tmp_path / "m")
    for use in (load_backbone, lambda path, dtype: convert(path, tmp_path / "made", dtype)):
        with pytest.raises(CheckpointError, match=f"m: model.layers.1.mlp.down_proj.weight has .*{said}"):
            use(tmp_path / "m", dtype=torch.float16)
    assert not (tmp_path / "made").exists()


def test_what_was_cast_is_let_go_of_unharmed(tmp_path: Path) -> None:
    """Pages are given back: of a mapped file, of one that is read at once, and of a tensor that two names share."""
    wide = RWKV4(RWKV4Config(vocab_size=4000, hidden_size=128, num_layers=1))
    wide.reset_parameters()
    tensors = {name: tensor.half() for name, tensor in wide.state_dict().items()}
    tensors["head.weight"] = tensors["emb.weight"]
    for legacy in (False, True):
        torch.save(tensors, tmp_path / "half.pth", _use_new_zipfile_serialization=not legacy)
        loaded = load_backbone(tmp_path / "half.pth").state_dict()
        assert all(torch.equal(loaded[name], tensors[name].float()) for name in tensors)


def test_values_are_checked_in_chunks(weights: dict[str, Tensor]) -> None:
    check_finite("x.pth", weights | {"none": torch.zeros(0), "whole": torch.ones(2, dtype=torch.int8)}, chunk=7)
    weights["head.weight"][39, 15] = float("nan")  # the very last
    with pytest.raises(CheckpointError, match=r"x.pth: head.weight has 1 of 640"):
        check_finite("x.pth", weights, chunk=7)


def test_a_cast_needs_memory_for_what_it_changes() -> None:
    tensors = {"a": torch.zeros(100, dtype=torch.float16), "b": torch.zeros(100)}
    wide = dict.fromkeys(tensors, torch.float32)
    check_memory("x.pth", tensors, wide, 400)
    check_memory("x.pth", tensors, wide, None)
    with pytest.raises(CheckpointError, match=r"x.pth: .*float16.*--dtype bf16"):
        check_memory("x.pth", {"a": tensors["a"]}, wide, 399)
