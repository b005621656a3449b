"""One training from files to files: model and rows in; the trained weights, configuration, logs and checkpoints out."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from prosg.checkpoints.adapter import load_module, save_adapter
from prosg.checkpoints.anchor import ANCHOR_FILE, save_anchor
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.export import export_peft, merge, peft_names
from prosg.checkpoints.hub import local_path
from prosg.checkpoints.initial_state import STATE_FILE, save_initial
from prosg.checkpoints.load import load_model, require_tokenizer, trained_model
from prosg.core.rng import uniforms
from prosg.core.update import Update
from prosg.data.encode import EncodedRow, replay_prompt
from prosg.data.joined import sample_rows
from prosg.data.mixture import mix_rows, parse_mix
from prosg.model.anchor import StateAnchor
from prosg.model.config import ProSGConfig
from prosg.model.initial_state import InitialState
from prosg.model.prosg import ProSG
from prosg.tokenizers.files import WORLD, tokenizer_beside, tokenizer_file
from prosg.training.config import Phase, TrainConfig
from prosg.training.idle_options import doubtful_sizes, idle_options
from prosg.training.inputs import NAMED_INPUTS, check_inputs, record_inputs
from prosg.training.known_prompts import learn_prompts
from prosg.training.lora import add_lora, remove_lora
from prosg.training.recipes import USUAL, check_recipe, check_values
from prosg.training.rows import read_run_rows, template_used
from prosg.utils import distributed
from prosg.utils.device import resolve_device
from prosg.utils.io import CheckpointError, read_json, write_json
from prosg.utils.jobs import write_progress
from prosg.utils.leftovers import sweep
from prosg.utils.options import dotted
from prosg.utils.outside import check_text
from prosg.utils.progress import ProgressDisplay
from prosg.utils.spelling import check_known

__all__ = ["train"]

CONFIG, RESULT, STEPS, LORA = "config.json", "result.json", "steps.jsonl", "lora"


def train(phase: Phase, config: TrainConfig, dry_run: bool = False) -> int:
    """Runs one phase.

    The folder `config.out` gets the trained backbone (phase 1), adapter or initial state, and config.json, inputs.json,
    checkpoint-STEP/, steps.jsonl, TensorBoard's logs, progress.json and result.json. A finished run is not run again;
    an unfinished one goes on from its newest whole checkpoint, also in a folder that was renamed.

    Args:
        phase: What is trained.
        config: The options; `RECIPES` has defaults that belong together.
        dry_run: Only print what would be trained and how long it would take; write nothing.

    Returns:
        The exit status.

    Raises:
        ValueError: for files that do not fit together, options that the phase or the model cannot have, and a folder
            that holds a run with other options, or of files with another content.
    """
    check_known("phase", [phase], USUAL)
    if not isinstance(config, TrainConfig):
        raise ValueError(f"config is a {type(config).__name__}; make one with prosg.train_config")
    check_recipe(phase, config.recipe)
    check_values(phase, config)
    _check_names(config)
    out = Path(config.out)
    _check_folder(out)
    _check_config(phase, config, out)
    if (out / RESULT).exists():
        lost = _lost(phase, out)
        if not lost:
            if not dry_run:
                sweep(out)
            distributed.print_once(f"{out}: already trained")
            return 0
        distributed.print_once(f"{lost}; it is made again, from the newest checkpoint if there is one")
    device = distributed.join(resolve_device(config.device))
    model = load_model(
        config.model,
        tokenizer=config.tokenizer or None,
        device=device,
        target_modules=config.module.target_modules,
        end_token=config.end_token,
        begin_token=config.begin_token,
        sliding_window=config.sliding_window,
    )
    tokenizer = require_tokenizer(model, config.model)
    if model.synthesizer is not None:
        raise ValueError(
            f"{config.model}: is an adapter already; train on its backbone, {os.path.normpath(model.base)}"
        )
    backbone, base = model.backbone, Path(model.base)
    backbone.float()  # master weights; bf16 is autocast
    if phase in ("synthesize", "static"):
        model = ProSG.from_scratch(model, config.module, seed=config.seed)
        if config.init:
            load_module(model, trained_model(local_path(config.init)))
    elif phase == "state":
        model.initial = InitialState(backbone)
    elif config.lora:
        add_lora(backbone, config.lora, config.lora_alpha or 2.0 * config.lora, config.lora_modules, config.seed)
    if config.anchor.enabled:
        options = config.anchor
        model.anchor = StateAnchor(backbone, options.tau or None, None if options.age < 0 else options.age)
    encoding: dict[str, Any] = {
        "vocab_size": model.backbone.config.vocab_size,
        "special": model.special,
        "max_tokens": config.max_tokens or None,
        "template": config.template,
        "own": model.own_template,
        "truncate": config.truncate,
    }
    rows, too_long = read_run_rows(config.train, tokenizer, "train", **encoding)
    validation = list(read_run_rows(config.validation, tokenizer, "validation", **encoding)[0])
    if config.mix:
        rows = mix_rows(rows, parse_mix(config.mix), config.seed)
    model.own_template = template_used(phase, rows, config, model)
    if config.replay and any(row.has_stages for row in sample_rows(rows)):
        chosen = uniforms(config.seed, 0, np.array([row.row_id for row in rows]), 1)[:, 0] < config.replay
        chosen &= np.array([row.has_stages for row in rows])
        rows = [replay_prompt(row) if again else row for row, again in zip(rows, chosen, strict=True)]
        if config.max_tokens:
            kept = [row for row in rows if row.tokens <= config.max_tokens]
            if beyond := len(rows) - len(kept):
                distributed.print_once(f"{beyond} train rows left out, above {config.max_tokens} tokens with --replay")
            rows, too_long = kept, too_long + beyond

    from prosg.training.setup import check  # transformers takes seconds to import; errors above come at once

    check(model, phase, config, rows, validation)
    for line in chain(idle_options(phase, config, rows), doubtful_sizes(phase, config, rows)):
        distributed.print_once(f"note: {line}")
    if dry_run:
        from prosg.training.dry_run import dry_run as print_dry_run

        print_dry_run(model, phase, config, rows, validation, too_long)
        distributed.leave()
        return 0
    # Only now: what was refused above leaves nothing that would stand in the corrected command's way.
    with distributed.locked_once(out):
        _check_config(phase, config, out)  # another command may have been at work there until now
        if (out / RESULT).exists() and not _lost(phase, out):
            distributed.print_once(f"{out}: already trained")
        else:
            _train(model, phase, config, rows, validation, base)
    distributed.leave()
    return 0


def _train(
    model: ProSG,
    phase: Phase,
    config: TrainConfig,
    rows: Sequence[EncodedRow],
    validation: Sequence[EncodedRow],
    base: Path,
) -> None:
    """Trains, and writes what was trained into the run's folder."""
    from prosg.training.fit import fit

    out = Path(config.out)
    if distributed.is_first():
        _write_config(config, out)
    distributed.barrier()
    note = ""

    def report_progress(step: int, metrics: dict[str, Any]) -> None:
        nonlocal note
        value = metrics.get(f"eval_{config.stop.metric}")
        note = note if value is None else f"{config.stop.metric} {value:.3f}"
        write_progress(out / "progress.json", step / config.optim.steps, f"step {step}  {note}")

    result = fit(model, phase, config, rows, validation, report_progress)
    if distributed.is_first():
        if phase == "synthesize" and config.known < 1:
            _learn_prompts(model, rows, config)
        trained = _save(model, phase, config, base)
        write_json(out / RESULT, dataclasses.asdict(result) | {"files": _written(phase, out)})
        distributed.print_once(f"{trained}: {result.steps} steps, {result.seconds:.0f} s, {result.skipped} skipped")
    distributed.barrier()


