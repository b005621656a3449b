"""The command line: program.py puts it together, a file for each group of commands, parts.py what they share."""

from __future__ import annotations

from prosg.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
