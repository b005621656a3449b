"""The file of an evaluation: read, and checked as a whole, before anything is begun."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from prosg.checkpoints.hub import may_be_fetched
from prosg.core.encoded import with_anchor, with_update
from prosg.data.templates import known_template
from prosg.evaluation.config import MEASURES, DataConfig, EvalConfig, SystemConfig
from prosg.evaluation.curve_options import LEAST, check_rising, unfit_kinds
from prosg.evaluation.rows import kinds_of
from prosg.generation.sampling import Sampling
from prosg.llm.config import check_endpoint
from prosg.tokenizers.special import parse_begin
from prosg.utils.device import parse_dtype
from prosg.utils.options import build, check_at_least, option, read_yaml
from prosg.utils.paths import same_file
from prosg.utils.spelling import check_known, meant_path

__all__ = ["idle_options", "left_out", "load_config", "missing_files"]

AT_LEAST_ONE = (
    "batch_size",
    "generation.max_tokens",
    "curve.rows",
    "curve.tokens_per_sentence",
    "capacity.rows",
    "capacity.sentences",
    "overhead.batch",
    "overhead.tokens",
    "overhead.steps",
    "overhead.repeats",
)
NEVER_NEGATIVE = (
    "data.rows",
    "data.seed",
    "generation.temperature",
    "generation.late_temperature",
    "generation.top_k",
    "generation.seed",
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def load_config(path: str | Path, out: str | None = None) -> EvalConfig:
    """Read a YAML file; `out` replaces its own. ValueError names the file, the key and what is allowed."""
    content = read_yaml(path)
    try:
        config = build(EvalConfig, {} if content is None else content)
        if out is not None:
            config = dataclasses.replace(config, out=out)
        _check(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def _check(config: EvalConfig) -> None:
    if not config.out:
        raise ValueError("out is missing; it names the folder of the evaluation (or give --out)")
    if config.folder.exists() and not config.folder.is_dir():
        raise ValueError(f"out is {config.out!r}, which is a file; it names a folder")
    if not config.title.isprintable():
        raise ValueError(f"title is {config.title!r}; it must be one line of text")
    if not config.systems:
        raise ValueError("systems are missing; name at least one, like  phase1: runs/phase1/model")
    _among("measures", config.measures, MEASURES)
    check_at_least(config, AT_LEAST_ONE, 1)
    check_at_least(config, NEVER_NEGATIVE, 0)
    try:
        Sampling(**dataclasses.asdict(config.generation))
    except ValueError as error:
        raise ValueError(f"generation.{error}") from None
    _check_data(config)
    if config.data.suite and not config.data.file:
        raise ValueError(f"data.suite is {config.data.suite!r}, but data.file is missing: name the suite's file")
    if not config.data.file and config.data.rows < 1:
        raise ValueError("data.rows is 0; without a file, rows are made, at least 1")
    if len(config.data.sentences) != 2 or not 0 <= config.data.sentences[0] <= config.data.sentences[1]:
        raise ValueError(f"data.sentences is {config.data.sentences}; give the least and the greatest number")
    lists = {"capacity.items": LEAST["items"], **{f"curve.{name}": least for name, least in LEAST.items()}}
    for name, least in lists.items():
        check_rising(name, option(config, name), least, needed=name in ("curve.sentences", "capacity.items"))
    if config.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {config.device!r}; allowed: auto, cpu, cuda")
    labels: dict[tuple[str, int], str] = {}
    for name in config.systems:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"systems.{name}: a name has letters, digits, '.', '_' and '-', at most 64; what reports say is `label`"
            )
        system = config.system(name)
        _check_system(name, system)
        if (taken := labels.setdefault((system.label, system.seed), name)) != name:
            raise ValueError(f"systems.{name}: has the label and seed of {taken}; give another label or seed")
    if config.reference and config.reference not in {label for label, _ in labels}:
        known = ", ".join(dict.fromkeys(label for label, _ in labels))
        raise ValueError(f"reference is {config.reference!r}; allowed: {known}")


def idle_options(config: EvalConfig) -> Iterator[str]:
    """Yields a line for each option that was set but is without effect, for rows that nothing here makes or reads."""
    makes_rows = {"curve", "capacity"} & set(config.measures)
    usual = DataConfig()
    for name in ("sentences", *(() if makes_rows else ("kinds", "split"))):
        if config.data.file and getattr(config.data, name) != getattr(usual, name):
            yield f"data.{name} is for rows that are made, but data.file names rows: it has no effect"
    if config.data.train and not any(config.system(name).update == "mean" for name in config.systems):
        yield "data.train is for the mean update, but no system has `update: mean`: it has no effect"
    yield from left_out(config).values()


def left_out(config: EvalConfig) -> dict[str, str]:
    """Returns why measures are left out, by name: of kinds that restate what they ask for there are no curves."""
    asked = {"curve": ("data.kinds", kinds_of(config)), "capacity": ("capacity.kind", [config.capacity.kind])}
    reason = "which restate what they ask for, or have no late stage"
    return {
        measure: f"{measure} is left out: {key} has {', '.join(unfit)}, {reason}"
        for measure, (key, kinds) in asked.items()
        if measure in config.measures and (unfit := unfit_kinds(kinds))
    }


def missing_files(config: EvalConfig) -> Iterator[str]:
    """Yields a line for each file of a system that is not there: that system will fail, the others are measured."""
    for name in config.systems:
        system = config.system(name)
        for option_name in ("model", "base", "initial", "anchor"):
            path = getattr(system, option_name)
            if path and path != "demo" and not may_be_fetched(path) and not Path(path).exists():
                yield f"systems.{name}: {option_name} is {path}: no such file or folder{meant_path(Path(path))}"


def _check_data(config: EvalConfig) -> None:
    """What an evaluation reads is not what it writes, and what acts in curves has curves to act in."""
    written = [config.folder / name for name in ("rows.jsonl", "results.json")] + [config.cache_file]
    for name in ("data.file", "data.train", "curve.filler"):
        file = Path(option(config, name))
        if option(config, name) and any(same_file(file, out) for out in written):
            raise ValueError(f"{name} is {file}, which this evaluation writes; copy it, and name the copy")
    makes_rows = {"curve", "capacity"} & set(config.measures)
    for name in config.systems:
        system = config.system(name)
        if (system.late_replay or system.late_refresh) and not makes_rows:
            raise ValueError(f"systems.{name}: late_replay and late_refresh act in curves, and measures have none")


def _check_system(name: str, system: SystemConfig) -> None:
    where = f"systems.{name}"
    if bool(system.model) == bool(system.endpoint):
        raise ValueError(f"{where}: give either a model or an endpoint")
    if not system.label.isprintable():
        raise ValueError(f"{where}: label is {system.label!r}; it must be one line of text")
    if system.tau and system.tau < 1:
        raise ValueError(f"{where}: tau is {system.tau:g}; it must be at least 1 token, or 0 for the default")
    if min(system.replay_every, system.refresh_every, system.refresh_keep, system.window) < 0:
        raise ValueError(f"{where}: replay_every, refresh_every, refresh_keep and window must be 0 or more")
    if system.refresh_every and not system.refresh_keep:
        raise ValueError(f"{where}: refresh_every needs refresh_keep to be at least 1 token")
    if system.refresh_keep != SystemConfig.refresh_keep and not (system.refresh_every or system.late_refresh):
        raise ValueError(f"{where}: refresh_keep is for refresh_every or late_refresh, and neither is set")
    if system.memory and not with_anchor(system.memory):
        for option_name, given in (("tau", system.tau), ("age", system.age >= 0), ("anchor", system.anchor)):
            if given:
                raise ValueError(f"{where}: {option_name} is for memory anchor, both or auto, not {system.memory}")
    if system.memory and system.window and not with_update(system.memory):
        raise ValueError(f"{where}: window is for memory update, both or auto, not {system.memory}")
    if system.memory == "none" and system.update in ("other", "mean"):
        raise ValueError(f"{where}: update is {system.update!r}, but memory is 'none': no prompt is held at all")
    try:
        parse_dtype(system.dtype or None)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('--')}") from None
    if system.begin_token:
        try:
            parse_begin(system.begin_token)
        except ValueError as error:
            raise ValueError(f"{where}.begin_token: {error}") from None
    try:
        known_template(system.template)
    except ValueError as error:
        raise ValueError(f"{where}.template: {error}") from None
    try:
        remote = system.remote
        if remote is not None:
            check_endpoint("endpoint", remote[0])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if remote is not None:
        plain = SystemConfig()
        changed = [
            one.name for one in dataclasses.fields(system) if getattr(system, one.name) != getattr(plain, one.name)
        ]
        if wrong := set(changed) - {"endpoint", "label", "seed", "prompt"}:
            raise ValueError(f"{where}: {', '.join(sorted(wrong))} cannot be had from an endpoint")


def _among(name: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    check_known(name, given, allowed)
    if not given:
        raise ValueError(f"{name} is empty; allowed: {', '.join(allowed)}")
