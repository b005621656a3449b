"""Errors and what they came from."""

from __future__ import annotations

__all__ = ["causes"]


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and those that it came from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
