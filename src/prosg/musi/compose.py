"""Multi-stage instructions out of single tasks, without any model: pairs and triples, ordering words, late constraints.

A row's prompt gives one to three tasks and, often, something that is due after them: a sentence to close with, a code
or names to repeat, a summary in one line. Its answer is the tasks' own answers under labels, in order, and what is due.
Labels are chosen so that no answer contains them; every row passes its own checks, or it is not made.

Tasks are split first, near-duplicates together; a row is made of tasks of one split. So no task stands in two splits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from prosg.data.checks import Check, check_stages, find_stages, run_check
from prosg.data.row import Row, Stage, derived_id
from prosg.data.synthetic import SPLITS, split_of
from prosg.data.synthetic import words as contents
from prosg.data.synthetic.grammar import listing
from prosg.musi.packaged import packaged
from prosg.musi.similar import clusters
from prosg.musi.stages import distance
from prosg.musi.tasks import Task
from prosg.musi.text import language, words

__all__ = ["compose_rows", "reuse_summary", "split_tasks"]

SIMILAR = 0.7
SHARES = {1: 0.15, 2: 0.55, 3: 0.3}
"""how many tasks rows are made of"""
LATE_SHARE = 0.6
"""of the rows of several tasks, those that end with a late constraint; rows of one task all do"""
TRIES, REDRAWS = 50, 20
"""how many groups of tasks are tried for a row, and how many labels, orders and late constraints for a group"""
ANYTHING = {"type": "words", "min": 1}
LONGEST_SENTENCE = 30


class _Part(NamedTuple):
    """A stage to be: what asks for it, the label that opens it, its text, its check."""

    instruction: str
    label: str
    body: str
    check: Check

    @property
    def text(self) -> str:
        gap = "\n" if "\n" in self.body else ("" if self.label.endswith("：") else " ")
        return f"{self.label}{gap}{self.body}"


class _Late(NamedTuple):
    """What is due after the tasks, what stands at the prompt's beginning for it, and what may stand there only."""

    name: str
    memory: str
    part: _Part
    secrets: Sequence[str]


