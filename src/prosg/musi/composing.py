"""`prosg data compose`: files of single tasks in, a data set of multi-stage instructions out, with a report."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prosg.data.row import Row, write_rows
from prosg.data.synthetic import SPLITS
from prosg.musi.compose import compose_rows, reuse_summary
from prosg.musi.stats import count, describe
from prosg.musi.tasks import Source, read_tasks
from prosg.utils.io import write_lines, written_whole

__all__ = ["REPORT", "compose"]

REPORT = "report.json"


def compose(
    files: Sequence[str],
    out: str,
    *,
    size: int = 1000,
    seed: int = 0,
    longest: int = 0,
    licence: str = "",
    overwrite: bool = False,
) -> int:
    """Make rows and write them: a folder with a file per split, or one file where `out` ends with .jsonl."""
    path = Path(out)
    single = path.suffix == ".jsonl"
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"--out {path}: exists; pass --overwrite to replace it")
    if path.is_dir() and single:
        raise ValueError(f"--out {path}: is a folder; name a file in it, or a folder without .jsonl")
    if path.is_file() and not single:
        raise ValueError(f"--out {path}: is a file; name a folder, or a file that ends with .jsonl")
    tasks, sources = read_tasks(files, longest)
    with tqdm(total=size, desc="composing", unit="row", disable=not sys.stderr.isatty(), leave=False) as bar:
        rows, reuse = compose_rows(tasks, size, seed, tell=bar.update)
    report = _report(rows, sources, reuse, size=size, seed=seed, licence=licence)
    if single:
        write_rows(path, rows)
        write_lines(path.with_suffix(".report.json"), [json.dumps(report, indent=2, ensure_ascii=False)])
    else:
        _write_folder(path, rows, report)
    for source in sources:
        layouts = ", ".join(f"{number} {name}" for name, number in source.layouts.items())
        left = "".join(f", {number} left out: {reason}" for reason, number in source.left_out.items())
        print(f"{source.file}: {layouts}; {source.tasks} tasks{left}")
    for name, told in report["splits"].items():
        use = told["reuse"]
        times = f"each used {use['least']} to {use['most']} times, median {use['median']}"
        print(f"{name:<11}{told['rows']:>6} rows of {use['tasks']} tasks, {times}")
    print(f"{path}: {len(rows)} rows" + ("" if single else f"; reuse per task in {path / REPORT}"))
    return 0


def _report(
    rows: Sequence[Row], sources: Sequence[Source], reuse: Mapping[str, Mapping[str, int]], **options: Any
) -> dict[str, Any]:
    per_split = Counter(str(row.extra["split"]) for row in rows)
    return {
        **options,
        "sources": [
            {"file": Path(s.file).name, "layouts": dict(s.layouts), "tasks": s.tasks, "left_out": dict(s.left_out)}
            for s in sources
        ],
        "splits": {name: {"rows": per_split[name], "reuse": reuse_summary(reuse[name])} for name in reuse},
        "reuse": {name: dict(sorted(used.items())) for name, used in reuse.items()},
    }


def _write_folder(path: Path, rows: Sequence[Row], report: Mapping[str, Any]) -> None:

    with written_whole(path, overwrite=True, marker=REPORT) as folder:
        folder.mkdir()
        for name in SPLITS:
            if chosen := [row for row in rows if row.extra["split"] == name]:
                write_rows(folder / f"{name}.jsonl", chosen)
        (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
        (folder / "README.md").write_text(_card(rows, report), "utf-8")


def _card(rows: Sequence[Row], report: Mapping[str, Any]) -> str:
    sources = "\n".join(f"- {source['file']}: {source['tasks']} tasks" for source in report["sources"])
    lines = []
    for name, told in report["splits"].items():
        use = told["reuse"]
        lines.append(f"| {name} | {told['rows']:,} | {use['tasks']:,} | {use['least']} to {use['most']} |")
    splits = "\n".join(lines)
    return (
        "# Composed multi-stage instructions\n\n"
        f"Made with `prosg data compose --size {report['size']} --seed {report['seed']}` out of single tasks. Tasks "
        f"are split first: none stands in two splits.\n\n{sources}\n\nLicence of the tasks: "
        f"{report['licence'] or 'not stated'}.\n\n"
        f"| split | rows | tasks | uses of a task |\n| --- | ---: | ---: | --- |\n{splits}\n\n"
        f"```\n{describe(count(rows))}\n```\n\nReuse per task: `{REPORT}`.\n"
    )
