"""Places of a forgetting curve: what was asked for where a late stage was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Place", "column_heads"]


class Place(NamedTuple):
    """One column of a curve's table. What is None was not asked for."""

    sentences: int
    """length of the story before the late stage"""
    prompt_tokens: int | None = None
    """length that prompts are filled up to"""
    turns: int | None = None
    """other turns between the story and the late stage"""
    items: int | None = None
    """items that a prompt gives"""
    of_capacity: bool = False
    """whether it is one of the capacity curve, which asks other prompts than the forgetting curve"""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Place:
        """The place of an answer of the forgetting curve, as it stands in files."""
        return cls(**{name: answer.get(f"{name}_asked", answer.get(name)) for name in NUMBERS})

    def __str__(self) -> str:
        return ", ".join(self._named(name) for name in NUMBERS if getattr(self, name) is not None)

    def _named(self, name: str) -> str:
        number = getattr(self, name)
        if name == "prompt_tokens":
            return f"prompts of {number:,} tokens"
        word = {"sentences": "sentence", "turns": "other turn", "items": "item"}[name]
        return f"{number:,} {word}{'s' * (number != 1)}"


NUMBERS = Place._fields[:-1]


def column_heads(places: Sequence[Place]) -> list[str]:
    """What tells places apart, for the head of a table: what is the same everywhere is left out."""
    varying = [name for name in NUMBERS if len({getattr(place, name) for place in places}) > 1]
    return [", ".join(place._named(name) for name in varying or ["sentences"]) for place in places]
