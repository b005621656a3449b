"""The documents' code blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(file for pattern in ("*.md", "docs/*.md", "examples/*.md") for file in ROOT.glob(pattern))
CONTINUED = "\0"
"""Stands for a line that ends with a backslash."""
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class CodeBlock(NamedTuple):
    """A fenced block: the document's name, the line that its text begins in, its language, its text."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


class ShellCommand(NamedTuple):
    """A command of a block, its words, and where it stands."""

    place: str
    words: list[str]


def code_blocks(documents: list[Path] = DOCUMENTS) -> Iterator[CodeBlock]:
    """Every fenced block."""
    for document in documents:
        text = document.read_text("utf-8")
        for match in BLOCK.finditer(text):
            indent, language, inner = match.groups()
            lines = [line.removeprefix(indent) for line in inner.splitlines()]
            line = text.count("\n", 0, match.start()) + 2
            yield CodeBlock(
                str(document.relative_to(ROOT)), line, language.split()[0] if language else "", "\n".join(lines)
            )


def shell_commands(block: CodeBlock) -> Iterator[ShellCommand]:
    """The commands of a block of `sh`.

    Raises:
        ValueError: where quotes do not match.
    """
    text = re.sub(r"\\\n", lambda _: f" {CONTINUED}", block.text)
    number = block.line
    for line in text.splitlines():
        for words in _pipeline(shlex.split(line.replace(CONTINUED, ""), comments=True)):
            yield ShellCommand(f"{block.document}:{number}", words)
        number += 1 + line.count(CONTINUED)


def _pipeline(words: list[str]) -> Iterator[list[str]]:
    """The commands of a line, apart at |, && and ;, without redirections."""
    part: list[str] = []
    for word in [*words, "|"]:
        if word in ("|", "&&", ";"):
            redirected = next((place for place, one in enumerate(part) if one in ("<", ">")), len(part))
            if part:
                yield part[:redirected]
            part = []
        else:
            part.append(word)
