"""`prosg report`: an evaluation's report anew, or several runs as one."""

from __future__ import annotations

import os
import sys
from argparse import Namespace

from prosg.cli.arguments import add_overwrite
from prosg.cli.common import check_new_file
from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser(
        "Write the report of an evaluation anew, or of several of the same rows side by side. A run's own report is "
        "replaced; one in another folder only with --overwrite."
    )
    parser.add_argument("runs", nargs="+", metavar="DIR", type=path_text, help="folders of prosg eval")
    parser.add_argument("--out", type=path_text, help="folder to write it in; of a single run its own by default")
    add_overwrite(parser)
    return parser


def _run(options: Namespace) -> int:
    from prosg.evaluation.report.writer import write_reports

    if options.out is None and len(options.runs) > 1:
        raise ValueError("--out is missing: a report of several runs needs a folder of its own")
    out = options.out or options.runs[0]
    report = os.path.join(out, "report.html")
    own = len(options.runs) == 1 and os.path.realpath(out) == os.path.realpath(options.runs[0])
    check_new_file("--out", report, own or options.overwrite)
    missing = write_reports(options.runs, out, overwrite=own or options.overwrite)
    print(report)
    if missing:
        print(f"missing: {', '.join(missing)}; prosg eval goes on", file=sys.stderr)
    return 1 if missing else 0


COMMAND = Command("an evaluation's report anew, or several runs side by side", _parser, _run)
