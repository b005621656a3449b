"""`prosg chat` under a terminal: an answer comes piece by piece, Ctrl-C ends it, and the conversation goes on."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TURN = "Remember the code 48219. Tell a story, then say the code."


class Terminal:
    """A program's terminal: what is typed, and what is shown."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self.descriptor, self.process, self.shown = descriptor, process, ""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def interrupt(self) -> None:
        """As Ctrl-C does in the terminal that a program belongs to."""
        self.process.send_signal(signal.SIGINT)

    def until(self, *texts: str) -> str:
        """Waits until these texts have come, one after another; returns what came up to the last one's end."""
        end, place = time.monotonic() + 120, 0
        for text in texts:
            while (found := self.shown.find(text, place)) < 0:
                assert time.monotonic() < end, self.shown[-500:]
                if select.select([self.descriptor], [], [], 1)[0]:
                    self.shown += os.read(self.descriptor, 65536).decode(errors="replace")
            place = found + len(text)
        before, self.shown = self.shown[:place], self.shown[place:]
        return before


@contextmanager
def chat(*options: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "prosg", "chat", "demo", "--temperature", "0", *options]
    environment = {**os.environ, "TERM": "dumb", "PROMPT_TOOLKIT_NO_CPR": "1"}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    os.close(theirs)
    try:
        terminal = Terminal(ours, process)
        terminal.until("/help lists", "> ")
        yield terminal
        terminal.type("/quit\r")
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(ours)


def test_an_answer_is_interrupted_and_the_conversation_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    with chat("--max-tokens", "100000", "--end-token", "1") as terminal:  # an answer that does not end by itself
        terminal.type(f"{TURN}\r")
        terminal.until("Code: 48219", "Code: 48219")
        terminal.interrupt()
        terminal.until(" ...", "> ")
        terminal.type("/info\r")
        assert "your first turn" in terminal.until("so far", "1 turn of yours", "> ")
        terminal.type("/memory none\r")
        terminal.until("memory: none", "> ")
        terminal.type(f"/save {file}\r")
        terminal.until("talk.json: 1 turn of yours", "> ")
    with chat("--load", str(file)) as terminal:
        terminal.type("/memory both\r")
        terminal.until("memory: both", "> ")
        terminal.type("Now say the code.\r")
        terminal.until("48219", "> ")
        terminal.type("/info\r")
        terminal.until("both; renewed: never", "2 turns of yours", "> ")
