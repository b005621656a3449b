"""`prosg demo`: what it refuses before it begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.commands import case

BAD = [
    case("demo --seeds one", "--seeds", "one", "whole numbers"),
    case("demo --rates fast", "--rates", "fast", "numbers"),
    case("demo --rates 0", "--rates"),
    case("demo --backbone lstm", "--backbone", "lstm", "rwkv4"),
    case("demo --long", "--long is for the real model", "--real"),
    case("demo --real --full", "--full is for the small models"),
    case("demo --real --gguf missing.gguf --out missing", "--gguf", "missing.gguf", "allowed"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)
