"""Parts of a composed answer: a task's answer under a label, and a late constraint, which is due after the tasks.

The wording of both languages is in compose.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from prosg.data.checks import Check, run_check
from prosg.data.synthetic import words as contents
from prosg.data.synthetic.grammar import listing
from prosg.musi.tasks import Task
from prosg.musi.text import words

__all__ = ["ComposedPart", "LateConstraint", "draw_late_constraint", "task_part"]

ANYTHING = {"type": "words", "min": 1}
LONGEST_SENTENCE = 30
"""Words of a first sentence that a summary repeats."""
NUMBERS = {word: number for number, word in enumerate(contents.NUMBERS, 1)}
CLOSED = {"yes", "no", "true", "false", "positive", "negative", "neutral"}
"""Answers that are compared exactly."""


class ComposedPart(NamedTuple):
    """A part of a composed answer, which becomes a stage: the label opens it, and the check is of both."""

    instruction: str
    label: str
    body: str
    check: Check

    @property
    def text(self) -> str:
        """Label and body."""
        gap = "\n" if "\n" in self.body else ("" if self.label.endswith("：") else " ")
        return f"{self.label}{gap}{self.body}"


class LateConstraint(NamedTuple):
    """What is due after the tasks.

    Attributes:
        name: "closing", "code", "names" or "summary".
        memory: What the beginning of the prompt says about it; "" if it says nothing.
        part: The answer's last part.
        secrets: Texts that may not occur in the answer before that part.
    """

    name: str
    memory: str
    part: ComposedPart
    secrets: Sequence[str]


def task_part(task: Task, label: str) -> ComposedPart:
    """Returns a task's answer under a label, with the strictest check that the task allows and the answer passes."""
    part = ComposedPart(task.text, label, task.output, ANYTHING)
    passing = (check for check in _derived_checks(task, label, part.text) if run_check(check, part.text))
    return part._replace(check=next(passing, ANYTHING))


def _derived_checks(task: Task, label: str, text: str) -> Iterator[Check]:
    """Checks that follow from the task's wording, the strictest first; the task's own answer may fail some."""
    plain = task.output.strip().rstrip(".").lower()
    number = re.fullmatch(r"[-+]?\d+(?:[.,]\d+)*", plain)
    if (task.closed or plain in CLOSED or number) and "\n" not in task.output:
        yield {"type": "exact", "text": text}
    if match := re.search(r"\b(?:in|of|with) (\w+) sentences?\b", task.instruction.lower()):
        count = NUMBERS.get(match[1], int(match[1]) if match[1].isdigit() else 0)
        if count:
            yield {"type": "sentences", "min": count, "max": count}
    if match := re.search(
        r"\b(?:ends?|ending) with [^\"\u201c]{0,20}[\"\u201c]([^\"\u201d]+)[\"\u201d]", task.instruction
    ):
        yield from ({"type": "ends_with", "text": match[1] + stop} for stop in ("", ".", "!", "?"))
    if match := re.search(r"\b(?:at most|no more than|up to) (\d+) words\b", task.instruction.lower()):
        yield {"type": "words", "min": 1, "max": int(match[1]) + len(words(label))}


def draw_late_constraint(
    wording: Mapping[str, Any], parts: Sequence[ComposedPart], language: str, rng: Random
) -> LateConstraint | None:
    """Draws a late constraint for these parts of an answer, with the wording of a language in compose.yaml.

    None if it would be a summary, and some part has no plain first sentence.
    """
    name = rng.choice([*wording["late"]])
    texts = wording["late"][name]
    label = rng.choice(texts["labels"])
    memory = rng.choice(texts.get("memory", [""]))
    ask = rng.choice(texts["ask"])
    gap = "" if language == "zh" else " "
    if name == "names":
        secrets = rng.sample(wording.get("words", {}).get("names", contents.NAMES), rng.randint(3, 5))
        body = ("\u3001".join(secrets) + "\u3002") if language == "zh" else f"{listing(secrets)}."
        stated = body[:-1]
        check: Check = {"type": "ordered_items", "items": secrets, "after": label + gap}
    else:
        if name == "summary":
            sentences = [_first_sentence(part.body) for part in parts]
            if not all(sentences):
                return None
            stated, body, secrets = "", gap.join(sentences), []
        else:
            body = stated = _code(rng) if name == "code" else _sentence(texts["sentence"], wording, rng)
            secrets = [body]
        check = {"type": "exact", "text": f"{label}{gap}{body}"}
    instruction = ask.format(label=label, text=stated)
    return LateConstraint(name, memory.format(text=stated), ComposedPart(instruction, label, body, check), secrets)


def _code(rng: Random) -> str:
    return "".join(str(rng.randrange(10)) for _ in range(rng.randint(5, 8)))


def _sentence(pattern: str, wording: Mapping[str, Any], rng: Random) -> str:
    translated = wording.get("words", {})
    english = {"adjective": contents.ADJECTIVES, "object": contents.OBJECTS, "place": contents.PLACES}
    return pattern.format(**{name: rng.choice(translated.get(name, some)) for name, some in english.items()})


def _first_sentence(text: str) -> str:
    """The first sentence of a text that begins with a plain one; "" for lists, code and single words."""
    ends = r".!?\u3002\uff01\uff1f"
    match = re.match(rf"[^\n{ends}:]*[{ends}](?=\s|$|[\u4e00-\u9fff])", text)
    return match[0] if match and 3 <= len(words(match[0])) <= LONGEST_SENTENCE else ""
