"""Special tokens: what ends an answer, and what has to stand before a prompt.

They belong to a model, not to a tokenizer alone: `prosg.checkpoints.special` reads them from its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["RWKV_SPECIAL", "SpecialTokens", "parse_begin"]


class SpecialTokens(NamedTuple):
    """Token ids with a meaning of their own."""

    end: tuple[int, ...] = (0,)
    """each ends an answer; the first is what answers are trained to end with"""
    begin: int | None = None
    """stands before every prompt; None for nothing"""

    def check(self, vocab_size: int, what: str) -> SpecialTokens:
        """Returns itself. Raises ValueError "WHAT: ..." for no end, and for ids outside of the vocabulary."""
        from prosg.core.checks import (
            check_token_id,
        )  # it takes PyTorch's seconds, which a command's help does not wait for

        if not self.end:
            raise ValueError(f"{what}: there is no end token; give at least one id")
        for name, ids in (("end", self.end), ("begin", () if self.begin is None else (self.begin,))):
            for token in ids:
                check_token_id(f"{what}: {name} token", token, vocab_size)
        return self

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """Returns a prompt's ids with what has to stand before them, unless it stands there."""
        if self.begin is None or (ids and ids[0] == self.begin):
            return list(ids)
        return [self.begin, *ids]

    def changed(self, end: Sequence[int] | int = (), begin: str = "") -> SpecialTokens:
        """Returns these with what options say instead.

        Args:
            end: Ids that end an answer; none keeps the own.
            begin: An id, "none", or "" for the own.
        """
        ends = (end,) if isinstance(end, int) else tuple(end)
        if odd := [token for token in ends if isinstance(token, bool) or not isinstance(token, int)]:
            raise ValueError(f"end token is {odd[0]!r}; allowed: ids, whole numbers")
        return SpecialTokens(ends or self.end, parse_begin(begin) if begin else self.begin)


RWKV_SPECIAL = SpecialTokens()
"""Of models in RWKV's own files, whose id 0 ends a text and stands for nothing else."""


def parse_begin(text: str) -> int | None:
    """Returns the id that an option names, None for "none". Raises ValueError for anything else."""
    if text == "none":
        return None
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"begin token is {text!r}; allowed: an id, or none")
    return int(text)
