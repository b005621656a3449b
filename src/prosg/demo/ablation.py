"""`prosg ablate`: what each part of the module, and each perturbation of its training, is worth.

    a training's configuration -> the same without one part -> each trained -> forgetting curve with controls -> report

Every training and every curve is a public command with files before and after it, so whatever is stopped goes on.
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
from prosg.checkpoints.load import demo_model, trained_in
from prosg.evaluation.ablation import BACKBONE, FULL, write_ablation
from prosg.training.config import Perturbation, TrainConfig
from prosg.training.recipes import check_recipe
from prosg.utils.jobs import Job, check_plan, run_jobs

__all__ = ["PARTS", "ablate", "variants"]

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

    Each writes into a folder of its name in `config.output`. Raises ValueError for a part that does not exist.
    """
    if unknown := [name for name in parts if name not in PARTS]:
        raise ValueError(f"--parts has {', '.join(unknown)}; allowed: {', '.join(PARTS)}")
    changed = {FULL: config} | {name: PARTS[name](config) for name in parts or PARTS}
    return {
        name: replace(one, output=str(Path(config.output) / name))
        for name, one in changed.items()
        if name == FULL or one != config
    }


def ablate(
    config: TrainConfig,
    *,
    parts: Sequence[str] = (),
    measure: Mapping[str, Any],
    jobs: int = 2,
    live: bool = True,
) -> int:
    """Train, measure and report; goes on where it was stopped. Returns the exit status.

    Args:
        config: A training of phase `synthesize`; its output is the folder of all.
        parts: Which to leave out, one at a time; see `variants`.
        measure: Options of `prosg curve` that hold for all: rows, sentences, kinds, split.
        jobs: Trainings and curves side by side.
        live: A live display; else lines.

    Raises:
        ValueError: for a recipe of another phase, files that are not there, and a folder that was begun with other
            options.
    """
    check_recipe("synthesize", config.recipe)
    _check_files(config)
    todo = variants(config, parts)
    if idle := [name for name in parts if name not in todo]:
        print(f"{', '.join(idle)}: nothing that this configuration has, not trained", file=sys.stderr)
    out = Path(config.output)
    out.mkdir(parents=True, exist_ok=True)
    passing = ("progress", "threads", "log_steps", "output")
    kept = {key: value for key, value in dataclasses.asdict(config).items() if key not in passing}
    check_plan(out / "plan.json", {"training": kept, "measuring": dict(measure)}, "--output")
    work = [_curve(BACKBONE, config.model, config, measure)]
    for name, one in todo.items():
        work += [_training(name, one), _curve(name, str(Path(one.output) / "adapter"), config, measure)]
    try:
        run_jobs(work, jobs, live)
    except ChildProcessError as error:
        print(error, file=sys.stderr)
        return 1
    print(write_ablation(out, [BACKBONE, *todo]))
    return 0


def _check_files(config: TrainConfig) -> None:
    """Before any process begins: what a job would say in its log is said here."""
    given = [[files] if isinstance(files, str) else files for files in (config.train, config.validation)]
    for file in (file for files in given for file in files):
        if not Path(file).is_file():
            raise ValueError(f"{file}: no such file; --train and --validation name jsonl files")
    model = demo_model() if config.model == "demo" else Path(config.model)
    if not model.exists():
        raise ValueError(f"{config.model}: no such file or folder; --model names a backbone")
    if is_adapter(trained_in(model)):
        raise ValueError(f"{config.model}: is an adapter already; train on its backbone")
    if Path(config.output).is_file():
        raise ValueError(f"{config.output}: is a file; --output names a folder")


def _training(name: str, config: TrainConfig) -> Job:
    """One training; its configuration lies beside its folder, without what is as it always is."""
    output = Path(config.output)
    path = output.with_suffix(".yaml")
    told, usual = (dataclasses.asdict(one) for one in (replace(config, progress=False), TrainConfig("", "-", "")))
    # Groups of options always: what they are by default depends on the recipe.
    kept = {name: value for name, value in told.items() if isinstance(value, dict) or value != usual[name]}
    content = json.loads(json.dumps(kept))  # tuples become lists
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return Job(
        name,
        ("train", "synthesize", "--config", str(path)),
        done=output / "result.json",
        progress=output / "progress.json",
        log=output.with_suffix(".txt"),
        seconds=config.optim.steps * 0.11,
    )


def _curve(name: str, model: str, config: TrainConfig, measure: Mapping[str, Any]) -> Job:
    """The curve of what a training left, or of the backbone alone."""
    out = Path(config.output) / "curves" / f"{name}.json"
    updates = "none" if name == BACKBONE else "own,other,wiped"
    command = ["curve", model, "--system", name, "--out", str(out), "--seed", str(config.seed), "--no-free"]
    command += ["--updates", updates, "--device", config.device]
    if config.tokenizer and name == BACKBONE:
        command += ["--tokenizer", config.tokenizer]
    for option, value in measure.items():
        command += [f"--{option}", *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
    return Job(
        f"measure {name}",
        tuple(command),
        done=out,
        progress=out.with_suffix(".progress"),
        log=out.with_suffix(".txt"),
        needs=() if name == BACKBONE else (name,),
        seconds=30.0,
    )
