"""Places of the stages in an answer without labels, found by a quote of each stage's beginning.

Models quote carelessly, so case, the kind of quotation marks and the amount of white space are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category, east_asian_width

from prosg.data.checks import Check
from prosg.data.row import Stage
from prosg.musi.text import language, words

__all__ = ["can_pass", "find_quote", "is_evidence", "leaks", "place_stages", "required_texts", "words_before"]

LOOSE = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
LONGEST_MARKER = 120
"""Characters."""
LEAST_LETTERS = 3
"""Letters and digits of a quote that shows anything; a wide character, like a Chinese one, is worth two."""


def _loosened(text: str) -> tuple[str, list[int]]:
    """The text in the form that is compared, and the place in the original of each of its characters."""
    chars: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        if char.isspace():
            if chars and chars[-1] == " ":
                continue
            char = " "
        # A character must stay one character, so those that grow in lower case are left alone.
        lower = char.lower()
        chars.append((lower if len(lower) == 1 else char).translate(LOOSE))
        places.append(place)
    return "".join(chars), places


def find_quote(quote: str, text: str, position: int = 0) -> int:
    """Returns where a quote begins in the text, at `position` or later; -1 if it is not there."""
    wanted = _loosened(quote.strip().strip("\"'“”‘’「」").removesuffix("...").removesuffix("…"))[0].strip()
    if not wanted:
        return -1
    loose, places = _loosened(text)
    start = loose.find(wanted)
    while start >= 0 and places[start] < position:
        start = loose.find(wanted, start + 1)
    return places[start] if start >= 0 else -1


def is_evidence(quote: str, text: str) -> bool:
    """Whether a quote stands in the text and is of some substance: a few letters, or a line that is no punctuation."""
    if find_quote(quote, text) < 0:
        return False
    letters = sum(1 + (east_asian_width(char) in "WF") for char in quote if char.isalnum())
    whole_line = quote.strip() in {line.strip() for line in text.splitlines()}
    return letters >= LEAST_LETTERS or (whole_line and any(category(char)[0] not in "PZC" for char in quote))


def _marker(answer: str, start: int, end: int, after: int) -> str:
    """The shortest run of words from `start` that does not occur between `after` and `start`; "" if there is none."""
    for stop in range(start + 1, min(end, start + LONGEST_MARKER) + 1):
        last, following = answer[stop - 1], answer[stop : stop + 1]
        if last.isspace() or (last.isalnum() and following.isalnum() and following.isascii()):
            continue  # in the middle of a word, or of a gap
        if answer.find(answer[start:stop], after) == start:
            return answer[start:stop]
    return ""


def place_stages(
    answer: str, instructions: Sequence[str], checks: Sequence[Check], quotes: Sequence[str]
) -> tuple[Stage, ...]:
    """Divides an answer into stages, one for each step, by quotes of the beginnings of its parts.

    No stages if the quotes do not follow each other in the answer, or if no marker can tell a stage apart.
    """
    starts = [0]
    for quote in quotes[1:]:
        start = find_quote(quote, answer, starts[-1] + 1)
        if start < 0:
            return ()
        line = answer.rfind("\n", 0, start)
        opens_line = line > starts[-1] and not answer[line:start].strip()
        starts.append(line if opens_line else start)
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


def words_before(answer: str, start: int) -> int:
    """Returns the number of words before a stage (a row's `distance_words`); in Chinese, of characters."""
    before = answer[:start]
    return len(words(before)) if language(before) == "zh" else len(before.split())


def required_texts(check: Check) -> list[str]:
    """Returns the texts that a stage must contain to pass its check."""
    if check["type"] == "all_of":
        return [text for part in check["checks"] for text in required_texts(part)]
    return [*check.get("items", ()), *([check["text"]] if "text" in check else [])]


def can_pass(check: Check, answer: str) -> bool:
    """Whether some part of the answer could pass the check, wherever the stage is."""
    return all(text.strip() in answer for text in required_texts(check))


def leaks(prompt: str, answer: str, last: Stage) -> bool:
    """Whether a reader of the answer may know its last stage without the prompt.

    It is not so if all texts that the stage requires are in the prompt and none is in the answer before the stage.
    """
    texts = [text.strip().rstrip(".。").lower() for text in required_texts(last.check)]
    before = answer[: last.start].lower()
    return not texts or not all(text in prompt.lower() and text not in before for text in texts)
