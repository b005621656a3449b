"""Multi-stage instructions composed of single tasks, without a model.

A row's prompt gives one to three tasks and, often, a late constraint: a sentence to close with, a code or names to
repeat, or a summary in one line. Its answer is the tasks' own answers under labels, in order, and then what the
constraint demands. A row is kept only if its answer passes its own checks, which no label inside an answer may confuse.

Tasks are split first, near-duplicates together, and a row has tasks of one split only. So no task is in two splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from prosg.data.checks import check_stages, find_stages
from prosg.data.row import Row, Stage, derived_id
from prosg.data.synthetic import SPLITS
from prosg.musi.composed_parts import ComposedPart, LateConstraint, draw_late_constraint, task_part
from prosg.musi.packaged import packaged_yaml
from prosg.musi.similar import splits_by_cluster
from prosg.musi.stages import words_before
from prosg.musi.tasks import Task
from prosg.musi.text import language
from prosg.utils.progress import OnProgress, no_progress

__all__ = ["check_size", "compose_rows", "reuse_summary", "split_tasks"]

SIMILAR = 0.7
"""ROUGE-L F1 above which two tasks are put into the same split."""
SHARES = {1: 0.15, 2: 0.55, 3: 0.3}
"""Shares of rows by their number of tasks."""
LATE_SHARE = 0.6
"""Share of the rows of several tasks that end with a late constraint; rows of one task all do."""
TRIES, REDRAWS = 50, 20
"""Groups of tasks that are tried for a row, and draws of labels, orders and late constraints for a group."""


def split_tasks(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """Assigns tasks to splits, near-duplicates to the same one."""
    by_split: dict[str, list[Task]] = {name: [] for name in SPLITS}
    for task, (_, split) in zip(tasks, splits_by_cluster([task.text for task in tasks], SIMILAR, "task"), strict=True):
        by_split[split].append(task)
    return by_split


def check_size(size: int) -> None:
    """Raises ValueError for a number of rows that is none."""
    if size < 1:
        raise ValueError(f"--size is {size}; it must be at least 1")


def compose_rows(
    tasks: Sequence[Task], size: int, seed: int, *, on_progress: OnProgress = no_progress
) -> tuple[list[Row], dict[str, dict[str, int]]]:
    """Composes rows, 80 / 10 / 10 over the splits.

    A split without tasks gets no rows; its share goes to `train`, or else to the first split with tasks. Returns the
    rows, and by split how often each task is used. Raises ValueError if the tasks are too few for so many rows.
    """
    check_size(size)
    by_split = {name: some for name, some in split_tasks(tasks).items() if some}
    largest = next(iter(by_split))
    sizes = {name: size // 10 for name in by_split if name != largest}
    sizes = {largest: size - sum(sizes.values()), **sizes}
    rows: list[Row] = []
    uses = {}
    for name, count in sizes.items():
        composed, uses[name] = _compose_split(name, by_split[name], count, Random(f"{seed}/{name}"), on_progress)
        rows += composed
    return rows, uses


class _Deck:
    """Tasks drawn without replacement until all are used, so that all are used about equally often."""

    def __init__(self, tasks: Sequence[Task], rng: Random) -> None:
        self.tasks, self.rng = tasks, rng
        self.left: list[Task] = []

    def draw(self, count: int) -> list[Task]:
        """Draws `count` different tasks, or all if there are fewer."""
        count = min(count, len(self.tasks))
        drawn: list[Task] = []
        while len(drawn) < count:
            if not self.left:
                self.left = self.rng.sample(self.tasks, len(self.tasks))
            task = self.left.pop()
            if task not in drawn:
                drawn.append(task)
        return drawn


def _compose_split(
    split: str, tasks: Sequence[Task], size: int, rng: Random, on_progress: OnProgress
) -> tuple[list[Row], dict[str, int]]:
    uses = {task.id: 0 for task in tasks}
    by_language: dict[str, list[Task]] = {}
    for task in tasks:
        by_language.setdefault("zh" if language(task.text) == "zh" else "en", []).append(task)
    decks = {name: _Deck(some, rng) for name, some in by_language.items()}
    prompts: set[str] = set()
    rows: list[Row] = []
    while len(rows) < size:
        for _ in range(TRIES):
            row_language = rng.choices([*decks], [len(deck.tasks) for deck in decks.values()])[0]
            drawn = decks[row_language].draw(rng.choices([*SHARES], [*SHARES.values()])[0])
            candidates = (_compose_row(drawn, row_language, split, rng) for _ in range(REDRAWS))
            row = next((row for row in candidates if row is not None and row.prompt not in prompts), None)
            if row is not None:
                break
        else:
            raise ValueError(
                f"only {len(rows)} different rows of the split {split} can be made of its {len(tasks)} tasks; "
                "give more tasks, or a smaller --size"
            )
        prompts.add(row.prompt)
        for task in drawn:
            uses[task.id] += 1
        rows.append(row)
        on_progress(1)
    return rows, uses


def _compose_row(tasks: Sequence[Task], row_language: str, split: str, rng: Random) -> Row | None:
    """A row of these tasks in this order; None if labels, secrets and answers cannot be told apart."""
    wording: Mapping[str, Any] = packaged_yaml("compose.yaml")[row_language]
    labels = rng.choice(wording["labels"])
    parts = [task_part(task, labels.format(n=number)) for number, task in enumerate(tasks, 1)]
    late = None
    if len(tasks) == 1 or rng.random() < LATE_SHARE:
        late = draw_late_constraint(wording, parts, row_language, rng)
        if late is None:
            return None
    prompt = _prompt(tasks, parts, late, wording, rng)
    if late:
        parts.append(late.part)
    answer = ""
    stages = []
    for part in parts:
        gap = "\n\n" if answer else ""
        stages.append(Stage(part.instruction, part.check, len(answer), gap + part.label if gap else ""))
        answer += gap + part.text
    row = Row(
        id=derived_id(prompt, answer),
        prompt=prompt,
        answer=answer,
        kind=f"composed-{len(tasks)}" + (f"-{late.name}" if late else ""),
        stages=tuple(stages),
        distance_words=words_before(answer, stages[-1].start),
        # Other answers do not give a task's answer away; a summary only repeats what stands before it.
        leaks=late is not None and late.name == "summary",
        extra={"language": row_language, "split": split, "tasks": [task.id for task in tasks]},
    )
    before = answer[: stages[-1].start]
    revealed = late is not None and any(text in before for text in late.secrets)
    valid = find_stages(row, answer) == [part.text for part in parts] and all(check_stages(row, answer))
    return row if valid and not revealed else None


def _prompt(
    tasks: Sequence[Task],
    parts: Sequence[ComposedPart],
    late: LateConstraint | None,
    wording: Mapping[str, Any],
    rng: Random,
) -> str:
    quoted = [wording["quote"].format(part.label) for part in parts]
    labels = wording["joint"].join([*([wording["comma"].join(quoted[:-1])] if quoted[1:] else []), quoted[-1]])
    opening = wording["single"] if len(tasks) == 1 else rng.choice(wording["openings"])
    blocks = [opening.format(count=wording["numbers"][len(tasks) - 1], labels=labels)]
    if len(tasks) == 2 and rng.random() < 0.25:
        second, first = rng.choice(wording["turned"])
        blocks += [f"{second}\n{tasks[1].text}", f"{first}\n{tasks[0].text}"]
    elif len(tasks) > 1:
        opens = rng.choice(wording["orders"])
        places = [0, 2] if len(tasks) == 2 and not opens[0].startswith("1") else [0, 1, 2]
        blocks += [f"{opens[place]}\n{task.text}" for place, task in zip(places, tasks, strict=False)]
    else:
        blocks.append(tasks[0].text)
    if late is not None:
        blocks = [*([late.memory] if late.memory else []), *blocks, late.part.instruction]
    return "\n\n".join(blocks)


def reuse_summary(uses: Mapping[str, int]) -> dict[str, int | float]:
    """Returns how often tasks are used: number of tasks, least, median, most, mean, and number of unused ones."""
    counts = sorted(uses.values())
    return {
        "tasks": len(counts),
        "least": counts[0],
        "median": counts[len(counts) // 2],
        "most": counts[-1],
        "mean": round(sum(counts) / len(counts), 2),
        "unused": Counter(counts)[0],
    }