def split_tasks(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """The tasks by split: near-duplicates together, by the hash of a cluster's first text, 80 / 10 / 10, no seed."""
    roots = clusters([task.text for task in tasks], SIMILAR)
    first: dict[int, str] = {}
    for root, task in zip(roots, tasks, strict=True):
        first[root] = min(first.get(root, task.text), task.text)
    placed: dict[str, list[Task]] = {name: [] for name in SPLITS}
    for root, task in zip(roots, tasks, strict=True):
        placed[split_of("task", words(first[root]))].append(task)
    return placed


def compose_rows(
    tasks: Sequence[Task], size: int, seed: int, *, tell: Callable[[int], object] = lambda count: None
) -> tuple[list[Row], dict[str, dict[str, int]]]:
    """`size` rows, 80 / 10 / 10 over the splits, and by split how often each task is used.

    A split without tasks gets no rows; its share goes to `train`, or else to whichever has tasks. ValueError where
    there are too few tasks for so many different rows.
    """
    if size < 1:
        raise ValueError(f"--size is {size}; it must be at least 1")
    placed = {name: some for name, some in split_tasks(tasks).items() if some}
    rest = next(iter(placed))
    sizes = {name: size // 10 for name in placed if name != rest}
    sizes = {rest: size - sum(sizes.values()), **sizes}
    rows: list[Row] = []
    reuse = {}
    for name, wanted in sizes.items():
        made, reuse[name] = _of_split(name, placed[name], wanted, Random(f"{seed}/{name}"), tell)
        rows += made
    return rows, reuse


class _Deck:
    """Tasks drawn without putting them back until all are used, so that all are used about as often."""

    def __init__(self, tasks: Sequence[Task], rng: Random) -> None:
        self.tasks, self.rng = tasks, rng
        self.left: list[Task] = []

    def draw(self, count: int) -> list[Task]:
        """Tasks that differ, as many as asked for or as there are."""
        count = min(count, len(self.tasks))
        chosen: list[Task] = []
        while len(chosen) < count:
            if not self.left:
                self.left = self.rng.sample(self.tasks, len(self.tasks))
            task = self.left.pop()
            if task not in chosen:
                chosen.append(task)
        return chosen


def _of_split(
    split: str, tasks: Sequence[Task], size: int, rng: Random, tell: Callable[[int], object]
) -> tuple[list[Row], dict[str, int]]:
    used = {task.id: 0 for task in tasks}
    by_language: dict[str, list[Task]] = {}
    for task in tasks:
        by_language.setdefault("zh" if language(task.text) == "zh" else "en", []).append(task)
    decks = {tongue: _Deck(some, rng) for tongue, some in by_language.items()}
    prompts: set[str] = set()
    rows: list[Row] = []
    while len(rows) < size:
        for _ in range(TRIES):
            tongue = rng.choices([*decks], [len(deck.tasks) for deck in decks.values()])[0]
            chosen = decks[tongue].draw(rng.choices([*SHARES], [*SHARES.values()])[0])
            made = (_row(chosen, tongue, split, rng) for _ in range(REDRAWS))
            row = next((one for one in made if one is not None and one.prompt not in prompts), None)
            if row is not None:
                break
        else:
            raise ValueError(
                f"only {len(rows)} different rows of the split {split} can be made of its {len(tasks)} tasks; "
                "give more tasks, or a smaller --size"
            )
        prompts.add(row.prompt)
        for task in chosen:
            used[task.id] += 1
        rows.append(row)
        tell(1)
    return rows, used


def _row(tasks: Sequence[Task], tongue: str, split: str, rng: Random) -> Row | None:
    """A row of these tasks in this order; None where labels, memory and answers cannot be told apart."""
    wording: Mapping[str, Any] = packaged("compose.yaml")[tongue]
    labels = rng.choice(wording["labels"])
    parts = [_task_part(task, labels.format(n=number)) for number, task in enumerate(tasks, 1)]
    late = None
    if len(tasks) == 1 or rng.random() < LATE_SHARE:
        late = _late(rng.choice([*wording["late"]]), wording, parts, tongue, rng)
        if late is None:
            return None
    prompt = _prompt(tasks, parts, late, wording, rng)
    every = [*parts, late.part] if late else parts
    answer = ""
    stages = []
    for part in every:
        gap = "\n\n" if answer else ""
        stages.append(Stage(part.instruction, part.check, len(answer), gap + part.label if gap else ""))
        answer += gap + part.text
    row = Row(
        id=derived_id(prompt, answer),
        prompt=prompt,
        answer=answer,
        kind=f"composed-{len(tasks)}" + (f"-{late.name}" if late else ""),
        stages=tuple(stages),
        distance_words=distance(answer, stages[-1].start),
        # A task's answer is not given away by the answers to others; a summary only repeats what stands before it.
        leaks=late is not None and late.name == "summary",
        extra={"language": tongue, "split": split, "tasks": [task.id for task in tasks]},
    )
    before = answer[: stages[-1].start]
    told = late is not None and any(text in before for text in late.secrets)
    apart = find_stages(row, answer) == [part.text for part in every] and all(check_stages(row, answer))
    return row if apart and not told else None


def _task_part(task: Task, label: str) -> _Part:
    whole = _Part(task.text, label, task.output, ANYTHING)
    for check in _derived(task, label, whole.text):
        if run_check(check, whole.text):
            return whole._replace(check=check)
    return whole


NUMBERS = {word: number for number, word in enumerate(contents.NUMBERS, 1)}
CLOSED = {"yes", "no", "true", "false", "positive", "negative", "neutral"}


def _derived(task: Task, label: str, text: str) -> list[Check]:
    """Checks that the task's own words allow, the strictest first; not all hold for the answer that people gave."""
    checks: list[Check] = []
    plain = task.output.strip().rstrip(".").lower()
    number = re.fullmatch(r"[-+]?\d+(?:[.,]\d+)*", plain)
    if (task.closed or plain in CLOSED or number) and "\n" not in task.output:
        checks.append({"type": "exact", "text": text})
    if found := re.search(r"\b(?:in|of|with) (\w+) sentences?\b", task.instruction.lower()):
        wanted = NUMBERS.get(found[1], int(found[1]) if found[1].isdigit() else 0)
        if wanted:
            checks.append({"type": "sentences", "min": wanted, "max": wanted})
    if found := re.search(
        r"\b(?:ends?|ending) with [^\"\u201c]{0,20}[\"\u201c]([^\"\u201d]+)[\"\u201d]", task.instruction
    ):
        checks += [{"type": "ends_with", "text": found[1] + stop} for stop in ("", ".", "!", "?")]
    if found := re.search(r"\b(?:at most|no more than|up to) (\d+) words\b", task.instruction.lower()):
        checks.append({"type": "words", "min": 1, "max": int(found[1]) + len(words(label))})
    return checks


def _late(name: str, wording: Mapping[str, Any], parts: Sequence[_Part], tongue: str, rng: Random) -> _Late | None:
    how = wording["late"][name]
    label = rng.choice(how["labels"])
    memory = rng.choice(how.get("memory", [""]))
    ask = rng.choice(how["ask"])
    gap = "" if tongue == "zh" else " "
    if name == "names":
        items = rng.sample(wording.get("words", {}).get("names", contents.NAMES), rng.randint(3, 5))
        body = ("\u3001".join(items) + "\u3002") if tongue == "zh" else f"{listing(items)}."
        given, secrets = body[:-1], items
        check: Check = {"type": "ordered_items", "items": items, "after": label + gap}
    elif name == "summary":
        sentences = [_first_sentence(part.body) for part in parts]
        if not all(sentences):
            return None
        given, body, secrets = "", gap.join(sentences), []
        check = {"type": "exact", "text": f"{label}{gap}{body}"}
    else:
        body = given = _code(rng) if name == "code" else _sentence(how["sentence"], wording, rng)
        secrets = [body]
        check = {"type": "exact", "text": f"{label}{gap}{body}"}
    asked = ask.format(label=label, text=given)
    return _Late(name, memory.format(text=given), _Part(asked, label, body, check), secrets)


def _code(rng: Random) -> str:
    return "".join(str(rng.randrange(10)) for _ in range(rng.randint(5, 8)))


def _sentence(pattern: str, wording: Mapping[str, Any], rng: Random) -> str:
    own = wording.get("words", {})
    english = {"adjective": contents.ADJECTIVES, "object": contents.OBJECTS, "place": contents.PLACES}
    return pattern.format(**{name: rng.choice(own.get(name, some)) for name, some in english.items()})


def _first_sentence(text: str) -> str:
    """The first sentence where the text begins with a plain one; "" where it does not (lists, code, a word)."""
    ends = r".!?\u3002\uff01\uff1f"
    found = re.match(rf"[^\n{ends}:]*[{ends}](?=\s|$|[\u4e00-\u9fff])", text)
    return found[0] if found and 3 <= len(words(found[0])) <= LONGEST_SENTENCE else ""


def _prompt(
    tasks: Sequence[Task], parts: Sequence[_Part], late: _Late | None, wording: Mapping[str, Any], rng: Random
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


def reuse_summary(used: Mapping[str, int]) -> dict[str, int | float]:
    """How often tasks are used: least, median, most, mean."""
    counts = sorted(used.values())
    spread = Counter(counts)
    middle = counts[len(counts) // 2]
    return {
        "tasks": len(counts),
        "least": counts[0],
        "median": middle,
        "most": counts[-1],
        "mean": round(sum(counts) / len(counts), 2),
        "unused": spread[0],
    }
