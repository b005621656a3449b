"""`prosg chat`: a conversation in the terminal, its first prompt held."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosg.cli.arguments import MEMORIES, add_memory, add_model, add_overwrite, add_sampling, add_state, add_template
from prosg.cli.common import load_from, note_off_topic, say_template
from prosg.cli.messages import message_of
from prosg.cli.parser import Command, Parser
from prosg.cli.streams import OUTPUT
from prosg.cli.typed_lines import typed_lines
from prosg.utils.interrupts import noting_interrupts
from prosg.utils.io import read_json, written_whole
from prosg.utils.outside import check_text
from prosg.utils.paths import user_path
from prosg.utils.spelling import meant, meant_path
from prosg.utils.tables import counted, print_table
from prosg.utils.values import check_number, from_json_number

if TYPE_CHECKING:
    from prosg.core.encoded import Memory
    from prosg.data.templates import Turn
    from prosg.model.conversation import Conversation

__all__ = ["COMMAND"]

HELP = """/memory WORD   what holds the prompt from here on, as --memory; without a word, what does now
/system TEXT   begin anew under this system turn; without a text, without one
/again         another answer in the last one's place
/reset         forget all turns but the system's
/save FILE     write the conversation, as JSON
/load FILE     take one up
/info          the model, its memory, and how far it is
/quit          end; so does Ctrl-D. Ctrl-C ends an answer
anything else is your turn, also what begins with //; a line that ends with \\ goes on in the next"""


ALONE = ("/help", "/again", "/reset", "/info", "/quit", "/exit")
"""Commands that take nothing."""
RENEWALS = ("never", "turn")
"""`prosg.model.conversation.Renewal`."""


def _parser() -> Parser:
    parser = Parser(
        "Talk with a model, streamed. The system turn, or else your first, is held by --memory while the conversation "
        "goes on. From a pipe each line is a turn, and the first error ends it. In the conversation, /help lists what "
        "else can be typed."
    )
    add_model(parser)
    add_state(parser)
    add_memory(parser)
    add_template(parser, "")
    parser.add_argument("--system", default="", help="the system turn")
    parser.add_argument("--load", help="a conversation that /save wrote, to take up")
    parser.add_argument(
        "--renew",
        choices=RENEWALS,
        help="turn: hold all of the conversation anew at the end of each of your turns, which keeps less of its first "
        "prompt; by default never, or as in the file of --load",
    )
    add_overwrite(parser)
    add_sampling(parser, max_tokens=512, top_p=0.9)
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; each answer has the next")
    return parser


def _run(options: Namespace) -> int:
    from prosg.data.templates import known_template
    from prosg.model.conversation import Conversation

    check_text("--system", options.system)
    known_template(options.template)
    model = load_from(options)
    talk = Conversation(
        model,
        options.template,
        memory=options.memory,
        tau=options.tau,
        renew=options.renew or "never",
        system=options.system,
    )
    say_template(options, model)
    chat = _Chat(talk, options)
    model.sampling(**chat.usual)
    if options.load:
        if options.system:
            raise ValueError("--system and --load are given: a conversation that is taken up has its own system turn")
        chat.load(options.load)
    _say(
        f"{options.model}: template {talk.template.name}, memory {talk.memory}"
        + ". /help lists what can be typed." * sys.stdin.isatty()
    )
    for line in typed_lines([*chat.commands, "/quit"]):
        try:
            if not chat.take(line):
                break
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.filename == OUTPUT:
                raise
            _say(f"error: {message_of(error)}")
            if not sys.stdin.isatty():
                return 2
    return 0


