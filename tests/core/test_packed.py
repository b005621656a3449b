"""Encoded prompts in one piece of memory."""

from __future__ import annotations

import pytest
import torch

from prosg.core.encoded import Memory
from prosg.core.packed import PackedPrompt
from support.models import live_model, same_encoded, tokens


@pytest.mark.parametrize("memory", ["none", "anchor", "update", "both"])
@pytest.mark.parametrize("backbone", ["rwkv4", "rwkv7", "retnet"])
@torch.no_grad()
def test_it_is_the_same_prompt_to_the_last_bit(backbone: str, memory: Memory) -> None:
    encoded = live_model(backbone, "plus").encode(tokens(2, 7), memory=memory)
    packed = PackedPrompt(encoded)
    assert same_encoded(packed.unpack(), encoded) and same_encoded(packed.unpack(), encoded)
    assert encoded.nbytes <= packed.nbytes <= 1.05 * encoded.nbytes + 16 * 100


@torch.no_grad()
def test_what_is_known_and_narrow_types_come_along() -> None:
    encoded = live_model("rwkv4", "plus", dtype=torch.float32).to(torch.bfloat16).encode(tokens(3, 5), memory="update")
    encoded = encoded.replace(known=torch.tensor([True, False, True]))
    found = PackedPrompt(encoded).unpack()
    assert found.logits.dtype == encoded.logits.dtype and torch.equal(found.logits, encoded.logits)
    assert found.known is not None and found.known.tolist() == [True, False, True]
    assert same_encoded(found, encoded)


@torch.no_grad()
def test_it_holds_nothing_of_the_batch_that_it_was_taken_from() -> None:
    encoded = live_model("rwkv4", "plus").encode(tokens(8, 5), memory="update")
    one = PackedPrompt(encoded.take([3]))
    assert one.unpack().logits.untyped_storage().nbytes() == one.nbytes < encoded.nbytes / 7
