"""What trainings left, measured: a configuration of the evaluation, written to a file and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prosg.evaluation.controls import CONDITIONS
from prosg.evaluation.curve_file import FREE_TOKENS
from prosg.evaluation.report.curves import LATE, forgetting_panels
from prosg.evaluation.report.figures import draw_png
from prosg.evaluation.results import Run
from prosg.evaluation.runner import evaluate
from prosg.evaluation.store import read_results
from prosg.generation.sampling import Sampling
from prosg.utils.io import write_json, written_whole

__all__ = ["check_seeds", "measure", "module_systems", "system"]


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises ValueError, naming --seeds, unless they are numbers from 0 to 2^32 - 1, each once, and at least one."""
    if not seeds or len(set(seeds)) < len(seeds) or not 0 <= min(seeds) <= max(seeds) < 2**32:
        shown = ",".join(map(str, seeds)) or "empty"
        raise ValueError(f"--seeds is {shown}; give whole numbers from 0 to 2^32 - 1, each once")


def system(training: Path, seed: int, label: str, **options: Any) -> dict[str, Any]:
    """The options of a system: what a training left, under a label that its seeds share."""
    folder = next((training / name for name in ("adapter", "model") if (training / name).is_dir()), training)
    return {"model": str(folder), "label": label, "seed": seed, **options}


def module_systems(
    training: Path,
    seed: int,
    name: str,
    conditions: Sequence[str] = tuple(CONDITIONS),
    label: str = "",
    memory: str = "update",
) -> dict[str, dict[str, Any]]:
    """The systems of a module under its own update and under controls, by their names.

    Args:
        training: The training that left it.
        seed: Of the training.
        name: Of the systems.
        conditions: Names in `CONDITIONS`.
        label: What reports call the module; its name by default.
        memory: What holds prompts.
    """
    return {
        f"{name}-{condition}-{seed}": system(
            training,
            seed,
            f"{label or name}, {CONDITIONS[condition].label}",
            memory=memory,
            **CONDITIONS[condition]._asdict(),
        )
        for condition in conditions
    }


def measure(
    out: Path,
    systems: Mapping[str, Mapping[str, Any]],
    *,
    curve: Mapping[str, Any],
    seed: int,
    split: str = "test",
    kinds: Sequence[str] = (),
    measures: Sequence[str] = ("curve", "accuracy", "perplexity"),
    data: Mapping[str, Any] | None = None,
    reference: str = "",
    title: str = "Evaluation",
    device: str = "cpu",
    notes: Sequence[Mapping[str, Any]] = (),
    jobs: int = 2,
    live: bool = True,
) -> tuple[int, Run]:
    """Writes the evaluation's file into `out` and runs it.

    Args:
        out: Folder of the evaluation.
        systems: Options of each system, by name.
        curve: Options of the forgetting curve.
        seed: Of prompts and stories.
        split: Of the prompts.
        kinds: Kinds of instruction; the demo's by default.
        measures: What is measured; by default also answers of free length, and the rows' own are scored, in range.
        data: Options of the evaluation's data that differ from the curve's: a file of rows.
        reference: Label that the others are compared with.
        title: Of the report.
        device: cpu, cuda or auto.
        notes: Sections to add to the report.
        jobs: Processes side by side.
        live: A live display; else lines.

    Returns:
        The exit status, and the results.
    """
    out.mkdir(parents=True, exist_ok=True)
    first = curve["sentences"][0]
    content = {
        "out": str(out),
        "title": title,
        "systems": {name: dict(options) for name, options in systems.items()},
        "measures": list(measures),
        "reference": reference,
        "device": device,
        "data": {
            "kinds": list(kinds),
            "rows": curve["rows"],
            "sentences": [first, first],
            "split": split,
            "seed": seed,
            **(data or {}),
        },
        "generation": {"max_tokens": FREE_TOKENS + first * Sampling.tokens_per_sentence, "seed": seed},
        "curve": dict(curve),
    }
    file = out / "eval.yaml"
    with written_whole(file, overwrite=True) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    write_json(out / "notes.json", list(notes))
    status = evaluate(str(file), jobs=jobs, live=live, say=False)
    run = read_results(out)
    if panels := forgetting_panels(run):
        picture = draw_png(panels, "tokens generated before the late stage (log scale)", LATE, log=True)
        with written_whole(out / "forgetting.png", overwrite=True) as temporary:
            temporary.write_bytes(picture)
    return status, run
