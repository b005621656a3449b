"""Commands, and their parser: argparse's with one spelling of options, lists, the options of dataclasses, and errors on
one line.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import types
import typing
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from prosg.cli.help_format import HelpFormatter, default_note, listing, short_usage
from prosg.utils.options import Option, iter_options, summary
from prosg.utils.paths import user_path
from prosg.utils.spelling import meant
from prosg.utils.tables import counted
from prosg.utils.values import GREATEST_OPTION, check_number, check_whole, shown
from prosg.utils.yaml_text import parse_yaml

__all__ = ["Command", "Group", "Parser", "add_dataclass", "complain", "example_text", "packaged_config", "path_text"]


class Command(NamedTuple):
    """A command.

    Attributes:
        help: One line for the list of commands.
        parser: Makes its parser.
        run: Does it, with the parsed options; returns the exit status. ValueError and OSError are the user's to mend.
        resumes: Whether the same command, started again, goes on from where it was stopped.
    """

    help: str
    parser: Callable[[], Parser]
    run: Callable[[Namespace], int]
    resumes: bool = False


class Group(NamedTuple):
    """Commands of two words. `examples` are configuration files that `--example` prints, the first one by default."""

    help: str
    description: str
    commands: Mapping[str, Command]
    examples: Sequence[str] = ()


def complain(message: str) -> int:
    """Prints an error as one line of stderr, once if several processes run; returns the exit status."""
    if "LOCAL_RANK" in os.environ:
        from prosg.utils.distributed import wait_for_launcher  # PyTorch takes seconds to import

        wait_for_launcher()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


class Parser(argparse.ArgumentParser):
    """argparse's parser with one spelling of options, and errors on one line.

    Options are written out in full, with dashes. Underscores in their names, and the older names in `renamed`, are
    accepted, but not shown.
    """

    def __init__(self, description: str, *, renamed: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(description=description, allow_abbrev=False, formatter_class=HelpFormatter, **options)
        self.renamed = renamed or {}
        self.groups: Mapping[str, Sequence[str]] = {}
        self.sections: list[tuple[str, bool | None]] = []  # of the help, after the options; of which help, if not both
        self.brief: Mapping[str, Sequence[str]] = {}  # what --help shows, by heading, if not all
        self.register("type", int, _whole)
        self.register("type", float, _number)

    def parse(self, arguments: Sequence[str]) -> Namespace:
        """Parses the arguments, with every option in its own spelling."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return self.parse_args([*map(self._spelled, arguments[:end]), *arguments[end:]])

    def _spelled(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or " " in name:
            return argument
        name = name.replace("_", "-")
        return self.renamed.get(name, name) + equals + value

    def format_help(self, whole: bool = False) -> str:
        """The help: a short usage, commands under the headings of `groups`, and the `sections` after the options.

        Where there are `brief` options, it shows those alone, unless the `whole` is wanted.
        """
        if self.usage is None:
            self.usage = short_usage(self)
        text = self._brief_help() if self.brief and not whole else super().format_help()
        commands = next((a for a in self._actions if isinstance(a, argparse._SubParsersAction)), None)
        if commands is not None:
            helps = {action.dest: action.help or "" for action in commands._choices_actions}
            groups = self.groups or {"commands": [*helps]}
            blocks = [listing(heading, {name: helps[name] for name in names}) for heading, names in groups.items()]
            before, _, after = text.partition("\ncommands:\n")
            rest = after.partition("\n\n")[2]
            text = "\n".join([before, "\n\n".join(blocks), *([f"\n{rest.rstrip()}"] if rest.strip() else []), ""])
        whole = whole or not self.brief
        sections = [section for section, only in self.sections if only in (None, whole)]
        return "\n".join([text, *(f"{section}\n" for section in sections)]).rstrip() + "\n"

    def _brief_help(self) -> str:
        """Usage, description, and the options of `brief` under their headings."""
        by_name = {name: action for action in self._actions for name in action.option_strings or [action.dest]}
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for heading, names in self.brief.items():
            formatter.start_section(heading)
            formatter.add_arguments([by_name[name] for name in names])
            formatter.end_section()
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """Prints what was wrong and stops with status 2; for a misspelt word with the one that was probably meant."""
        choice = re.search(r"^(.*?): invalid choice: '([^']*)' \(choose from (.*)\)$", message)
        if choice is not None:
            where, word, allowed = choice.groups()
            known = [name.strip(" '") for name in allowed.split(",")]
            message = f"{where}: {word!r} is unknown{meant(word, known)}; allowed: {', '.join(known)}"
        elif (unknown := message.removeprefix("unrecognized arguments: ")) != message:
            name = unknown.split()[0].partition("=")[0]
            message += meant(name, [*self._option_string_actions]) if name.startswith("-") else ""
        raise SystemExit(complain(f"{message} (see {self.prog} --help)"))

    def add_list(self, name: str, item: Callable[[str], Any] = str, **options: Any) -> None:
        """Adds an option with several values, apart by spaces or commas."""
        self.add_argument(name, action=_List, item=item, **options)

    def add_range(self, name: str, **options: Any) -> None:
        """Adds an option with a least and a greatest whole number."""
        self.add_argument(name, action=_List, item=int, length=2, metavar=("MIN", "MAX"), **options)

    def add_section(self, heading: str, entries: Mapping[str, str], whole: bool | None = None) -> None:
        """Adds names with what each is, shown after the options: of the whole help alone, of the brief one, or both."""
        self.sections.append((listing(heading, entries), whole))

    def show_first(self, brief: Mapping[str, Sequence[str]]) -> None:
        """Has --help show these options alone, by heading, and adds --help-all, which shows all."""
        self.brief = brief
        self.add_argument("--help-all", action=_HelpAll)

    def add_example(self, *files: str) -> None:
        """Adds --example, which prints a configuration file of the package: the first, or another by its name."""
        self.add_argument("--example", action=_Example, files=files)


class _List(argparse.Action):
    """Several values after one option: 1 2, or 1,2, or the YAML list [1, 2]."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        item: Callable[[str], Any],
        length: int = 0,
        single: bool = False,
        **options: Any,
    ) -> None:
        """`length` is the number of values, 0 for any; `single` leaves one value as it is, without a list."""
        super().__init__(option_strings, dest, nargs="+", **options)
        self.item, self.length, self.single = item, length, single

    def __call__(self, parser: Any, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        text = " ".join(values)
        if text.startswith("["):
            parts = self._yaml_list(text)
        else:
            parts = [part for value in values for part in value.split(",") if part.strip()]
            if not parts:
                raise argparse.ArgumentError(self, f"{text!r} names nothing; give a value, or leave the option out")
        try:
            convert = {int: _whole, float: _number}.get(self.item, self.item)  # type: ignore[call-overload]
            items = [convert(part) for part in parts]
        except (ValueError, argparse.ArgumentTypeError):
            kind = {int: "whole numbers", float: "numbers"}.get(self.item, "values")  # type: ignore[call-overload]
            raise argparse.ArgumentError(
                self, f"{text!r} is not a list of {kind}; give them apart by spaces or commas"
            ) from None
        if self.length and len(items) != self.length:
            raise argparse.ArgumentError(self, f"{text!r} is {counted(len(items), 'value')}, must be MIN and MAX")
        alone = self.single and len(items) == 1 and not text.startswith("[")
        setattr(namespace, self.dest, items[0] if alone else items)

    def _yaml_list(self, text: str) -> list[str]:
        try:
            content = parse_yaml(text, self.option_strings[0])
        except ValueError:
            content = None
        if not isinstance(content, list):
            raise argparse.ArgumentError(self, f"{text!r} is not a list like [a, b]")
        return [str(item) for item in content]


class _HelpAll(argparse.Action):
    """Prints the help of all options, and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help="show all options and exit"
        )

    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.format_help(whole=True), end="")
        raise SystemExit(0)


