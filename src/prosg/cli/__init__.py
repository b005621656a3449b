"""The command line: main.py has the registry and the dispatch, common.py what commands share; a file for each."""

from __future__ import annotations

from prosg.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
