"""A trial of types that nobody has tested here: whether a state goes on as the text that it was read from.

Some models take a cache and do not heed it, keep no state at all, count positions in a way of their own, or see later
tokens. None of them says so; what they write is wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prosg.backbones.hf.calls import CallOptions, HookedModel
from prosg.utils.outside import plain_reason

__all__ = ["reading_refusal"]

ROUNDING = 0.005
"""Share of logits that two orders of the same sums differ by at most, in fp32; a token that is not heard makes more."""
ROUNDING_NARROW = 0.15
"""The same in bf16 and fp16, where an expert may be chosen otherwise."""


@torch.no_grad()
def reading_refusal(hooked: HookedModel) -> str:
    """Reads texts of three tokens and of one, and a token on; returns why that is not one text, "" where it is."""
    vocabulary, device = hooked.model.get_input_embeddings().weight.shape[0], hooked.device
    tokens = ((vocabulary // 2 + torch.arange(8, device=device)) % vocabulary).view(2, 4)
    lengths = torch.tensor([3, 1], device=device)
    last = lengths.unsqueeze(1)
    try:
        whole = hooked.call(tokens, None, CallOptions(positions=last), keep_state=False).logits
        state = hooked.in_groups(tokens, CallOptions(), lengths).state
        then = hooked.step_by_step(tokens.gather(1, last), state, CallOptions(), None).logits
    except Exception as error:  # of the model's own code, of any type
        return f"it cannot be read on from a state: {plain_reason(error)}"
    most = ROUNDING_NARROW if whole.dtype.itemsize < 4 else ROUNDING
    if bool((_distance(then, whole) > most).any()):
        return (
            "read on from a state it writes something else than after the text itself; it keeps no state, or sees ahead"
        )
    return ""


def _distance(logits: Tensor, wanted: Tensor) -> Tensor:
    """(B, 1, V) -> (B, 1) how far logits are from those wanted, a share; what is added to all does not count."""
    logits, wanted = (x.float() - x.float().mean(2, keepdim=True) for x in (logits, wanted))
    distance: Tensor = (logits - wanted).norm(dim=2) / wanted.norm(dim=2)
    return distance
