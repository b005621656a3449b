"""What a request must be for a model to answer it."""

from __future__ import annotations

from dataclasses import replace

import torch

from prosg.core.checks import check_token_id
from prosg.core.encoded import Memory
from prosg.model.fitting import check_fits
from prosg.model.prosg import ProSG
from prosg.serving.request import Request
from prosg.tokenizers.special import SpecialTokens

__all__ = ["checked_request"]


@torch.no_grad()
def checked_request(request: Request, model: ProSG) -> tuple[Request, Memory | None]:
    """Returns a request, its encoded prompt held as it says, and what holds its prompt; None for an encoded one.

    Raises:
        ValueError: for what the model cannot read, or hold.
    """
    vocab_size = model.backbone.config.vocab_size
    for token in {min(request.ids, default=0), max(request.ids, default=0)}:
        check_token_id("an id of the prompt", token, vocab_size)
    SpecialTokens(request.sampling.ends).check(vocab_size, "end_token")
    encoded, memory, tau = request.encoded, request.memory, request.tau
    if encoded is None:
        return request, model.check_memory(memory, tau)
    check_fits(encoded, model.backbone, exact=True)
    if memory is not None or tau is not None:
        encoded = model.held_by(encoded, model.check_memory(memory, tau), tau)
    return replace(request, encoded=encoded.to(model.device)), None
