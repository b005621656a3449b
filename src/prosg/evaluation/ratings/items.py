"""Items to rate, each a prompt with all systems' answers, and the order in which one annotator sees them.

Which prompts are rated follows from the seed alone, so that all annotators rate the same. The order of the prompts, and
the letters behind which the systems stand, follow from seed, annotator and prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from prosg.evaluation.run_folder import RunFolder, read_run
from prosg.utils.tables import counted

__all__ = [
    "SCALES",
    "VALUES",
    "CandidateAnswer",
    "RatingItem",
    "answer_letter",
    "items_for_annotator",
    "left_out_text",
    "read_items",
]

SCALES = {
    "fluency": "does it read well, as a person would write it?",
    "accuracy": "does it do what the prompt asks, all of it and in this order?",
    "quality": "how good is it as a whole?",
}
"""The paper's three scales, with the question that explains each to annotators."""
VALUES = range(6)


class CandidateAnswer(NamedTuple):
    """A system's answer.

    Attributes:
        run: Folder of the evaluation.
        system: Name of the system's file of answers there.
        name: The system's name in reports, unique among all runs.
        text: The answer.
    """

    run: Path
    system: str
    name: str
    text: str


class RatingItem(NamedTuple):
    """A prompt with the answers to it; `id` is its row's."""

    id: str
    prompt: str
    candidates: tuple[CandidateAnswer, ...]


def answer_letter(index: int) -> str:
    """The letter that hides the system of the answer at an index: A, B, ..., Z, A2, B2, ..."""
    return chr(ord("A") + index % 26) + (str(index // 26 + 1) if index >= 26 else "")


def _report_names(folders: Sequence[RunFolder]) -> dict[tuple[Path, str], str]:
    """Each system's label, with its file's or run's name added where several systems share a label."""
    labels = {(folder.path, name): system.label for folder in folders for name, system in folder.systems.items()}
    names = {}
    for (path, system), label in labels.items():
        sharing = [other for (_, other), text in labels.items() if text == label]
        if len(sharing) > 1:
            label = f"{label} ({system if sharing.count(system) == 1 else path / system})"
        names[path, system] = label
    return names


def read_items(runs: Sequence[str | Path]) -> tuple[list[RatingItem], int]:
    """Reads the prompts that all systems of some evaluations answered.

    A row of several runs becomes one item with the answers of all of them. The order of the items, from which rows are
    drawn, does not depend on the order in which the runs are named.

    Args:
        runs: Folders of evaluations.

    Returns:
        The items, and the number of rows left out since a system has no answer to them.

    Raises:
        ValueError: For runs that cannot be read, have the same row with different prompts, or have no item.
    """
    folders = sorted((read_run(run) for run in runs), key=lambda folder: folder.path.resolve())
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice")
    names = _report_names(folders)
    prompts: dict[str, str] = {}
    candidates: dict[str, list[CandidateAnswer]] = {}
    incomplete: set[str] = set()
    for folder in folders:
        for row in folder.rows.values():
            if prompts.setdefault(row.id, row.prompt) != row.prompt:
                raise ValueError(f"{folder.path / 'rows.jsonl'}: row {row.id!r} has another prompt than in another run")
            for system, (_, answers) in folder.systems.items():
                if row.id in answers:
                    answer = CandidateAnswer(folder.path, system, names[folder.path, system], answers[row.id])
                    candidates.setdefault(row.id, []).append(answer)
                else:
                    incomplete.add(row.id)
    items = [
        RatingItem(row_id, prompt, tuple(candidates[row_id]))
        for row_id, prompt in prompts.items()
        if row_id not in incomplete
    ]
    if not items:
        raise ValueError(f"{folders[0].path}: no row has an answer of every system")
    return items, len(incomplete)


def left_out_text(rows: int) -> str:
    """What is said of the rows that `read_items` left out."""
    return f"left out: {counted(rows, 'row')} to which a system has no answer"


def items_for_annotator(
    items: Sequence[RatingItem], annotator: str, *, rows: int | None = None, seed: int = 0
) -> list[RatingItem]:
    """Draws items and puts them, and the answers of each, into one annotator's order.

    Args:
        items: All items.
        annotator: Whose order; it does not influence which items are drawn.
        rows: Number of items to draw; all by default.
        seed: Seed of the draw and of the orders.

    Raises:
        ValueError: For `rows` below 1.
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
