"""Lines that are typed, with history and editing; or those of a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

__all__ = ["typed_lines"]


def typed_lines(words: Sequence[str]) -> Iterator[str]:
    """Yields what is typed, until Ctrl-D; of a pipe its lines.

    In a terminal Ctrl-C drops a line, the tab key completes one of the `words`, and a line that ends with a backslash
    goes on in the next.
    """
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
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
