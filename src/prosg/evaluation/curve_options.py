"""What a forgetting curve can be measured with: its kinds, lengths and rows, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from prosg.data.synthetic import KINDS, SPLITS, check_kinds
from prosg.evaluation.controls import check_partners
from prosg.utils.spelling import check_known

__all__ = ["LEAST", "check_curve_options", "check_rising", "unfit_kinds"]

LEAST = {"sentences": 1, "prompt_tokens": 1, "turns": 0, "items": 1}
"""Of what a curve goes along: the least that can be asked for."""


def check_curve_options(*, rows: int, sentences: Sequence[int], kinds: Sequence[str], split: str) -> None:
    """Raises ValueError, naming the option of the command line, for what no curve with controls can be measured with.

    Args:
        rows: Prompts per cell; another prompt's update needs two of each kind.
        sentences: Lengths of the story.
        kinds: Kinds of instruction; none: the demo's.
        split: Of the prompts.
    """
    names = check_kinds("--kinds", kinds)
    check_known("--split", [split], SPLITS)
    if unfit := unfit_kinds(names):
        raise ValueError(f"--kinds has {', '.join(unfit)}, which restate what they ask for, or have no late stage")
    check_rising("--sentences", sentences, LEAST["sentences"], needed=True)
    if rows < 1:
        raise ValueError(f"--rows is {rows}, must be at least 1")
    check_partners([names[number % len(names)] for number in range(rows)], f"--rows {rows}", names)


def check_rising(name: str, values: Sequence[int], least: int, *, needed: bool = False) -> None:
    """Raises ValueError unless numbers rise from `least` on, each once; there may be none unless they are `needed`."""
    if (needed and not values) or (values and min(values) < least) or sorted(set(values)) != list(values):
        shown = ",".join(map(str, values)) or "empty"
        raise ValueError(f"{name} is {shown}; give rising numbers from {least} on")


def unfit_kinds(kinds: Sequence[str]) -> list[str]:
    """Returns the kinds that restate what they ask for, or have no late stage: no curve is measured on them."""
    return [kind for kind in kinds if KINDS[kind].leaks or not KINDS[kind].staged]