def _learn_prompts(model: ProSG, rows: Sequence[EncodedRow], config: TrainConfig) -> None:
    """Gives a module the prompts that it knows, and shows how far that is: a large model takes minutes."""

    def tell(share: float, note: str = "") -> None:
        write_progress(Path(config.out) / "progress.json", 1.0, f"{note}: {share:.0%}")
        display(share, note)

    with closing(ProgressDisplay("learning", bar=config.progress)) as display:
        learn_prompts(model, rows, config.known, config.seed, tell)


def _save(model: ProSG, phase: Phase, config: TrainConfig, base: Path) -> Path:
    """Writes what was trained, and the anchor that it was trained under; returns the path of the first."""
    out = Path(config.out)
    trained = _trained(phase, out)
    if model.anchor is not None:
        save_anchor(model.anchor, out / ANCHOR_FILE, overwrite=True)
    if phase == "finetune":
        tokenizer = tokenizer_file(config.tokenizer or tokenizer_beside(base) or WORLD)
        backbone: Any = model.backbone
        if config.lora:
            factors = remove_lora(backbone)
            _save_lora(backbone, factors, out / LORA, base)
            backbone = merge(backbone, factors)
        save_backbone(
            backbone,
            trained,
            tokenizer=tokenizer,
            special=model.special,
            template=model.own_template.known,
            overwrite=True,
        )
    elif model.initial is not None:
        save_initial(model.initial, trained, overwrite=True)
    elif model.synthesizer is not None:
        # Where they lie in fact: `..` in a path goes on from there, not from a link to it.
        place = Path(os.path.realpath(base.parent), base.name)
        save_adapter(model, trained, base=os.path.relpath(place, os.path.realpath(trained)), overwrite=True)
    return trained


def _trained(phase: Phase, out: Path) -> Path:
    """What a phase leaves in its folder."""
    return out / {"finetune": "model", "state": STATE_FILE, "anchor": ANCHOR_FILE}.get(phase, "adapter")


def _written(phase: Phase, out: Path) -> list[str]:
    """The files that were trained, by their names in the run's folder."""
    parts = [_trained(phase, out), out / ANCHOR_FILE, out / LORA]
    files = [file for part in parts for file in ([part] if part.is_file() else part.rglob("*")) if file.is_file()]
    return sorted({file.relative_to(out).as_posix() for file in files})


