"""`prosg ablate`: what each part of the module, and each perturbation of its training, is worth.

    a training's configuration -> the same without one part -> each trained -> evaluation with controls -> report

Every training is a public command with files before and after it, so whatever is stopped goes on.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from prosg.checkpoints.adapter import is_adapter
from prosg.checkpoints.load import demo_model, trained_model
from prosg.data.binidx import binidx_files
from prosg.demo.measuring import measure, module_systems, system
from prosg.demo.trainings import training_notes
from prosg.evaluation.curve_options import check_curve_options
from prosg.evaluation.report.curves import late_table
from prosg.training.config import Perturbation, TrainConfig
from prosg.training.inputs import NAMED_INPUTS, check_inputs, record_inputs
from prosg.training.recipes import check_recipe
from prosg.utils.io import written_whole
from prosg.utils.jobs import Job, check_plan, check_width, run_jobs
from prosg.utils.locks import locked
from prosg.utils.spelling import check_known, meant_path
from prosg.utils.tables import to_text

__all__ = ["PARTS", "ablate", "variants"]

FULL, BACKBONE = "full", "backbone"
"""The training as it is configured, and the model without a module."""
Change = Callable[[TrainConfig], TrainConfig]


def _module(**options: Any) -> Change:
    return lambda config: replace(config, module=replace(config.module, **options))


def _unperturbed(kind: str) -> Change:
    off: dict[str, Any] = dict.fromkeys(Perturbation.KINDS[kind], 0.0)
    return lambda config: replace(config, perturbation=replace(config.perturbation, **off))


def _last_token(config: TrainConfig) -> TrainConfig:
    return _module(reads="last_position")(config) if config.module.reads == "all_positions" else config


PARTS: dict[str, Change] = {
    "no-state-embedding": _module(state_embedding=False),
    "no-stack": _module(blocks=0),
    "rank-1": _module(rank=1),
    "rank-2": _module(rank=2),
    "rank-3": _module(rank=3),
    "rank-8": _module(rank=8),
    "static-b": _module(synthesize="a"),
    "last-token": _last_token,
    "no-memory-tap": _module(memory_tap=False),
    "no-log-length": _module(log_length=False),
    "no-final-norm": _module(final_norm=False),
    "no-wipe": _unperturbed("wipe"),
    "no-load": _unperturbed("load"),
    "no-swap": _unperturbed("swap"),
    "no-age": _unperturbed("age"),
}
"""What can be left out, or be less. One that changes nothing of a configuration is not trained."""


def variants(config: TrainConfig, parts: Sequence[str] = ()) -> dict[str, TrainConfig]:
    """The configuration as it is, and without each of `parts` (all of `PARTS` by default) that it has, by name.

    Each writes into a folder of its name in the configuration's output folder.

    Raises:
        ValueError: for a part that does not exist.
    """
    check_known("--parts", parts, PARTS)
    changed = {FULL: config} | {name: PARTS[name](config) for name in parts or PARTS}
    return {
        name: replace(variant, out=str(Path(config.out) / name))
        for name, variant in changed.items()
        if name == FULL or variant != config
    }


def ablate(
    config: TrainConfig,
    *,
    parts: Sequence[str] = (),
    curve: Mapping[str, Any],
    kinds: Sequence[str] = (),
    split: str = "test",
    jobs: int = 2,
    live: bool = True,
) -> int:
    """Trains, measures and reports; goes on where it was stopped.

    Args:
        config: A training of phase `synthesize`; its output folder is that of all.
        parts: Which to leave out, one at a time; see `variants`.
        curve: Options of the forgetting curve: rows, sentences.
        kinds: Kinds of the curve's instructions; the demo's by default.
        split: Of the curve's prompts.
        jobs: Processes side by side.
        live: A live display; else lines.

    Returns:
        The exit status.

    Raises:
        ValueError: for a recipe of another phase, a curve that could not be measured, files that are not there, and a
            folder that was begun with other options.
    """
    check_recipe("synthesize", config.recipe)
    check_curve_options(rows=curve["rows"], sentences=curve["sentences"], kinds=kinds, split=split)
    check_width(jobs)
    _check_files(config)
    todo = variants(config, parts)
    if idle := [name for name in parts if name not in todo]:
        print(f"{', '.join(idle)}: nothing that this configuration has, not trained", file=sys.stderr)
    with locked(Path(config.out)):
        return _run(config, todo, {"curve": dict(curve), "kinds": list(kinds), "split": split}, jobs, live)


def _run(
    config: TrainConfig, todo: Mapping[str, TrainConfig], measuring: Mapping[str, Any], jobs: int, live: bool
) -> int:
    """Trains and measures in a folder that is this command's alone."""
    out = Path(config.out)
    recorded = check_inputs(config)
    passing = {"progress", "threads", "log_steps", "report_to", "out", *NAMED_INPUTS}  # files are known by content
    kept = {key: value for key, value in dataclasses.asdict(config).items() if key not in passing}
    check_plan(out / "plan.json", {"training": kept, "measuring": measuring}, "--out")
    if not recorded:
        record_inputs(config)
    try:
        run_jobs([_training(name, variant) for name, variant in todo.items()], jobs, live)
    except ChildProcessError as error:
        print(error, file=sys.stderr)
        return 1
    tokenizer = {"tokenizer": config.tokenizer} if config.tokenizer else {}
    systems = {BACKBONE: system(Path(config.model), config.seed, BACKBONE, update="none", **tokenizer)}
    for name, variant in todo.items():
        systems |= module_systems(Path(variant.out), config.seed, name, ("own", "other", "wiped"))
    status, run = measure(
        out / "evaluation",
        systems,
        **measuring,
        seed=config.seed,
        measures=("curve",),
        reference=f"{FULL}, own update",
        title="What each part is worth",
        device=config.device,
        notes=training_notes({name: Path(variant.out) for name, variant in todo.items()}),
        jobs=jobs,
        live=live,
    )
    print(to_text(late_table(run, brief=True)))
    print("\n" + "\n".join(str(run.folder / name) for name in ("report.html", "report.md", "results.json")))
    return status


def _check_files(config: TrainConfig) -> None:
    """Before any process begins: what a job would say in its log is said here."""
    for files in (config.train, config.validation):
        for file in [files] if isinstance(files, str) else files:
            if not Path(file).is_file() and binidx_files(file) is None:
                raise ValueError(f"{file}: no such file{meant_path(file)}; --train and --validation name files of rows")
    model = demo_model() if config.model == "demo" else Path(config.model)
    if not model.exists():
        raise ValueError(f"{config.model}: no such file or folder{meant_path(config.model)}; --model names a backbone")
    if is_adapter(trained_model(model)):
        raise ValueError(f"{config.model}: is an adapter already; train on its backbone")
    if Path(config.out).is_file():
        raise ValueError(f"{config.out}: is a file; --out names a folder")


def _training(name: str, config: TrainConfig) -> Job:
    """One training; its configuration lies beside its folder, without what is at its default."""
    output = Path(config.out)
    path = output.with_suffix(".yaml")
    values, defaults = (dataclasses.asdict(c) for c in (replace(config, progress=False), TrainConfig("", "-", "")))
    # Groups of options always: their defaults depend on the recipe.
    changed = {key: value for key, value in values.items() if isinstance(value, dict) or value != defaults[key]}
    content = json.loads(json.dumps(changed))  # tuples become lists
    with written_whole(path, overwrite=True) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return Job(
        name,
        ("train", "synthesize", "--config", str(path)),
        done=output / "result.json",
        progress=output / "progress.json",
        log=output.with_suffix(".txt"),
        seconds=config.optim.steps * 0.11,
    )
