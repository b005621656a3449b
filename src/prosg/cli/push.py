"""`prosg push`: send a model or adapter folder to the Hugging Face hub."""

from __future__ import annotations

from argparse import Namespace

from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser(
        "Send a model or adapter folder to the Hugging Face hub, as whoever is logged in there (hf auth login). An "
        "adapter goes without its backbone: whoever loads it names that with --base."
    )
    parser.add_argument("folder", type=path_text, help="a model or adapter folder, or a training's output folder")
    parser.add_argument("repository", help="owner/name; made if there is none")
    parser.add_argument("--private", action="store_true", help="make it one that others do not see")
    return parser


def _run(options: Namespace) -> int:
    from prosg.checkpoints.hub import push
    from prosg.checkpoints.load import trained_model

    print(push(trained_model(options.folder), options.repository, private=options.private))
    return 0


COMMAND = Command("send a folder to the Hugging Face hub", _parser, _run)