class _Chat:
    """What lines that are typed do."""

    def __init__(self, talk: Conversation, options: Namespace) -> None:
        self.talk, self.options = talk, options
        self.seed, self.tau = options.seed, options.tau
        self.noted = False  # whether it was said what the packaged model knows
        self.files: set[Path] = set()  # that the conversation is in already, so that it may be saved there again
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: print(HELP),
            "/memory": self.memory,
            "/system": self.system,
            "/again": lambda _: self.show(self.talk.again(**self.sampling())),
            "/reset": self.reset,
            "/save": self.save,
            "/load": self.load,
            "/info": self.info,
        }

    def take(self, line: str) -> bool:
        """Does what a line says; whether the conversation goes on."""
        word, *after = line.split(maxsplit=1) or [""]
        rest = "".join(after).rstrip()
        if rest and word in ALONE:
            raise ValueError(f"{word} takes nothing after it; it is typed alone")
        if word in ("/quit", "/exit"):
            return False
        if word in self.commands:
            self.commands[word](rest)
        elif word.startswith("/") and word[1:].isalpha():
            raise ValueError(
                f"{word} is unknown{meant(word, self.commands)}; allowed: {', '.join(self.commands)}, /quit"
            )
        elif line.strip():
            self.noted = self.noted or note_off_topic(self.options.model, line)
            self.show(self.talk.ask(line, **self.sampling()))
        return True

    @property
    def usual(self) -> dict[str, Any]:
        """Options of every answer."""
        return {name: getattr(self.options, name) for name in ("max_tokens", "temperature", "top_k", "top_p")}

    def sampling(self) -> dict[str, Any]:
        """Options of the next answer."""
        self.seed += 1
        return self.usual | {"seed": self.seed - 1}

    def show(self, pieces: Iterator[str]) -> None:
        """Prints an answer as it comes; Ctrl-C ends it."""
        begun = not self.talk.template.reshapes
        try:
            with noting_interrupts() as interrupts:
                for piece in pieces:
                    interrupts.check()
                    shown = piece if begun else piece.lstrip(" ")
                    begun = begun or shown != ""
                    print(shown, end="", flush=True)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            pieces.close()  # type: ignore[attr-defined]
            print(" ...", end="")
        print(flush=True)

    def memory(self, word: str) -> None:
        """Changes what holds the prompt, or says what does."""
        if word:
            from prosg.core.encoded import with_anchor

            if word not in MEMORIES:
                raise ValueError(f"/memory {word}{meant(word, MEMORIES)}; allowed: {', '.join(MEMORIES)}")
            chosen: Memory = word  # type: ignore[assignment]
            self.talk.hold(chosen, self.tau if with_anchor(chosen) else None)
        _say(f"memory: {self.talk.memory}")

    def system(self, text: str) -> None:
        """Begins anew under another system turn."""
        self.talk.system = text
        _say("begun anew, " + ("under this system turn" if text else "without a system turn"))

    def reset(self, _: str) -> None:
        """Forgets all turns but the system's."""
        forgotten = [turn for turn in self.talk.turns if turn.role != "system"]
        self.talk.reset()
        _say(f"begun anew: {_turns(forgotten)} forgotten")

    def info(self, _: str) -> None:
        """Says what talks, how it holds what, and how far it is."""
        talk, model = self.talk, self.talk.model
        assert model.tokenizer is not None
        tokens = [len(model.tokenizer.encode(turn.text)) for turn in talk.turns]
        count = f"{sum(p.numel() for p in model.backbone.parameters()):,} parameters"
        if model.synthesizer is not None:
            count += f", a module of {sum(p.numel() for p in model.synthesizer.parameters()):,}"
        held = f"{'the system' if talk.system else 'your first'} turn, {tokens[0]} tokens" if tokens else "nothing yet"
        if talk.renew == "turn" and len(tokens) > 1:
            held = "the conversation up to your last turn"
        window = f", tau {talk.tau:g}" if talk.tau is not None else ""
        print_table(
            [
                ("model", f"{self.options.model}: {model.backbone.config.model_type}, {count}, on {model.device}"),
                ("template", talk.template.name),
                ("memory", f"{talk.memory}{window}; renewed: {talk.renew}"),
                ("holds", "nothing: memory is none" if talk.memory == "none" else held + _acting(talk)),
                ("so far", f"{_turns(talk.turns)}; {counted(sum(tokens), 'token')}"),
            ]
        )

    def save(self, name: str) -> None:
        """Writes the conversation."""
        if not name:
            raise ValueError("/save needs the name of a file")
        path = Path(user_path(name))
        if path.exists() and not self.options.overwrite and path.resolve() not in self.files:
            raise ValueError(f"{path}: exists; save under another name, or start with --overwrite")
        with written_whole(path, overwrite=True) as temporary:
            content = self.loaded() | self.talk.to_dict()
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
        self.files.add(path.resolve())
        _say(f"{path}: {_turns(self.talk.turns)}")

    def load(self, name: str) -> None:
        """Takes up a conversation that was written, held as it was where the command line does not say how."""
        if not name:
            raise ValueError("/load needs the name of a file")
        path = Path(user_path(name))
        content = _read_conversation(path, self.talk.template.name)
        memory, tau, renew = (content.get(key) for key in ("memory", "tau", "renew"))
        said = (self.options.memory, self.options.tau, self.options.anchor)
        is_held = said == (None, None, None) and memory is not None
        try:
            for key, word, allowed in (("memory", memory, MEMORIES), ("renew", renew, RENEWALS)):
                if word not in (None, *allowed):
                    raise ValueError(f"{key} is {word!r}; allowed: {', '.join(allowed)}")
            tau = None if tau is None else check_number("tau", from_json_number(tau), infinite=True)
            self.talk.resume(
                content["messages"],
                memory=memory if is_held else None,
                tau=tau if is_held else None,
                renew=renew if self.options.renew is None else None,
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None
        self.tau = tau if is_held else self.tau
        answers = [turn for turn in self.talk.turns if turn.role == "assistant"]
        self.seed += len(answers)  # else /again would draw the same answer
        self.files.add(path.resolve())
        other = [
            f"{name} {content[name]}" if content[name] else f"no {name}"
            for name, value in self.loaded().items()
            if content.get(name, value) != value
        ]
        of = f", held with {' and '.join(other)} so far" if other else ""
        _say(f"{path}: {_turns(self.talk.turns)}{of}; memory {self.talk.memory}")

    def loaded(self) -> dict[str, str]:
        """What the conversation is held with: the model, and what was loaded beside it."""
        return {
            "model": self.options.model,
            "initial state": self.options.state or "",
            "anchor": self.options.anchor or "",
        }


def _read_conversation(path: Path, template: str) -> Mapping[str, Any]:
    """What a file holds that `/save` wrote, its messages unchecked. ValueError for any other, and another template."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file{meant_path(path)}")
    content = read_json(path)
    used = content.get("template", template)
    if used != template:
        raise ValueError(f"{path}: was held under template {used}; start with --template {used}")
    if not isinstance(content.get("messages"), list):
        raise ValueError(f"{path}: no conversation: it has no messages of a role and a content")
    return content


def _acting(talk: Conversation) -> str:
    """What of the memory acts for the prompt that is held, where there is one, and why."""
    acting = talk.acting
    if acting is None:
        return ""
    text = f"; {' and '.join(acting) or 'nothing'} acts" if len(acting) < 2 else f"; {' and '.join(acting)} act"
    if talk.known is None or talk.memory == "anchor":
        return text
    if talk.memory == "auto":
        return text + (": the module knows such prompts" if talk.known else ": the module does not know such prompts")
    return text + ("" if talk.known else "; the module does not know such prompts")


def _say(text: str) -> None:
    """Prints a line on stderr, after what stdout has so far: both may go to one place."""
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)


def _turns(turns: Sequence[Turn]) -> str:
    """How many turns of whom."""
    roles = [turn.role for turn in turns]
    parts = ["the system's turn"] * ("system" in roles)
    parts += [f"{counted(roles.count('user'), 'turn')} of yours", counted(roles.count("assistant"), "answer")]
    return ", ".join(parts)


COMMAND = Command("talk with a model, its first prompt held", _parser, _run)