def _lost(phase: Phase, out: Path) -> str:
    """What a finished run's folder lacks of what it has to hold; "" where nothing is missing."""
    try:
        files = read_json(out / RESULT).get("files", [])
    except ValueError as error:
        return str(error)
    if not isinstance(files, list):
        return f"{out / RESULT}: files is a {type(files).__name__}, not a list"
    for path in (_trained(phase, out), *(out / str(name) for name in files)):
        if not path.exists():
            return f"{path}: is missing, though the run is finished"
    return ""


def _foreign(phase: Phase, config: TrainConfig, out: Path) -> str:
    """The name of something in a folder that a run would replace with its own; "" where there is nothing."""
    own = [_trained(phase, out), out / RESULT, out / STEPS]
    own += [out / ANCHOR_FILE] * config.anchor.enabled + [out / LORA] * (config.lora > 0)
    filled = (path for path in own if (any(path.iterdir()) if path.is_dir() else os.path.lexists(path)))
    return next((path.name for path in filled), "")


def _save_lora(backbone: Any, factors: Update, folder: Path, base: Path) -> None:
    """Writes PEFT's folder of the LoRA, where PEFT has a model to put it on."""
    try:
        peft_names(backbone)
    except ValueError:
        return  # this package alone has such models
    export_peft(backbone, factors, folder, base=str(base) if base.is_dir() else "", overwrite=True)


def _check_names(config: TrainConfig) -> None:
    """Refuses names that libraries cannot write or read, and empty ones, as of a variable that is not set."""
    files = [config.train] if isinstance(config.train, str) else config.train
    for option, name in (("model", config.model), ("out", config.out), *(("train", file) for file in files)):
        if not name:
            raise ValueError(f"{option} is empty; it names a {'folder' if option == 'out' else 'file'}")
        check_text(option, name)


def _check_folder(out: Path) -> None:
    """Refuses what is no folder, and a folder of something else than a run."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; --out names a folder")
    path = out / CONFIG
    if path.exists() and not {"optim", "train"} & read_json(path).keys():
        raise ValueError(f"{out}: has a {CONFIG} that is no run's, as a model's folder has; choose another --out")


def _check_config(phase: Phase, config: TrainConfig, out: Path) -> None:
    """Refuses to go on with another configuration or from other files: the result would be neither's.

    A folder without a configuration is no run's, and what lies there under the names of a run's files is somebody's,
    perhaps the model that is to be trained.
    """
    passing = ["progress", "threads", "log_steps", "report_to", "out", "cache_taps", "cache_taps_gb"]
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    path = out / CONFIG
    if not path.exists() and any(out.glob("checkpoint-*")):
        raise ValueError(f"{out}: has checkpoints, but no {CONFIG} that says of what run; choose another --out")
    if not path.exists() and (foreign := _foreign(phase, config, out)):
        raise ValueError(
            f"{out}: has {foreign}, which a run would replace, but no {CONFIG} that says of what run it is; choose "
            "another --out"
        )
    if path.exists():
        try:
            before = _with_defaults(read_json(path))
        except CheckpointError:
            raise
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); choose another --out, or delete {out}") from None
        if check_inputs(config):  # else all that is known of the files is their names
            passing += NAMED_INPUTS
        was, wanted = dict(dotted(before)), dict(dotted(now))
        changed = [
            f"--{name.replace('_', '-')} was {_typed(was.get(name))}, is {_typed(value)} now"
            for name, value in wanted.items()
            if name.partition(".")[0] not in passing and value != was.get(name)
        ]
        if changed:
            raise ValueError(
                f"{out} holds a run with other options: {'; '.join(changed)}. With what was, it goes on; "
                f"to begin anew, choose another --out, or delete {out}"
            )


def _typed(value: Any) -> str:
    """A stored value of an option, as it is typed."""
    if isinstance(value, list):
        return ",".join(map(_typed, value)) or "none"
    return str(value).lower() if isinstance(value, bool | None) else str(value) or "not given"


def _with_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration with the options that came after it, at their defaults, and those that were renamed.

    Raises:
        ValueError: where a group of options is none, or the module's are none that there are.
    """
    stored = {"out" if key == "output" else key: value for key, value in stored.items()}
    usual = dataclasses.asdict(TrainConfig("", "-", ""))
    for name, group in usual.items():
        if isinstance(group, dict) and not isinstance(stored.get(name, group), dict):
            raise ValueError(f"{name} is a {type(stored[name]).__name__}, not an object")
    if isinstance(stored.get("end_token"), int):  # version 0.1, in which 0 was every model's by default
        stored["end_token"] = [stored["end_token"]] if stored["end_token"] else []
    if "module" in stored:
        stored["module"] = ProSGConfig.from_dict(stored["module"]).to_dict()
    stored, fresh = json.loads(json.dumps([stored, usual]))
    groups = {key: {**fresh[key], **value} for key, value in stored.items() if isinstance(fresh.get(key), dict)}
    return {**fresh, **stored, **groups}


def _write_config(config: TrainConfig, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if not (out / CONFIG).exists():
        record_inputs(config)
        write_json(out / CONFIG, dataclasses.asdict(config))
