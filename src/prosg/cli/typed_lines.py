"""Lines that are typed, with history and editing; or those of a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper

__all__ = ["typed_lines"]


def typed_lines(words: Sequence[str]) -> Iterator[str]:
    """Yields what is typed, until Ctrl-D; of a pipe its lines. A line that ends with a backslash goes on in the next.

    In a terminal Ctrl-C drops a line, and the tab key completes one of the `words`.

    Raises:
        ValueError: naming the line of a pipe that is no UTF-8.
    """
    if not sys.stdin.isatty():
        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")
        yield from _piped_lines(sys.stdin)
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter

    completer = WordCompleter([*words], sentence=True)
    session: PromptSession[str] = PromptSession(completer=completer, complete_while_typing=False)
    while True:
        lines = []
        try:
            lines.append(session.prompt("> "))
            while lines[-1].endswith("\\"):
                lines[-1] = lines[-1][:-1]
                lines.append(session.prompt("  "))
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        yield "\n".join(lines)


def _piped_lines(pipe: Iterable[str]) -> Iterator[str]:
    lines: list[str] = []
    for number, line in enumerate(pipe, 1):
        if not line.isascii() and any("\ud800" <= letter <= "\udfff" for letter in line):
            raise ValueError(f"standard input, line {number}: not UTF-8")
        lines.append((line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n"))
        if lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            continue
        yield "\n".join(lines)
        lines = []
    if lines:
        yield "\n".join(lines)
