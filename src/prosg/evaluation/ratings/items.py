"""What is rated: prompts, each with the answers of all systems, and the order in which one person sees them.

Prompts are drawn by the seed alone, so that everybody rates the same ones. The order of the prompts, and behind which
letter a system stands, follow from seed, annotator and prompt: another order for everybody, and anew for every prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from prosg.evaluation.run_folder import RunFolder, read_run

__all__ = ["SCALES", "VALUES", "Candidate", "Item", "letter", "ordered", "read_items"]

SCALES = {
    "fluency": "does it read well, as a person would write it?",
    "accuracy": "does it do what the prompt asks, all of it and in this order?",
    "quality": "how good is it as a whole?",
}
"""the paper's three, and what is asked of each"""
VALUES = range(6)


class Candidate(NamedTuple):
    """A system's answer: its run, the name of its file there, what reports call the system, the text."""

    run: Path
    system: str
    name: str
    text: str


class Item(NamedTuple):
    """A prompt with the answers to it."""

    id: str
    prompt: str
    candidates: tuple[Candidate, ...]


def letter(place: int) -> str:
    """A, B, ..., Z, A2, B2, ..."""
    return chr(ord("A") + place % 26) + (str(place // 26 + 1) if place >= 26 else "")


def _names(folders: Sequence[RunFolder]) -> dict[tuple[Path, str], str]:
    """What reports call each system: its label, with what tells it apart where others have the same."""
    labels = {(folder.path, name): one.label for folder in folders for name, one in folder.systems.items()}
    names = {}
    for (path, system), label in labels.items():
        same = [other for other, text in labels.items() if text == label]
        if len(same) > 1:
            alone = sum(other == system for _, other in same) == 1
            label = f"{label} ({system if alone else path / system})"
        names[path, system] = label
    return names


def read_items(runs: Sequence[str | Path]) -> tuple[list[Item], int]:
    """The prompts of the runs that all systems answered, and how many were left out since one did not.

    A row that stands in several runs is one prompt, with the answers of all of them. ValueError for runs that cannot be
    read, that have the same row with other prompts, or that have nothing to rate.
    """
    folders = [read_run(run) for run in runs]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice")
    names = _names(folders)
    prompts: dict[str, str] = {}
    found: dict[str, list[Candidate]] = {}
    short: set[str] = set()
    for folder in folders:
        for row in folder.rows.values():
            if prompts.setdefault(row.id, row.prompt) != row.prompt:
                raise ValueError(f"{folder.path / 'rows.jsonl'}: row {row.id!r} has another prompt than in another run")
            for system, (_, answers) in folder.systems.items():
                if row.id in answers:
                    one = Candidate(folder.path, system, names[folder.path, system], answers[row.id])
                    found.setdefault(row.id, []).append(one)
                else:
                    short.add(row.id)
    items = [Item(name, prompt, tuple(found[name])) for name, prompt in prompts.items() if name not in short]
    if not items:
        raise ValueError(f"{folders[0].path}: no row has an answer of every system")
    return items, len(short)


def ordered(items: Sequence[Item], annotator: str, *, rows: int | None = None, seed: int = 0) -> list[Item]:
    """The items as one annotator sees them: `rows` of them (all by default), candidates in the order of the letters.

    ValueError for rows below 1.
    """
    if rows is not None and rows < 1:
        raise ValueError(f"--rows is {rows}; it must be at least 1")
    drawn = Random(seed).sample(list(items), min(rows or len(items), len(items)))
    Random(f"{seed} {annotator}").shuffle(drawn)
    shuffled = []
    for item in drawn:
        candidates = list(item.candidates)
        Random(f"{seed} {annotator} {item.id}").shuffle(candidates)
        shuffled.append(item._replace(candidates=tuple(candidates)))
    return shuffled
