"""`prosg curve`: what it refuses. What it measures is tested with the evaluation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.commands import case

BAD = [
    case("curve start --out x.json --kinds nonsense", "--kinds", "nonsense", "allowed: ending"),
    case("curve start --out x.json --kinds natural,guests", "--kinds is natural,guests", "each kind once"),
    case("curve start --out x.json --split half", "--split", "half", "allowed: train, validation, test"),
    case("curve start --out x.json --rows 0", "--rows is 0"),
    case(
        "curve plus --out x.json --memory none,anchor --kinds natural --rows 4",
        "--rows 4",
        "two rows of each kind",
        "6",
    ),
    case("curve plus --out x.json --memory none,anchor --kinds natural --rows 2", "two rows of each kind", "give 6"),
    case("curve start --out x.json --sentences 0", "--sentences"),
    case("curve start --out x.json --updates own", "no module"),
    case("curve plus --out x.json --updates mine", "--updates", "mine", "own, other, mean, none, wiped"),
    case("curve plus --out x.json --updates own,mine", "--updates", "mine"),
    case("curve plus --out full", "--out", "folder"),
    case("curve plus --out x.png", "--out is x.png", "names the .json file"),
    case("curve plus --out x.json --memory anchor --tau 0", "--tau is 0", "above 0"),
    case("curve plus --out x.json --window 0", "--window is 0", "above 0"),
    case("curve start --out x.json --sentences 4,2", "--sentences is 4,2", "rising"),
    case("curve start --out x.json --items 8,8", "--items is 8,8", "rising"),
    case("curve plus --out x.json --memory none --tau 9", "--tau is for memories anchor", "--memory is none"),
    case("curve plus --out x.json --memory anchor --window 9", "--window is for memories update", "is anchor"),
    case("curve plus --out x.json --memory none --updates own", "--updates is for", "other than none"),
    case("curve plus --out x.json --memory none,update --anchor x", "--anchor is for", "none,update"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)
