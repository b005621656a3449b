"""Reports of evaluations: report.html (one file), report.md with its pictures, results.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from prosg.evaluation.report import report_sections
from prosg.evaluation.report.html import to_report_html
from prosg.evaluation.report.markdown import to_report_markdown
from prosg.evaluation.result_rows import result_rows
from prosg.evaluation.results import Run
from prosg.evaluation.store import read_results
from prosg.evaluation.system_result import ifeval_of
from prosg.utils.io import written_whole
from prosg.utils.replaceable import check_replaceable

__all__ = ["write_reports"]


def write_reports(folders: Sequence[str | Path], out: str | Path, *, overwrite: bool = True) -> list[str]:
    """Writes the reports of one run, or of several side by side.

    Args:
        folders: Of the evaluations.
        out: Folder to write in.
        overwrite: Replace files that are there; else nothing is written where one is.

    Returns:
        What is missing in the runs: "SYSTEM: MEASURE" each.

    Raises:
        ValueError: for folders that are no evaluations', and for runs of other rows, which do not compare.
    """
    run = _joined([read_results(folder) for folder in folders])
    out = Path(out)
    if len(folders) > 1 and out.resolve() in {Path(folder).resolve() for folder in folders}:
        raise ValueError(f"--out is {out}, one of the runs; a report of several needs a folder of its own")
    title, sections = str(run.config["title"]), report_sections(run)
    rows = [*_ifeval_rows(run), *(row.to_dict() for row in result_rows(run))]
    text, pictures = to_report_markdown(title, sections)
    files = {
        "results.json": json.dumps({"config": run.config, "rows": rows}, indent=1, ensure_ascii=False) + "\n",
        **pictures,
        "report.md": text,
        "report.html": to_report_html(title, sections),
    }
    for name in files:
        check_replaceable(out / name, overwrite=overwrite)
    for name, content in files.items():
        with written_whole(out / name, overwrite=overwrite) as temporary:
            temporary.write_text(content, "utf-8")
    return list(run.missing)


def _ifeval_rows(run: Run) -> list[dict[str, object]]:
    """Long-form rows of IFEval's measures."""
    rows = []
    for system in run.systems:
        if (scores := ifeval_of(run, system)) is not None:
            common = {"backbone": system.backbone, "system": system.label, "seed": system.config.seed}
            rows += [{**common, "update": system.config.update, **row} for row in scores.to_rows()]
    return rows


def _joined(runs: Sequence[Run]) -> Run:
    """Several runs as one: systems that two of them call the same are told apart by their folders' names."""
    first, *others = runs
    if not others:
        return first
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise ValueError("a run is named twice")
    for run in others:
        if run.rows != first.rows:
            raise ValueError(
                f"{run.folder}: asked other rows than {first.folder}; only runs of the same rows stand side by side"
            )
    names = [run.folder.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    labels = [label for run in runs for label in run.labels]
    systems = []
    for run, name in zip(runs, names, strict=True):
        for system in run.systems:
            label = f"{name}: {system.label}" if labels.count(system.label) > 1 else system.label
            systems.append(dataclasses.replace(system, config=dataclasses.replace(system.config, label=label)))
    return Run(
        first.folder,
        {**first.config, "reference": "", "title": " and ".join(names)},
        first.rows,
        systems,
        [name for run in runs for name in run.missing],
        [note for run in runs for note in run.notes],
    )
