"""Whether encoded prompts are those of a model, as far as shapes and types tell."""

from __future__ import annotations

import torch

from prosg.backbones.base import Backbone
from prosg.core.checks import check_layers
from prosg.core.encoded import EncodedPrompt
from prosg.core.update import check_update
from prosg.model.anchor import empty_anchor

__all__ = ["check_fits"]


@torch.no_grad()
def check_fits(encoded: EncodedPrompt, backbone: Backbone, *, exact: bool = False) -> None:
    """Raises ValueError for encoded prompts of another model; values that are not finite end an answer later on.

    Types of numbers may differ, as under autocast, unless they are to be `exact`.
    """
    encoded.check_rows()
    vocab_size, empty = backbone.config.vocab_size, backbone.init_state(1)
    try:
        if encoded.logits.shape[1] != vocab_size:
            raise ValueError(
                f"logits has {encoded.logits.shape[1]} columns; the model's vocabulary has {vocab_size} ids"
            )
        check_layers("state", encoded.state, empty, exact=exact)
        check_update(encoded.update or {}, backbone.sites, encoded.batch)
        if encoded.anchor is not None:
            check_layers("anchor", encoded.anchor, empty_anchor(backbone), exact=exact)
    except ValueError as error:
        other = "another model, or one in another type of numbers" if exact else "another model"
        raise ValueError(f"{error}; the prompt was encoded by {other}") from None
