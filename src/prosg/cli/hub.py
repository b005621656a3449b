"""prosg push: a model or adapter folder to the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from prosg.cli.common import Parser, Tool

__all__ = ["SHARING"]


def _push_parser() -> Parser:
    parser = Parser(
        description="Send a model or adapter folder to the Hugging Face hub, as whoever is logged in there (hf auth "
        "login). An adapter goes without its backbone: whoever loads it names that with --base."
    )
    parser.add_argument("folder", type=str, help="a model or adapter folder, or a training's output folder")
    parser.add_argument("repository", type=str, help="owner/name; made if there is none")
    parser.add_argument("--private", action="store_true", help="make it one that others do not see")
    return parser


def _run_push(options: Any) -> int:
    from prosg.checkpoints.hub import push
    from prosg.checkpoints.load import trained_model

    print(push(trained_model(options.folder), options.repository, private=options.private))
    return 0


SHARING: dict[str, Tool] = {"push": Tool(_push_parser, "send a folder to the Hugging Face hub", _run_push)}
"""By the command's name."""
