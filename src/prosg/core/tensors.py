"""Sequences of different lengths: padding, masks, reading in chunks; and the number type of sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["CHUNK", "chunks", "join_texts", "keeping_wide", "last_valid", "pad", "tokens_at", "valid_mask", "wide"]

CHUNK = 512
"""Tokens of a given text that a backbone reads in one call, unless it is told otherwise."""


def pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "B T"]:
    """Stacks sequences of token ids as int64, padded with 0 on the right to the longest."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.int64)


def valid_mask(lengths: Int[Tensor, " B"], width: int) -> Bool[Tensor, "B {width}"]:
    """Returns which positions of right-padded rows are valid: in row i the first `lengths[i]` of `width`."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def last_valid(
    x: Float[Tensor, "B T E"], lengths: Int[Tensor, " B"] | None, previous: Float[Tensor, "B E"] | None = None
) -> Float[Tensor, "B E"]:
    """Returns x at each row's last valid position; in rows without one `previous`, by default any numbers.

    It is a tensor of its own: a state is kept for long, and a view would keep x at all positions.
    """
    if lengths is None:
        return x[:, -1].clone() if x.shape[1] > 1 else x[:, -1]
    index = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, x.shape[-1])
    last = x.gather(1, index).squeeze(1)
    if previous is None:
        return last
    return torch.where((lengths > 0).unsqueeze(1), last, previous.to(x.dtype))


@overload
def chunks(tokens: Tensor, lengths: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]: ...
@overload
def chunks(tokens: Tensor, lengths: None, size: int) -> Iterator[tuple[Tensor, None]]: ...
@overload
def chunks(tokens: Tensor, lengths: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor | None]]: ...


def chunks(tokens: Tensor, lengths: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Cuts tokens (B, T) into runs of `size`, each with its rows' valid lengths (B,); None, for all, stays None.

    Raises:
        ValueError: for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}, must be at least 1 token")
    for start in range(0, tokens.shape[1], size):
        part = tokens[:, start : start + size]
        yield part, None if lengths is None else (lengths - start).clamp(min=0, max=part.shape[1])


def tokens_at(
    hidden: Float[Tensor, "B T E"], rows: Int[Tensor, " N"], places: Int[Tensor, " N"]
) -> Float[Tensor, "N E"]:
    """Returns what stands at some places of some rows; by an `index_select`, whose gradient is the fastest."""
    return hidden.flatten(0, 1).index_select(0, rows * hidden.shape[1] + places)


def wide(x: Tensor) -> Tensor:
    """Casts to fp32 if x is narrower: the type in which factors, sums and losses are kept. fp64 stays fp64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def keeping_wide(convert: Callable[[Tensor], Tensor], kept: Iterable[Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns a conversion as `nn.Module._apply` takes it that narrows none of some tensors to less than fp32.

    Args:
        convert: The conversion of a tensor: to a device, a type, or both.
        kept: Tensors that have to keep their range and precision; they are told by identity.
    """
    identities = {id(tensor) for tensor in kept}

    def converted(tensor: Tensor) -> Tensor:
        result = convert(tensor)
        narrowed = result.is_floating_point() and result.itemsize < min(tensor.itemsize, 4)
        return tensor.to(result.device, torch.float32) if narrowed and id(tensor) in identities else result

    return converted


def join_texts(front: Tensor, lengths: Tensor, answer: Tensor, width: int) -> Tensor:
    """(B, width) `lengths` (B,) tokens of each row of `front`, then the row of `answer`."""
    place = torch.arange(width, device=answer.device)
    behind = place - lengths.unsqueeze(1)
    return torch.where(
        behind < 0,
        front.gather(1, place.clamp(max=front.shape[1] - 1).expand(len(front), -1)),
        answer.gather(1, behind.clamp(min=0, max=answer.shape[1] - 1)),
    )
