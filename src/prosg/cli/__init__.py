"""The command line: main.py has the registry and the dispatch, parser.py and common.py what commands share."""

from __future__ import annotations

from prosg.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
