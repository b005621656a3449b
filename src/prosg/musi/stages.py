"""Where stages begin in an answer that has no labels: a quote of each stage's beginning is looked for.

Case, the kind of quotation marks and the amount of white space do not count, since models quote carelessly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prosg.data.row import Stage
from prosg.musi.text import language, words

__all__ = ["distance", "find_quote", "leaks", "needed", "place_stages", "possible"]

LOOSE = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
LONGEST_MARKER = 120


def _loosened(text: str) -> tuple[str, list[int]]:
    """The text as it is compared, and where each of its characters stands in the original."""
    chars: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        if char.isspace():
            if chars and chars[-1] == " ":
                continue
            char = " "
        # One character stays one, or places would shift; the few that grow in lower case stay as they are.
        lower = char.lower()
        chars.append((lower if len(lower) == 1 else char).translate(LOOSE))
        places.append(place)
    return "".join(chars), places


def find_quote(quote: str, text: str, position: int = 0) -> int:
    """Where a quoted span begins in the text, at `position` or behind it; -1 where it does not stand there."""
    wanted = _loosened(quote.strip().strip("\"'“”‘’「」").removesuffix("...").removesuffix("…"))[0].strip()
    if not wanted:
        return -1
    loose, places = _loosened(text)
    found = loose.find(wanted)
    while found >= 0 and places[found] < position:
        found = loose.find(wanted, found + 1)
    return places[found] if found >= 0 else -1


def _marker(answer: str, start: int, end: int, after: int) -> str:
    """The shortest run of words from `start` that cannot be found between `after` and `start`; "" where none is."""
    for stop in range(start + 1, min(end, start + LONGEST_MARKER) + 1):
        last, following = answer[stop - 1], answer[stop : stop + 1]
        if last.isspace() or (last.isalnum() and following.isalnum() and following.isascii()):
            continue  # in the middle of a word, or of a gap
        if answer.find(answer[start:stop], after) == start:
            return answer[start:stop]
    return ""


def place_stages(
    answer: str, instructions: Sequence[str], checks: Sequence[Mapping[str, Any]], quotes: Sequence[str]
) -> tuple[Stage, ...]:
    """The stages of an answer from the quotes that begin them; none where they do not stand there one after another."""
    starts = [0]
    for quote in quotes[1:]:
        found = find_quote(quote, answer, starts[-1] + 1)
        if found < 0:
            return ()
        line = answer.rfind("\n", 0, found)
        opens_line = line > starts[-1] and not answer[line:found].strip()
        starts.append(line if opens_line else found)
    stages = []
    after = 0
    for place, (instruction, check, start) in enumerate(zip(instructions, checks, starts, strict=True)):
        end = starts[place + 1] if place + 1 < len(starts) else len(answer)
        marker = _marker(answer, start, end, after) if place else ""
        if place and not marker:
            return ()
        after = start + len(marker)
        stages.append(Stage(instruction, check, start, marker))
    return tuple(stages)


def distance(answer: str, start: int) -> int:
    """Words before a stage, as rows count them; Chinese has no gaps, so its characters count."""
    before = answer[:start]
    return len(words(before)) if language(before) == "zh" else len(before.split())


def needed(check: Mapping[str, Any]) -> list[str]:
    """The texts that a stage has to hold to pass."""
    if check["type"] == "all_of":
        return [text for part in check["checks"] for text in needed(part)]
    return [*check.get("items", ()), *([check["text"]] if "text" in check else [])]


def possible(check: Mapping[str, Any], answer: str) -> bool:
    """Whether some part of the answer could pass: all that can be said where nobody knows where the stage stands."""
    return all(text.strip() in answer for text in needed(check))


def leaks(prompt: str, answer: str, last: Stage) -> bool:
    """Whether the answer may give away what its last stage needs; it does not where only the prompt holds it before."""
    texts = [text.strip().rstrip(".。").lower() for text in needed(last.check)]
    before = answer[: last.start].lower()
    return not texts or not all(text in prompt.lower() and text not in before for text in texts)
