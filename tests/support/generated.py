"""Generated input for what is read from outside: a seeded stream of values of every type, good and bad.

PROSG_CASES sets how many cases a test draws; 100 by default.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

CASES = int(os.environ.get("PROSG_CASES", "100"))
NUMBERS = [0, 1, -1, 7, 2**31, 2**63, -(2**63), 10**40, 0.0, -0.5, 1e-300, 1e30, 1e31, 1e39, 1e308, True, False]
ODD_NUMBERS = [float("nan"), float("inf"), float("-inf"), 10**400]
TEXTS = ["", "a", "no", "1e-1", "NaN", "ä😀", "\ud83d", "\udc00x", "a\nb", "\x00", "x" * 5000, "true", "0"]
LETTERS = "[]{},:\"'-+.eE0123456789ainfNtrue \n\t\\&*!<>|#%@`\ud83d\x00é😀"


def draws(seed: int) -> Iterator[random.Random]:
    """A generator of random numbers for each case."""
    for case in range(CASES):
        yield random.Random(f"{seed}-{case}")


def refusal(call: Callable[[], Any], begins: str = "") -> str:
    """The error of a call, which must be a ValueError of one line that begins so; "" where there is none."""
    try:
        call()
    except ValueError as error:
        message = str(error)
        assert message.startswith(begins), message
        assert message and "\n" not in message, message
        assert len(message) < 600, message
        return message
    return ""


def value(draw: random.Random, depth: int = 3) -> Any:
    """A value of any JSON type, and numbers and text that are none."""
    kind = draw.randrange(8 if depth else 5)
    if kind == 0:
        return None
    if kind == 1:
        return draw.choice(ODD_NUMBERS)
    if kind in (2, 3):
        return draw.choice(NUMBERS)
    if kind == 4:
        return draw.choice(TEXTS)
    if kind == 5:
        return {draw.choice(TEXTS): value(draw, depth - 1) for _ in range(draw.randrange(3))}
    return [value(draw, depth - 1) for _ in range(draw.randrange(3))]


def text(draw: random.Random, longest: int = 40) -> str:
    """Letters that mean something in JSON or YAML, in no order."""
    return "".join(draw.choice(LETTERS) for _ in range(draw.randrange(longest)))


def damaged(draw: random.Random, good: str) -> str:
    """A text with a few letters changed, left out or put in."""
    letters = list(good)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(letters) + 1)
        letters[at : at + draw.randrange(3)] = text(draw, 4)
    return "".join(letters)
