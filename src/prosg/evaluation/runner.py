"""`prosg eval`: systems x measures -> parts, each a file that is made once -> one report.

Systems of one model are measured one after the other in one process, `jobs` processes side by side. What lies where is
told by `prosg.evaluation.store`.
"""

from __future__ import annotations

import itertools
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from prosg.data.row import Row
from prosg.data.synthetic import KINDS, Difficulty, Filler, check_kinds, make_rows
from prosg.evaluation.answer_cache import AnswerCache
from prosg.evaluation.config import EvalConfig, SystemConfig
from prosg.evaluation.config_file import idle_options, left_out, load_config, missing_files
from prosg.evaluation.controls import LEAST_PROMPTS, check_partners
from prosg.evaluation.rows import asked_rows, kinds_of, training_rows
from prosg.evaluation.settings import hash_rows, kept_hashes
from prosg.evaluation.store import check_folder, stale_measures, write_answers, write_part, write_plan
from prosg.utils.environment import commit, processor, versions
from prosg.utils.io import write_json
from prosg.utils.jobs import Job, check_width, run_jobs, write_progress
from prosg.utils.locks import locked
from prosg.utils.progress import Progress, part_of
from prosg.utils.spelling import meant

if TYPE_CHECKING:
    from prosg.model.prosg import ProSG

__all__ = ["evaluate", "evaluate_systems"]


def evaluate(file: str, *, out: str | None = None, jobs: int = 2, live: bool = True, say: bool = True) -> int:
    """Measures all systems, then writes the report.

    Args:
        file: The YAML file of the evaluation.
        out: Another folder than the file's.
        jobs: Processes side by side.
        live: A live display; else lines.
        say: Print where the report is.

    Returns:
        The exit status: 1 where a system failed or replies are missing.

    Raises:
        ValueError: for what is wrong with the file, naming it.
    """
    from prosg.evaluation.report.writer import write_reports
    from prosg.evaluation.systems.endpoint import check_endpoint_system

    config = load_config(file, out)
    check_width(jobs)
    try:
        check_folder(config.folder)  # before anything is written there, and again under the lock
        _check_kinds(config)
        rows = asked_rows(config)
        _check_updates(config, rows)
        hashes, hashed = kept_hashes(config), hash_rows(rows)
        stale = {name: names for name in config.systems if (names := stale_measures(config, name, hashed, hashes))}
        for name in stale:
            if config.system(name).endpoint:
                check_endpoint_system(config, name)
        AnswerCache(config.cache_file).close()
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for line in (*idle_options(config), *missing_files(config)):
        print(f"note: {line}", file=sys.stderr)
    start = time.perf_counter()
    with locked(config.folder):
        check_folder(config.folder)
        write_plan(config, rows, hashes)
        work = [
            _job(config, file, names, sum(len(stale[name]) for name in names)) for names in _by_model(config, stale)
        ]
        failed = run_jobs(work, jobs, live, keep_going=True)
        if work:
            about = {
                "command": shlex.join(["prosg", *sys.argv[1:]]),
                "machine": f"{processor()}, {os.cpu_count()} cores, {jobs} processes side by side",
                "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
                "commit": commit(),
                "seconds": f"{time.perf_counter() - start:.0f} (of the call that measured last)",
            }
            write_json(config.folder / "about.json", about)
        missing = write_reports([config.folder], config.folder)
    for message in failed.values():
        print(message, file=sys.stderr)
    if missing:
        print(f"missing: {', '.join(missing)}; the same command goes on", file=sys.stderr)
    if say:
        print(f"{config.folder / 'report.html'}, report.md, results.json")
    return 1 if missing or failed else 0


