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
    case("demo --rates 1e-3,1e-3 --full", "--rates", "each once"),
    case("demo --rates 1e-3", "--rates is for --full"),
    case("demo --rivals phase1_more", "--rivals is for --full"),
    case("demo --rows 0", "--rows is 0", "at least 1"),
    case("demo --rows -3", "--rows is -3", "at least 1"),
    case("demo --rows 5", "--rows 5", "two rows of each kind", "give 6"),
    case("demo --jobs 0", "--jobs is 0", "at least 1"),
    case("demo --seeds 1,1", "--seeds is 1,1", "each once"),
    case("demo --seeds=-1", "--seeds is -1", "from 0"),
    case("demo --long", "--long is for the real model", "--real"),
    case("demo --real --full", "--full is for the small models"),
    case("demo --real --backbone rwkv7", "--backbone is for the small models"),
    case("demo --real --rates 1e-3", "--rates is for the small models"),
    case("demo --real --seeds 1,2", "--seeds is 1,2", "give one"),
    case("demo --real --rows 0", "--rows is 0", "at least 1"),
    case("demo --real --rows 3", "--rows 3", "give 4"),
    case("demo --real --text missing.txt", "missing.txt"),
    case("demo --real --text rows.jsonl", "rows.jsonl", "no running text"),
    case("demo --real --gguf missing.gguf --out missing", "--gguf", "missing.gguf", "allowed"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)
