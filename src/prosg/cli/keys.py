"""`prosg keys`: the API keys of a server."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from prosg.cli.parser import Command, Group, Parser, add_dataclass, path_text

__all__ = ["COMMANDS"]


def _with_file(description: str) -> Parser:
    parser = Parser(description)
    parser.add_argument("file", type=path_text, help="the file of keys, which holds their hashes")
    return parser


def _add_parser() -> Parser:
    from prosg.serving.api.options import KeyLimits

    parser = _with_file("Make a key, and print it: it cannot be shown again. Limits are those of the server otherwise.")
    parser.add_argument("name", help="whose key it is, for logs")
    add_dataclass(parser, KeyLimits, {})
    return parser


def _add(options: Namespace) -> int:
    from prosg.serving.api.keys import add_key
    from prosg.serving.api.options import KeyLimits
    from prosg.utils.options import iter_options

    ((_, fields),) = iter_options(KeyLimits)
    limits = {field.name: getattr(options, field.name) for field in fields if hasattr(options, field.name)}
    print(add_key(Path(options.file), options.name, limits))
    return 0


def _list(options: Namespace) -> int:
    from datetime import UTC, datetime

    from prosg.serving.api.keys import read_keys
    from prosg.utils.tables import to_text

    rows = [
        [key.name, key.id, datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d"), _limits(key.limits)]
        for key in read_keys(Path(options.file))
    ]
    print(to_text([["name", "id", "created", "limits"], *rows]))
    return 0


def _limits(limits: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in limits.items()) or "the server's"


def _revoke(options: Namespace) -> int:
    from prosg.serving.api.keys import revoke_key

    revoke_key(Path(options.file), options.name)
    return 0


def _revoke_parser() -> Parser:
    parser = _with_file("Remove a key. A running server refuses it from its next request on; its prompts stay.")
    parser.add_argument("name", help="whose key it is")
    return parser


COMMANDS = Group(
    "API keys of a server",
    "API keys of a server, of which a file holds the hashes.",
    {
        "add": Command("make a key", _add_parser, _add),
        "list": Command("list the keys", lambda: _with_file("List the keys, without their secrets."), _list),
        "revoke": Command("remove a key", _revoke_parser, _revoke),
    },
)
