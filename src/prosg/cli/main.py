"""The command line: the registry of commands, and running the one that is named.

Errors are one line on stderr: exit status 2 for those that a user can mend, 1 for any other, whose traceback is kept in
a file that the line names. With PROSG_DEBUG set every error shows its traceback instead.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import traceback
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from prosg.cli import (
    ablate,
    batch,
    chat,
    convert,
    curve,
    data,
    demo,
    encode,
    eval,
    export,
    generate,
    info,
    inspect,
    judge,
    keys,
    lm_eval,
    merge,
    perplexity,
    push,
    rate,
    report,
    serve,
    train,
)
from prosg.cli.messages import message_of
from prosg.cli.parser import Command, Group, Parser, complain
from prosg.cli.streams import close_output, flush_or_close, prepare_streams
from prosg.utils.allocation import keep_freed_memory
from prosg.utils.errors import causes
from prosg.utils.spelling import meant

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Command | Group] = {
    "demo": demo.COMMAND,
    "generate": generate.COMMAND,
    "chat": chat.COMMAND,
    "encode": encode.COMMAND,
    "serve": serve.COMMAND,
    "keys": keys.COMMANDS,
    "batch": batch.COMMAND,
    "train": train.COMMANDS,
    "ablate": ablate.COMMAND,
    "data": data.COMMANDS,
    "perplexity": perplexity.COMMAND,
    "curve": curve.COMMAND,
    "info": info.COMMAND,
    "convert": convert.COMMAND,
    "merge": merge.COMMAND,
    "export": export.COMMAND,
    "inspect": inspect.COMMAND,
    "eval": eval.COMMAND,
    "report": report.COMMAND,
    "judge": judge.COMMAND,
    "rate": rate.COMMAND,
    "lm-eval": lm_eval.COMMAND,
    "push": push.COMMAND,
}
"""By name, in the order of `prosg --help`."""

GROUPS = {
    "start": ("generate", "chat", "encode", "batch", "info", "demo"),
    "train": ("train", "ablate"),
    "data": ("data",),
    "serve": ("serve", "keys"),
    "measure": ("curve", "perplexity", "eval", "report", "inspect", "judge", "rate", "lm-eval"),
    "other programs": ("convert", "merge", "export", "push"),
}
"""The commands as the help lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status. SystemExit for arguments that do not parse, and for --help."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when it is imported: advice is not for a screen
    arguments = list(sys.argv[1:] if argv is None else argv)
    command: Command | None = None
    options = Namespace()
    if refusal := prepare_streams():
        return complain(refusal)
    try:
        try:
            command, options = _parsed(arguments)
            keep_freed_memory()
            status = 2 if command is None else command.run(options)
        except SystemExit:  # of --help, --version, --example
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # so that a pipe that was closed shows here, not in the interpreter's last moments
        return status
    except BrokenPipeError:
        close_output()  # whoever read has enough (`| head`)
        return 128 + signal.SIGPIPE
    except BaseException as error:
        flush_or_close()
        if any(isinstance(one, KeyboardInterrupt) for one in causes(error)):  # a library may raise another on top
            goes_on = command is not None and command.resumes
            print("\nstopped" + "; the same command goes on from what it has saved" * goes_on, file=sys.stderr)
            return 130
        message = message_of(error)
        if os.environ.get("PROSG_DEBUG") or (message is None and not isinstance(error, Exception)):
            raise
        if message is not None:
            return complain(_as_typed(message, options))
        complain(f"{type(error).__name__}: {error}{_kept(error)}")
        return 1


def _kept(error: BaseException) -> str:
    """Writes the traceback of an error that nobody expected into a file; says where."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="prosg-", suffix=".txt", delete=False, encoding="utf-8") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return "; PROSG_DEBUG=1 shows where"
    return f"; this should not happen, its traceback is in {file.name}"


def _as_typed(message: str, options: Namespace) -> str:
    """A message that begins with an option's name in Python, max_tokens, with the one that is typed, --max-tokens."""
    name, space, rest = message.partition(" ")
    if rest.startswith(("is ", "has ")) and hasattr(options, name):
        return f"--{name.replace('_', '-')}{space}{rest}"
    return message


def _parsed(arguments: Sequence[str]) -> tuple[Command | None, Namespace]:
    """The command that is named, with its options; none, after printing the list of commands, where there is no word.

    Only the parser of that command is built.
    """
    overview = _overview(
        "prosg",
        "Prompt memory for recurrent language models, measured: an anchor, an update, durable fine-tuning.",
        COMMANDS,
        "Start with: prosg generate demo --prompt 'Remember the code 4821937. Tell a story, then say the code.'",
    )
    overview.add_argument("--version", action=_Version)
    overview.groups = GROUPS
    if not arguments:
        overview.print_help()
        return None, Namespace()
    overview.parse(arguments[:1])
    name, rest = arguments[0], arguments[1:]
    command = COMMANDS[name]
    if isinstance(command, Group):
        overview = _overview(f"prosg {name}", command.description, command.commands)
        if command.examples:
            overview.add_example(*command.examples)
        if not rest:
            overview.error(f"a command is missing, one of {', '.join(command.commands)}")
        if rest[0] not in command.commands and not rest[0].startswith(("-h", "--help", "--example")):
            known = ", ".join(command.commands)
            overview.error(f"a command comes first, one of {known}; not {rest[0]!r}{meant(rest[0], command.commands)}")
        overview.parse(rest[:1] if rest[0] in command.commands else rest)
        name, command, rest = f"{name} {rest[0]}", command.commands[rest[0]], rest[1:]
    parser = command.parser()
    parser.prog = f"prosg {name}"
    return command, parser.parse(rest)


def _overview(prog: str, description: str, commands: Mapping[str, Command | Group], epilog: str = "") -> Parser:
    """A parser of a command's name alone, which lists the commands."""
    parser = Parser(description, prog=prog, epilog=epilog)
    names = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=argparse.ArgumentParser)
    for name, command in commands.items():
        names.add_parser(name, help=command.help, add_help=False)
    return parser


class _Version(argparse.Action):
    """Prints the version, and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help="print the version"
        )

    def __call__(self, *_: Any) -> None:
        from importlib.metadata import version

        print(f"prosg {version('prosg')}")
        raise SystemExit(0)
