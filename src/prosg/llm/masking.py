"""The key of an endpoint, kept out of whatever is stored or shown: servers repeat it, in errors above all."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

__all__ = ["Masking"]

MASK = "***"
SHORTEST_WORD, SHORTEST_KEY = 8, 4
"""Characters from which on letters alone, and anything else, is taken for a secret: servers without keys get words."""


class Masking:
    """Masks one key, also where it is quoted for an address."""

    def __init__(self, key: str) -> None:
        secret = len(key) >= (SHORTEST_WORD if key.isalpha() else SHORTEST_KEY)
        self.forms = sorted({key, quote(key, safe=""), quote_plus(key)}, key=len, reverse=True) if secret else []

    def __call__(self, text: str) -> str:
        """Returns the text with a mask in place of the key."""
        for form in self.forms:
            text = text.replace(form, MASK)
        return text

    def line(self, text: str, longest: int) -> str:
        """Returns the masked text as one line of at most so many characters, none of which steers a terminal."""
        line = " ".join(self(text).split())[:longest]
        return "".join(char if char.isprintable() else "\ufffd" for char in line)
