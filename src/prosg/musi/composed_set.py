"""`prosg data compose`: reads files of single tasks, and writes a composed data set with a report and a card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prosg.data.row import Row, write_rows
from prosg.data.synthetic import SPLITS
from prosg.musi.compose import check_size, compose_rows, reuse_summary
from prosg.musi.stats import count_rows, statistics_text
from prosg.musi.tasks import TaskFile, read_tasks
from prosg.utils.io import write_lines, written_whole
from prosg.utils.progress import progress_bar
from prosg.utils.replaceable import FolderKind, check_replaceable

__all__ = ["REPORT", "compose", "output_paths"]

REPORT = "report.json"
COMPOSED_FOLDER = FolderKind(
    "composed tasks", REPORT, ("sources", "splits"), ("README.md", *(f"{name}.jsonl" for name in SPLITS))
)


def _is_file(out: str) -> bool:
    return Path(out).suffix == ".jsonl"


def output_paths(out: str) -> list[Path]:
    """Returns what is written for an `out`: a folder, or a file of rows and the report beside it."""
    path = Path(out)
    return [path, path.with_suffix(".report.json")] if _is_file(out) else [path]


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
    """Composes rows, writes them and prints a summary.

    Args:
        files: Files of tasks.
        out: A folder that gets a file per split, or one file with all rows if it ends with .jsonl.
        size: Number of rows.
        seed: Another seed gives other rows.
        longest: Words above which a task is left out; 0 for no limit.
        licence: Licence of the tasks, for the data card.
        overwrite: Replace what is there.

    Returns:
        0, the exit status.

    Raises:
        ValueError: for a size or a longest task that is none, files that hold no tasks, and what may not be replaced.
    """
    check_size(size)
    if longest < 0:
        raise ValueError(f"--longest is {longest}; it must be 0 (no limit) or more")
    path, single = Path(out), _is_file(out)
    report_file = path.with_suffix(".report.json") if single else path / REPORT
    for file in output_paths(out):
        check_replaceable(file, overwrite=overwrite, kind=None if single else COMPOSED_FOLDER)
    tasks, task_files = read_tasks(files, longest)
    with progress_bar("composing", size, "row") as bar:
        rows, uses = compose_rows(tasks, size, seed, on_progress=bar.update)
    report = _report(rows, task_files, uses, size=size, seed=seed, licence=licence)
    if single:
        write_rows(path, rows, overwrite=overwrite)
        write_lines(report_file, [json.dumps(report, indent=2, ensure_ascii=False)], overwrite=overwrite)
    else:
        _write_folder(path, rows, report, overwrite)
    _print_summary(task_files, report)
    print(f"{path}: {len(rows)} rows" + ("" if single else f"; reuse per task in {report_file}"))
    return 0


def _print_summary(task_files: Sequence[TaskFile], report: Mapping[str, Any]) -> None:
    for task_file in task_files:
        layouts = ", ".join(f"{number} {name}" for name, number in task_file.layouts.items())
        left_out = "".join(f", {number} left out: {reason}" for reason, number in task_file.left_out.items())
        print(f"{task_file.file}: {layouts}; {task_file.tasks} tasks{left_out}")
    for name, split in report["splits"].items():
        reuse = split["reuse"]
        times = f"each used {reuse['least']} to {reuse['most']} times, median {reuse['median']}"
        print(f"{name:<11}{split['rows']:>6} rows of {reuse['tasks']} tasks, {times}")


def _report(
    rows: Sequence[Row], task_files: Sequence[TaskFile], uses: Mapping[str, Mapping[str, int]], **options: Any
) -> dict[str, Any]:
    per_split = Counter(str(row.extra["split"]) for row in rows)
    return {
        **options,
        "sources": [
            {"file": Path(f.file).name, "layouts": dict(f.layouts), "tasks": f.tasks, "left_out": dict(f.left_out)}
            for f in task_files
        ],
        "splits": {name: {"rows": per_split[name], "reuse": reuse_summary(uses[name])} for name in uses},
        "reuse": {name: dict(sorted(counts.items())) for name, counts in uses.items()},
    }


def _write_folder(path: Path, rows: Sequence[Row], report: Mapping[str, Any], overwrite: bool) -> None:
    with written_whole(path, overwrite=overwrite, kind=COMPOSED_FOLDER) as folder:
        folder.mkdir()
        for name in SPLITS:
            if chosen := [row for row in rows if row.extra["split"] == name]:
                write_rows(folder / f"{name}.jsonl", chosen)
        (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
        (folder / "README.md").write_text(_card(rows, report), "utf-8")


def _card(rows: Sequence[Row], report: Mapping[str, Any]) -> str:
    sources = "\n".join(f"- {source['file']}: {source['tasks']} tasks" for source in report["sources"])
    lines = []
    for name, split in report["splits"].items():
        reuse = split["reuse"]
        lines.append(f"| {name} | {split['rows']:,} | {reuse['tasks']:,} | {reuse['least']} to {reuse['most']} |")
    splits = "\n".join(lines)
    return (
        "# Composed multi-stage instructions\n\n"
        f"Made with `prosg data compose --size {report['size']} --seed {report['seed']}` out of single tasks. Tasks "
        f"are split first: none stands in two splits.\n\n{sources}\n\nLicence of the tasks: "
        f"{report['licence'] or 'not stated'}.\n\n"
        f"| split | rows | tasks | uses of a task |\n| --- | ---: | ---: | --- |\n{splits}\n\n"
        f"```\n{statistics_text(count_rows(rows))}\n```\n\nReuse per task: `{REPORT}`.\n"
    )
