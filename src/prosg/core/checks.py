"""Checks of what comes in, from a file or from Python: token ids, lengths, numbers, encoded prompts.

Each kind of value has one check here, which every door calls. What a check lets through is finite and consistent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.core.state import Anchor, State
from prosg.core.update import Update

__all__ = [
    "GREATEST",
    "check_encoded",
    "check_layers",
    "check_lengths",
    "check_token_id",
    "check_tokens",
    "check_update_values",
    "check_values",
]

GREATEST = 1e10
"""Greatest number in a state, an update or weights. Trained ones stay below 1e5; products of two of these fit fp32."""
ID_TYPES = (torch.int64, torch.int32)
"""Types of token ids that embeddings take."""
LOGARITHMS = ("top",)
"""Tensors of a state that hold logarithms, of which only the greatest counts: RWKV-4's is -1e38 where nothing is."""


def check_values(name: str, values: Tensor, most: float = GREATEST) -> None:
    """Raises ValueError unless a tensor holds floating-point numbers, all finite and none beyond +-`most`.

    `name` is what the error names. Complex numbers, integers and truth values are no such numbers.
    """
    if not values.is_floating_point():
        raise ValueError(f"{name} is {str(values.dtype).removeprefix('torch.')}; it must be of a floating-point type")
    if values.numel() == 0:
        return
    low, high = torch.aminmax(values.detach())  # both are NaN if any value is
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise ValueError(f"{name} has values that are NaN or infinite")
    if not -most <= float(low) <= float(high) <= most:
        raise ValueError(f"{name} has values up to {max(-float(low), float(high)):.3g}; at most {most:g} is allowed")


def check_tokens(tokens: Tensor, vocab_size: int, name: str = "tokens") -> None:
    """Raises ValueError unless a tensor is (B, T) of token ids below `vocab_size`, of one row or more."""
    if tokens.dim() != 2 or tokens.dtype not in ID_TYPES:
        kind = str(tokens.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} has shape {tuple(tokens.shape)} of {kind}; token ids are whole numbers (B, T), int64 or int32"
        )
    if tokens.shape[0] == 0:
        raise ValueError(f"{name}: the batch is empty; it needs at least one row")
    if tokens.numel():
        low, high = map(int, torch.aminmax(tokens))
        check_token_id(f"an id in {name}", low if low < 0 else high, vocab_size)


def check_token_id(name: str, token: int, vocab_size: int) -> None:
    """Raises ValueError unless a token id is in a vocabulary of `vocab_size`. `name` is what the error names."""
    if not 0 <= token < vocab_size:
        raise ValueError(f"{name} is {token}; the model's vocabulary has the ids 0 to {vocab_size - 1}")


def check_lengths(lengths: Tensor, batch: int, width: int, *, least: int = 1, name: str = "lengths") -> None:
    """Raises ValueError unless there is a whole number for each row, `least` to `width`."""
    if not isinstance(lengths, Tensor):
        raise ValueError(f"{name} is a {type(lengths).__name__}; must be a tensor of {batch} whole numbers, one a row")
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        kind = str(lengths.dtype).removeprefix("torch.")
        raise ValueError(f"{name} has shape {tuple(lengths.shape)} of {kind}; must be {batch} whole numbers, one a row")
    if batch and bool(((lengths < least) | (lengths > width)).any()):
        wrong = lengths[(lengths < least) | (lengths > width)][0]
        raise ValueError(f"{name} has {int(wrong)}; the rows have {width} tokens, so each must be {least} to {width}")


def check_layers(part: str, layers: State | Anchor, like: State | Anchor, *, exact: bool = False) -> None:
    """Raises ValueError unless the layers of a state or an anchor have the shapes and types of `like`, but for rows.

    An axis that is empty in `like` grows with the text, and may have any length. Of types only the kind has to be
    the same, unless they are to be `exact`.
    """
    if len(layers) != len(like):
        raise ValueError(f"{part} has {len(layers)} layers, must have {len(like)}")
    for number, (layer, blank) in enumerate(zip(layers, like, strict=True)):
        if type(layer) is not type(blank):
            raise ValueError(f"{part}.{number} is {type(layer).__name__}, must be {type(blank).__name__}")
        for field, leaf, empty in zip(blank._fields, layer, blank, strict=True):
            name = f"{part}.{number}.{field}"
            fits = leaf.dim() == empty.dim() and all(
                wanted in (0, size) for size, wanted in zip(leaf.shape[1:], empty.shape[1:], strict=True)
            )
            if not fits:
                raise ValueError(f"{name} has shape {tuple(leaf.shape)}, expected (B, {tuple(empty.shape[1:])})")
            if (
                leaf.is_floating_point() != empty.is_floating_point()
                or (leaf.dtype == torch.bool) != (empty.dtype == torch.bool)
                or (exact and leaf.dtype != empty.dtype)
            ):
                raise ValueError(f"{name} is {leaf.dtype}, expected {empty.dtype}".replace("torch.", ""))


def check_update_values(update: Update) -> None:
    """Raises ValueError for the first factor of an update that is not finite or too great; see `check_values`."""
    for site, delta in update.items():
        for name, factor in zip(("a", "b"), delta, strict=True):
            check_values(f"update.{site}.{name}", factor)


def _check_limit(limit: Tensor, layers: int) -> None:
    if limit.dim() != 2 or limit.shape[1] != layers or not limit.is_floating_point():
        raise ValueError(f"limit has shape {tuple(limit.shape)}; must be (B, {layers}) of floating-point numbers")
    check_values("limit", limit)
    if bool((limit < 0).any()):
        raise ValueError("limit has values below 0")


def check_encoded(encoded: EncodedPrompt, vocab_size: int) -> None:
    """Raises ValueError unless an encoded prompt's numbers are finite, and its parts have the same rows.

    Shapes are checked by `check_layers` and `check_update`.
    """
    encoded.check_rows()
    check_values("logits", encoded.logits)
    if encoded.logits.shape[1] != vocab_size:
        raise ValueError(f"logits has {encoded.logits.shape[1]} columns; the model's vocabulary has {vocab_size} ids")
    if encoded.limit is not None:
        _check_limit(encoded.limit, len(encoded.state))
    for part, layers in (("state", encoded.state), ("anchor", encoded.anchor or ())):
        for number, layer in enumerate(layers):
            for field, leaf in layer._asdict().items():
                if leaf.is_floating_point():
                    most = torch.finfo(leaf.dtype).max if field in LOGARITHMS else GREATEST
                    check_values(f"{part}.{number}.{field}", leaf, most)
                elif bool((leaf < 0).any()):
                    raise ValueError(f"{part}.{number}.{field} has values below 0")
    check_update_values(encoded.update or {})
