"""`prosg chat`: a conversation in the terminal, its first prompt held."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prosg.cli.common import MEMORIES, add_memory, add_model, add_overwrite, add_state, check_text, load_from
from prosg.cli.parser import Command, Parser
from prosg.utils.spelling import meant

if TYPE_CHECKING:
    from prosg.model.conversation import Conversation

__all__ = ["COMMAND"]

HELP = """/memory none|anchor|update|both   what holds the prompt from here on; without a word, what does now
/system TEXT   begin anew under this system turn; without a text, without one
/again         another answer in the last one's place
/reset         forget all turns but the system's
/save FILE     write the conversation, as JSON
/load FILE     take one up
/info          the model, its memory, and how far it is
/quit          end; so does Ctrl-D. Ctrl-C ends an answer
anything else is your turn; a line that ends with \\ goes on in the next"""


def _parser() -> Parser:
    parser = Parser(
        "Talk with a model, streamed. The system turn, or else your first, is held by --memory while the conversation "
        "goes on. From a pipe each line is a turn. In the conversation, /help lists what else can be typed."
    )
    add_model(parser)
    add_state(parser)
    add_memory(parser)
    parser.add_argument(
        "--template",
        default="",
        help="how turns are written: none, world, pile or raven; by default the tokenizer's",
    )
    parser.add_argument("--system", default="", help="the system turn")
    parser.add_argument("--load", help="a conversation that /save wrote, to take up")
    parser.add_argument(
        "--renew",
        choices=("never", "turn"),
        default="never",
        help="hold the conversation as it is at the end of each of your turns, instead of its first prompt",
    )
    add_overwrite(parser)
    parser.add_argument("--max-tokens", type=int, default=512, help="longest answer")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest tokens; 0: all")
    parser.add_argument("--top-p", type=float, default=0.9, help="draw from the likeliest that hold this probability")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; each answer has the next")
    return parser


def _run(options: Namespace) -> int:
    from prosg.data.templates import known_template
    from prosg.model.conversation import Conversation
    from prosg.tokenizers.world import WORLD_FINGERPRINT

    check_text("--system", options.system)
    known_template(options.template)
    model = load_from(options)
    assert model.tokenizer is not None
    template = options.template or ("world" if model.tokenizer.fingerprint == WORLD_FINGERPRINT else "none")
    talk = Conversation(
        model, template, memory=options.memory, tau=options.tau, renew=options.renew, system=options.system
    )
    chat = _Chat(talk, options)
    if options.load:
        chat.load(options.load)
    if sys.stdin.isatty():
        print(
            f"{options.model}: template {template}, memory {talk.memory}. /help lists what can be typed.",
            file=sys.stderr,
        )
    for line in _lines():
        try:
            if not chat.take(line):
                break
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            if not sys.stdin.isatty():
                return 2
    return 0


class _Chat:
    """What lines that are typed do."""

    def __init__(self, talk: Conversation, options: Namespace) -> None:
        self.talk, self.options = talk, options
        self.seed = options.seed
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: print(HELP),
            "/memory": self.memory,
            "/system": self.system,
            "/again": lambda _: self.show(self.talk.again(**self.sampling())),
            "/reset": lambda _: self.talk.reset(),
            "/save": self.save,
            "/load": self.load,
            "/info": self.info,
        }

    def take(self, line: str) -> bool:
        """Does what a line says; whether the conversation goes on."""
        word, _, rest = line.strip().partition(" ")
        if word in ("/quit", "/exit"):
            return False
        if word in self.commands:
            self.commands[word](rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            raise ValueError(
                f"{word} is unknown{meant(word, self.commands)}; allowed: {', '.join(self.commands)}, /quit"
            )
        elif line.strip():
            self.show(self.talk.ask(line, **self.sampling()))
        return True

    def sampling(self) -> dict[str, Any]:
        """Options of the next answer."""
        self.seed += 1
        names = ("max_tokens", "temperature", "top_k", "top_p")
        return {name: getattr(self.options, name) for name in names} | {"seed": self.seed - 1}

    def show(self, pieces: Iterator[str]) -> None:
        """Prints an answer as it comes; Ctrl-C ends it."""
        begun = self.talk.template == "none"
        try:
            for piece in pieces:
                shown = piece if begun else piece.lstrip(" ")
                begun = begun or shown != ""
                print(shown, end="", flush=True)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            pieces.close()  # type: ignore[attr-defined]
            print(" ...", end="")
        print()

    def memory(self, word: str) -> None:
        """Changes what holds the prompt, or says what does."""
        if word:
            if word not in MEMORIES:
                raise ValueError(f"/memory {word}{meant(word, MEMORIES)}; allowed: {', '.join(MEMORIES)}")
            chosen: Literal["none", "anchor", "update", "both"] = word  # type: ignore[assignment]
            self.talk.hold(chosen, self.options.tau if word in ("anchor", "both") else None)
        print(f"memory: {self.talk.memory}", file=sys.stderr)

    def system(self, text: str) -> None:
        """Begins anew under another system turn."""
        self.talk.system = text

    def info(self, _: str) -> None:
        """Says what talks, and how far it is."""
        tokenizer = self.talk.model.tokenizer
        assert tokenizer is not None
        tokens = sum(len(tokenizer.encode(turn.text)) for turn in self.talk.turns)
        print(
            f"{self.options.model}: {self.talk.model.backbone.config.model_type}, template {self.talk.template}, "
            f"memory {self.talk.memory}, renewed {self.talk.renew}; {len(self.talk.turns)} turns, {tokens} tokens"
        )

    def save(self, name: str) -> None:
        """Writes the conversation."""
        from prosg.utils.io import written_whole

        if not name:
            raise ValueError("/save needs the name of a file")
        with written_whole(name, overwrite=self.options.overwrite) as temporary:
            temporary.write_text(json.dumps(self.talk.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")
        print(f"{name}: {len(self.talk.turns)} turns", file=sys.stderr)

    def load(self, name: str) -> None:
        """Takes up a conversation that was written."""
        from prosg.data.templates import Turn
        from prosg.utils.io import read_json
        from prosg.utils.paths import user_path

        if not name:
            raise ValueError("/load needs the name of a file")
        path = Path(user_path(name))
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        content = read_json(path)
        messages, template = content.get("messages"), content.get("template", self.talk.template)
        if template != self.talk.template:
            raise ValueError(f"{path}: was held under template {template}; start with --template {template}")
        try:
            turns = [Turn(str(message["role"]), str(message["content"])) for message in messages]  # type: ignore[union-attr]
        except (TypeError, KeyError):
            raise ValueError(f"{path}: no conversation: it has no messages of a role and a content") from None
        try:
            self.talk.resume(turns)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        print(f"{path}: {len(self.talk.turns)} turns", file=sys.stderr)


def _lines() -> Iterator[str]:
    """Turns as they are typed, with history and editing in a terminal; of a pipe its lines."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession()
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


COMMAND = Command("talk with a model, its first prompt held", _parser, _run)
