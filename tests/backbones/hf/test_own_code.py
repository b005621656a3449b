"""What the code of transformers' models can do by itself, as the table in `docs/backbones.md` states it.

A failure here may mean that a newer version of transformers does better, and that the page and the backbone can change.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.hf.sites import HF_SITES
from support.hf_models import BATCH, DISTINCT, HF_TINY, TIME, hf_model
from support.models import assert_near, gap, tokens

ROOT = Path(__file__).parents[3]

distinct_types = pytest.mark.parametrize("name", DISTINCT)


def test_the_page_on_backbones_states_the_same() -> None:
    page = (ROOT / "docs" / "backbones.md").read_text()
    cells = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")
    ]
    documented = {name: columns for name, *columns in cells if len(columns) == 4}
    assert documented == {
        name: [
            ", ".join(HF_SITES[name]),
            "right" if tiny.continues else "wrong",
            "right" if tiny.pads else "wrong",
            "right" if tiny.differentiates else "raises",
        ]
        for name, tiny in HF_TINY.items()
    }
    files = [*Path(__file__).parent.glob("*.py"), ROOT / "tests" / "integration" / "test_hf_flow.py"]
    sources = "".join(file.read_text() for file in files)
    assert [name for name in re.findall(r"`(test_[a-z_]+)", page) if f"def {name}" not in sources] == []


def own_cache(model: Any, x: Tensor) -> dict[str, Any]:
    """The model's cache after reading x, as an argument."""
    if model.config.model_type == "recurrent_gemma":
        cache = DynamicCache(config=model.config)
        model(x, use_cache=True, past_key_values=cache)
        return {"past_key_values": cache}
    output = model(x, use_cache=True)
    name = "cache_params" if "cache_params" in output else "past_key_values"
    return {name: output[name]}


@distinct_types
@torch.no_grad()
def test_which_types_read_several_tokens_on_from_their_cache(name: str) -> None:
    model, x = hf_model(name), tokens(BATCH, TIME)
    whole = model(x, use_cache=False).logits[:, 4:]
    several = gap(model(x[:, 4:], use_cache=True, **own_cache(model, x[:, :4])).logits, whole)
    one = gap(model(x[:, -1:], use_cache=True, **own_cache(model, x[:, :-1])).logits, whole[:, -1:])
    assert one < 2e-5
    assert several < 2e-5 if HF_TINY[name].continues else several > 1e-3


@torch.no_grad()
def test_a_limited_time_step_is_heeded_in_a_whole_text_alone() -> None:
    """So mamba2 with a limit is refused: what it reads token by token is another text."""
    model, x = hf_model("mamba2", time_step_limit=(0.01, 0.1)), tokens(BATCH, TIME)
    whole = model(x, use_cache=False).logits[:, -1:]
    assert gap(model(x[:, -1:], use_cache=True, **own_cache(model, x[:, :-1])).logits, whole) > 1e-4
    with pytest.raises(ValueError, match=r"mamba2: .*time_step_limit \(0.01 to 0.1\)"):
        HFBackbone(model)


@distinct_types
@torch.no_grad()
def test_which_types_hide_padding_on_the_left(name: str) -> None:
    model, x = hf_model(name), tokens(BATCH, TIME)
    whole = model(x, use_cache=False).logits
    mask = torch.cat([torch.zeros(BATCH, 3), torch.ones(BATCH, TIME)], 1).long()
    padded = torch.cat([torch.zeros(BATCH, 3, dtype=torch.int64), x], 1)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    error = gap(model(padded, attention_mask=mask, position_ids=position, use_cache=False).logits[:, 3:], whole)
    assert error < 2e-5 if HF_TINY[name].pads else error > 1e-3


@distinct_types
def test_which_types_pass_gradients_through_their_cache(name: str) -> None:
    model, x = hf_model(name), tokens(BATCH, TIME)
    weight = model.get_input_embeddings().weight
    expected = torch.autograd.grad(model(x, use_cache=False).logits[:, 6:].logsumexp(2).sum(), weight)[0]
    cache = own_cache(model, x[:, :6])
    steps = [model(x[:, t : t + 1], use_cache=True, **cache).logits for t in range(6, TIME)]
    loss = torch.cat(steps, 1).logsumexp(2).sum()
    if HF_TINY[name].differentiates:
        assert_near(torch.autograd.grad(loss, weight)[0], expected, 1e-4)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, weight)