def _by_model(config: EvalConfig, names: Mapping[str, Any]) -> list[list[str]]:
    """Systems in groups that share a loaded model; endpoints stand alone."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        system = config.system(name)
        groups.setdefault(_what_is_loaded(system) if system.model else (name,), []).append(name)
    return list(groups.values())


def _what_is_loaded(system: SystemConfig) -> tuple[str, ...]:
    """The options that decide which model is loaded: equal for systems that can share one."""
    special = (*map(str, system.end_token), f"begin {system.begin_token}")
    return (system.model, system.base, system.tokenizer, system.dtype, system.initial, system.anchor, *special)


def _job(config: EvalConfig, file: str, names: Sequence[str], measures: int) -> Job:
    """A process that measures some systems."""
    folder = config.folder / "parts" / names[0]
    (folder / "done").unlink(missing_ok=True)
    return Job(
        names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
        ("eval", file, "--out", config.out, "--system", ",".join(names)),
        done=folder / "done",
        progress=folder / "progress.json",
        log=folder / "log.txt",
        seconds=30.0 * measures,
    )


def evaluate_systems(file: str, names: Sequence[str], *, out: str | None = None) -> int:
    """Measures what some systems lack, in this process; the files of the first system say when it is done.

    Raises:
        ValueError: for a system that cannot be what its options say.
    """
    from prosg.utils.threads import settle_threads

    config, names = load_config(file, out), [*dict.fromkeys(names)]
    settle_threads()
    rows = asked_rows(config)
    for name in names:
        config.system(name)  # raises for a name that is none
    with ExitStack() as held:
        for name in sorted(names):
            held.enter_context(locked(config.folder / "parts" / name))
        return _evaluate_here(config, names, rows)


def _evaluate_here(config: EvalConfig, names: Sequence[str], rows: Sequence[Row]) -> int:
    folder = config.folder / "parts" / names[0]
    status, models = 0, _Models(config)

    def tell(share: float, note: str = "") -> None:
        write_progress(folder / "progress.json", share, note)

    errors = []
    hashes, hashed = kept_hashes(config), hash_rows(rows)
    for number, name in enumerate(names):
        stale = stale_measures(config, name, hashed, hashes)
        if config.system(name).endpoint:
            from prosg.evaluation.systems.endpoint import evaluate_endpoint

            status = max(status, evaluate_endpoint(config, name, rows, list(stale)))
            continue

        try:
            _evaluate_local(config, name, rows, stale, models, part_of(tell, number, len(names), name))
        except ValueError as error:  # the others are measured all the same
            errors.append(f"systems.{name}: {error}")
    if errors:
        raise ValueError("; ".join(errors))
    (folder / "progress.json").unlink(missing_ok=True)
    (folder / "done").touch()
    return status


class _Models:
    """The model that was opened last: systems come in groups that share one."""

    def __init__(self, config: EvalConfig) -> None:
        self.config = config
        self.opened: tuple[tuple[str, ...], ProSG] | None = None
        self.fingerprint = ""

    def open(self, system: SystemConfig) -> ProSG:
        """The model of a system; `fingerprint` is then its own, which takes a while for a large one."""
        from prosg.checkpoints.fingerprints import model_fingerprint
        from prosg.evaluation.systems.local import check_model, open_model

        key = _what_is_loaded(system)
        if self.opened is None or self.opened[0] != key:
            model = open_model(system, self.config.device)
            self.opened, self.fingerprint = (key, model), model_fingerprint(model)
        check_model(system, self.opened[1])
        return self.opened[1]


def _evaluate_local(
    config: EvalConfig,
    name: str,
    rows: Sequence[Row],
    stale: Mapping[str, Mapping[str, Any]],
    models: _Models,
    tell: Progress,
) -> None:
    """Measures what one system lacks; `stale` has what each part is made of, as it was before the model was opened."""
    if not stale:
        return
    from prosg.evaluation.measures import run_measures
    from prosg.evaluation.systems.local import memory_of

    system = config.system(name)
    model = models.open(system)
    about = {"backbone": model.backbone.config.model_type, "fingerprint": models.fingerprint}
    about["memory"] = memory_of(system, model)
    cache = AnswerCache(config.cache_file)
    for one in run_measures(config, system, model, rows, list(stale), cache, tell):
        if one.answers:
            write_answers(config, name, one.answers)
        write_part(config, name, one.measure, rows, one.result, one.seconds, about, stale[one.measure])
    cache.close()


def _check_kinds(config: EvalConfig) -> None:
    check_kinds("data.kinds", config.data.kinds)
    if "capacity" in config.measures:
        capacity = config.capacity
        if capacity.kind not in KINDS:
            raise ValueError(
                f"capacity.kind is {capacity.kind!r}{meant(capacity.kind, KINDS)}; allowed: {', '.join(KINDS)}"
            )
        for number in capacity.items:
            try:
                Difficulty(items=(number, number)).check(KINDS[capacity.kind])
            except ValueError as error:
                raise ValueError(f"capacity.{error}") from None
    unfit = left_out(config)
    if {*config.measures} <= {*unfit}:
        raise ValueError(f"{next(iter(unfit.values()))}, and nothing else is measured")
    if "curve" in config.measures and "curve" not in unfit:
        _check_curve(config)


def _check_curve(config: EvalConfig) -> None:
    """Raises ValueError for items and turns that a kind cannot have, and a text that makes no stories as long."""
    options, data, kinds = config.curve, config.data, kinds_of(config)
    harder = [Difficulty(turns=(number, number)) for number in options.turns]
    harder += [Difficulty(items=(number, number)) for number in options.items]
    for difficulty, kind in itertools.product(harder, kinds):
        try:
            difficulty.check(KINDS[kind])
        except ValueError as error:
            raise ValueError(f"curve.{error}") from None
    if options.filler:
        longest, stories = max(options.sentences), Difficulty(filler=Filler.read(options.filler))
        try:
            make_rows(kinds, options.rows, data.seed, data.split, sentences=(longest, longest), difficulty=stories)
        except ValueError as error:
            raise ValueError(f"curve.filler: {error}") from None


def _check_updates(config: EvalConfig, rows: Sequence[Row]) -> None:
    """Whether there are rows enough for another prompt's update, and training prompts for the mean one."""
    curve = kinds_of(config)
    kinds_by_key: dict[str, list[str]] = {}  # key of the number of rows -> each row's kind
    if {"accuracy", "perplexity"} & set(config.measures):
        kinds_by_key["data.file" if config.data.file else "data.rows"] = [row.kind for row in rows]
    if "curve" in config.measures:
        kinds_by_key["curve.rows"] = [curve[number % len(curve)] for number in range(config.curve.rows)]
    if "capacity" in config.measures:
        kinds_by_key["capacity.rows"] = [config.capacity.kind] * config.capacity.rows
    kinds = sorted({kind for names in kinds_by_key.values() for kind in names})
    training: dict[str, list[Row]] | None = None
    for name in config.systems:
        where, update = f"systems.{name}", config.system(name).update
        if update == "other":
            for key, names in kinds_by_key.items():
                try:
                    check_partners(names, key)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None
        elif update == "mean":
            training = training_rows(config, kinds) if training is None else training
            if few := [kind for kind in kinds if len(training[kind]) < LEAST_PROMPTS]:
                raise ValueError(
                    f"{where}: the mean update needs {LEAST_PROMPTS} training prompts of each kind; "
                    f"{config.data.train or 'data.train'} has {len(training[few[0]])} of {few[0]!r}"
                )
