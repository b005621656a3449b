"""What encoding a prompt and the update cost, beside the same backbone without: time, and bytes that are kept.

Times are the quickest of several repetitions on this machine: figures to compare with each other, not with others'.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from prosg.core.encoded import EncodedPrompt, Memory
from prosg.core.state import State
from prosg.core.update import Update
from prosg.evaluation.config import OverheadConfig
from prosg.model.prosg import ProSG

__all__ = ["overhead"]


@torch.no_grad()
def overhead(model: ProSG, config: OverheadConfig) -> dict[str, Any]:
    """Milliseconds, bytes and parameters, with the module and without (None where there is no module)."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    size = model.backbone.config.vocab_size
    prompt = torch.randint(1, size, (config.batch, config.tokens), generator=generator).to(device)
    token = prompt[:, :1]

    def encode(memory: Memory) -> EncodedPrompt:
        return model.encode(prompt, memory=memory)

    def write(encoded: EncodedPrompt) -> None:
        state = encoded.state
        for _ in range(config.steps):
            state = model.backbone(token, state, update=encoded.update, logits="last").state

    def quickest(work: Callable[[], Any], per: int) -> float:
        """Milliseconds for each of `per`."""
        work()
        times = []
        for _ in range(config.repeats):
            _wait(device)
            start = time.perf_counter()
            work()
            _wait(device)
            times.append(time.perf_counter() - start)
        return min(times) / per * 1e3

    plain = encode("none")
    found: dict[str, Any] = {
        "batch": config.batch,
        "prompt_tokens": config.tokens,
        "encode_ms": quickest(lambda: encode("none"), config.batch),
        "token_ms": quickest(lambda: write(plain), config.batch * config.steps),
        "state_bytes": _state_bytes(plain.state) // config.batch,
        "parameters": sum(p.numel() for p in model.backbone.parameters()),
    }
    module = model.synthesizer is not None
    own = encode("update") if module else None
    assert own is None or own.update is not None
    found |= {
        "encode_ms_update": quickest(lambda: encode("update"), config.batch) if own else None,
        "token_ms_update": quickest(lambda: write(own), config.batch * config.steps) if own else None,
        "update_bytes": _update_bytes(own.update, config.batch) if own and own.update else None,
        "module_parameters": sum(p.numel() for p in model.synthesizer.parameters()) if model.synthesizer else None,
    }
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _state_bytes(state: State) -> int:
    return sum(leaf.nbytes for layer in state for leaf in layer)


def _update_bytes(update: Update, batch: int) -> int:
    """Of one prompt: what is the same for all is not counted."""
    own = [leaf for delta in update.values() for leaf in (delta.a, delta.b) if leaf.dim() == 3]
    return sum(leaf.nbytes for leaf in own) // batch