class _Example(argparse.Action):
    """Prints a configuration file to start from, and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str, files: Sequence[str], **_: Any) -> None:
        self.files = {file.removesuffix(".yaml"): file for file in files}
        first, *others = self.files
        super().__init__(
            option_strings,
            argparse.SUPPRESS,
            nargs="?" if others else 0,
            choices=[*self.files] if others else None,
            const=first,
            default=argparse.SUPPRESS,
            metavar="NAME" if others else None,
            help="print a commented configuration file to start from"
            + (f", or that of a NAME: {', '.join(others)}" if others else ""),
        )

    def __call__(self, parser: Any, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        print(example_text(self.files[values or self.const]), end="")
        raise SystemExit(0)


def path_text(text: str) -> str:
    """Reads an option that is a path, with `~`."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def example_text(name: str) -> str:
    """Returns the text of a configuration file that comes with the package."""
    return Path(packaged_config(name)).read_text("utf-8")


def packaged_config(name: str) -> str:
    """Returns the path of a configuration file that comes with the package."""
    return str(resources.files("prosg").joinpath("configs", name))


def add_dataclass(
    parser: Parser,
    kind: type,
    defaults: Mapping[str, Any],
    without: Collection[str] = (),
    allowed: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Adds the options of a dataclass, dotted names for those in groups. Only those that are given are set.

    Args:
        parser: Gets the options.
        kind: The dataclass; its docstring is the help.
        defaults: By dotted name what help says instead of a field's own default.
        without: Fields and groups that are left out.
        allowed: By dotted name the values that help says are allowed; whoever reads the option checks them.
    """
    for group, options in iter_options(kind):
        if options[0].name.partition(".")[0] in without and "." in options[0].name:
            continue
        name = options[0].name.rpartition(".")[0]
        section = parser if group is kind else parser.add_argument_group(name, summary(group))
        for option in options:
            if option.name not in without:
                names = (allowed or {}).get(option.name)
                text = f"{option.help} One of {', '.join(names)}." if names else option.help
                _add_field(section, option._replace(default=defaults.get(option.name, option.default), help=text))


def _add_field(section: Any, option: Option) -> None:
    name = "--" + option.name.replace("_", "-")
    text = option.help.replace("%", "%%") + default_note(option.default)
    section.add_argument(name, default=argparse.SUPPRESS, help=text, **_kind(option.hint))


def _kind(hint: Any) -> dict[str, Any]:
    """What argparse needs to know about a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"choices": list(inner)}
    if origin is types.UnionType:  # several values, or one
        return {"action": _List, "item": str, "single": True}
    if origin in (list, tuple):
        return {"action": _List, "item": inner[0]}
    if hint is bool:
        return {"type": _boolean, "metavar": "true|false"}
    return {"type": hint}


def _whole(text: str) -> Any:
    """A whole number of the command line."""
    try:
        return check_whole("it", int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} must be a whole number (int), at most 2^63 - 1") from None


def _number(text: str) -> float:
    """A number of the command line. Infinity is left to the option to refuse."""
    try:
        return check_number("it", float(text), infinite=True)
    except ValueError:
        allowed = f"a finite number (float), at most {GREATEST_OPTION:g}"
        raise argparse.ArgumentTypeError(f"{shown(text)} must be {allowed}") from None


def _boolean(text: str) -> bool:
    values = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} must be true or false")
    return values[text.lower()]
