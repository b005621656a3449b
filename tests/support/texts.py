"""Texts for tests of synthetic instructions."""

from __future__ import annotations

import re
from random import Random

from prosg.data.synthetic import words

CONTENTS = [*words.NAMES, *words.OBJECTS, *words.PLACES, *words.COLORS]


def has_word(text: str, word: str) -> bool:
    """Whether a word or phrase occurs in a text between word boundaries, whatever its case."""
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def running_text(paragraphs: int = 120) -> str:
    """Prose as in files: wrapped lines, headings, words of contents, full stops within sentences."""
    rng = Random(5)
    lines = ["= A heading ="]
    for number in range(paragraphs):
        sentences = [f"Paragraph {number + 1} is told by {rng.choice(CONTENTS)} , as it was ."]
        sentences += [f"The {number} sheep and {rng.choice(('9', 'many'))} others saw {k} clouds." for k in range(4)]
        sentences += ["Dr. Smith paid 3.5 pounds.", "The <unk> went there and back.", "Too short."]
        sentences += ["it began small here."]
        lines += ["\n".join(sentences), ""]
    return "\n".join(lines)
