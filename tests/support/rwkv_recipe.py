"""The recipe for the `rwkv` package (examples/anchor_rwkv.py) beside our anchor, over 300 tokens."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prosg.model.prosg import ProSG
from support.models import gap

__all__ = ["anchored_gap"]

TOKENS, PROMPT = 300, 20
EXAMPLE = Path(__file__).parents[2] / "examples" / "anchor_rwkv.py"


def anchored_gap(backbone: Any, package_model: Any, tau: float) -> float:
    """Largest difference between the logits of a backbone and of the package's model under their anchors.

    Args:
        backbone: Ours.
        package_model: The same weights in the `rwkv` package.
        tau: Window of the anchor.
    """
    tokens = torch.randint(backbone.config.vocab_size, (PROMPT + TOKENS,)).tolist()
    model = ProSG(backbone)
    with torch.no_grad():
        encoded = model.encode(torch.tensor([tokens[:PROMPT]]), memory="anchor", tau=tau)
        ours = backbone(torch.tensor([tokens[PROMPT:]]), encoded.state, anchor=encoded.anchor).logits[0]
    return gap(ours, _by_recipe(package_model, tokens, tau))


def _by_recipe(model: Any, tokens: list[int], tau: float) -> Tensor:
    spec = importlib.util.spec_from_file_location("anchor_rwkv", EXAMPLE)
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    logits, state = model.forward(tokens[:PROMPT], None)
    target, rows = recipe.anchor_of(model, state), []
    for token in tokens[PROMPT:]:
        logits, state = model.forward([token], state)
        recipe.pull(model, state, target, tau)
        rows.append(logits.clone())
    return torch.stack(rows)
