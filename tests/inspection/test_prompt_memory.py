"""The memory that a prompt takes, as `prosg info` says it, against files, values and caches that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prosg.checkpoints.encoded import save_encoded
from prosg.core.state import State
from prosg.inspection.prompt_memory import blank_prompt, cache_bytes, describe_prompt, file_bytes
from prosg.model.prosg import ProSG
from prosg.serving.slots import Slots
from support.hf_models import hf_backbone
from support.models import TINY, live_model, tokens

MODELS = [(name, "plus") for name in TINY] + [("rwkv4", None), ("rwkv4", "paper"), ("rwkv7", "static")]
DTYPES = [torch.float32, torch.bfloat16]
CLOSE = 0.05


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("backbone", "module"), MODELS)
@pytest.mark.parametrize("anchor", [False, True])
def test_a_prompt_of_zeros_is_as_large_as_one_that_was_read(
    backbone: str, module: str | None, dtype: torch.dtype, anchor: bool, tmp_path: Path
) -> None:
    model = live_model(backbone, module, torch.float32).to(dtype)
    memory = {(True, True): "both", (True, False): "update", (False, True): "anchor", (False, False): "none"}
    encoded = model.encode(tokens(1, 9), memory=memory[module is not None, anchor])
    save_encoded(encoded, tmp_path / "x.safetensors", model)
    blank = blank_prompt(model, anchor=anchor)
    assert blank.nbytes == pytest.approx(encoded.nbytes, rel=CLOSE)
    assert file_bytes(blank) == pytest.approx((tmp_path / "x.safetensors").stat().st_size, rel=CLOSE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_the_server_takes_what_is_said(dtype: torch.dtype) -> None:
    model = live_model("rwkv4", "plus", torch.float32).to(dtype)
    slots = Slots(3)
    for seed in range(3):
        slots.join(model.encode(tokens(1, 5, seed), memory="both"))
    row = slots.place.take([1])
    whole = dict(describe_prompt(model))["row of a server"]
    assert f"{row.nbytes / 1000:.3g} KB with an anchor" in whole
    assert f"{row.replace(anchor=None).nbytes / 1000:.3g} KB, however long" in whole


def test_attention_adds_keys_and_values_with_every_token() -> None:
    model = ProSG(hf_backbone("qwen3_next"))
    few, many = (model.encode(torch.ones(1, count, dtype=torch.int64)).nbytes for count in (5, 6))
    described = dict(describe_prompt(model))
    for name in ("encoded prompt", "row of a server"):
        assert f"KB, {many - few} bytes more with every token that attention sees" in described[name]


def test_a_transformers_cache_is_that_of_a_transformer() -> None:
    model = ProSG(hf_backbone("gpt2"))

    def taken(state: State) -> int:
        return sum(leaf.nbytes for layer in state for leaf in layer)

    few, many = (taken(model.backbone(torch.ones(1, count, dtype=torch.int64)).state) for count in (5, 12))
    assert cache_bytes(model, 7) == many - few
    assert cache_bytes(model, 7 * 4096) == 4096 * (many - few)
