"""What stands behind `prosg train`, `prosg perplexity` and `prosg info`: files in, files out, words for people."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.export import export_peft, merge, peft_names
from prosg.checkpoints.initial_state import STATE_FILE, save_initial
from prosg.checkpoints.load import load_model, need_tokenizer
from prosg.core.rng import uniforms
from prosg.core.update import Update
from prosg.data.encode import EncodedRow, encode_rows, replay_prompt
from prosg.data.row import read_rows
from prosg.data.synthetic import DEMO_KINDS, Filler
from prosg.data.synthetic.difficulty_grid import difficulty_grid
from prosg.data.templates import known_template
from prosg.evaluation.controls import Condition
from prosg.evaluation.curve import ALL_CONDITIONS, CurveResult, forgetting_curve
from prosg.inspection.info import describe
from prosg.model.initial_state import InitialState
from prosg.model.perplexity import perplexity
from prosg.model.prosg import ProSG
from prosg.tokenizers.files import WORLD, tokenizer_beside, tokenizer_file
from prosg.training.config import TrainConfig
from prosg.training.lora import put_on, take_off
from prosg.training.recipes import check_recipe
from prosg.utils import distributed
from prosg.utils.device import resolve_device
from prosg.utils.io import read_json, write_json
from prosg.utils.jobs import write_progress
from prosg.utils.tables import print_table

__all__ = ["curve_of_model", "info", "perplexity_of_file", "train"]


CONFIG = "config.json"


def train(phase: str, config: TrainConfig, dry_run: bool = False) -> int:
    """Run one phase from files to files, or only say what it would be (`dry_run`).

    The output folder gets the trained backbone (phase 1), adapter or initial state, the configuration, checkpoints,
    steps.jsonl, TensorBoard's logs, progress.json and result.json. A finished run is not run again; an unfinished one
    goes on.
    """
    check_recipe(phase, config.recipe)
    output = Path(config.output)
    _check_config(config, output)
    if (output / "result.json").exists() and not dry_run:
        distributed.print_once(f"{output}: already trained")
        return 0
    device = distributed.join(resolve_device(config.device))
    model = load_model(
        config.model,
        tokenizer=config.tokenizer or None,
        device=device,
        target_modules=config.module.target_modules,
    )
    need_tokenizer(model, config.model)
    if model.synthesizer is not None:
        raise ValueError(f"{config.model}: is an adapter already; train on its backbone, {model.base}")
    tokenizer, backbone, base = model.tokenizer, model.backbone, Path(model.base)
    backbone.float()  # type: ignore[attr-defined]  # master weights; bf16 is autocast
    if phase in ("synthesize", "static"):
        model = ProSG(backbone, config.module, seed=config.seed).to(device)
        model.tokenizer = tokenizer
    elif phase == "state":
        model.initial = InitialState(backbone)
    elif config.lora:
        put_on(backbone, config.lora, config.lora_alpha or 2.0 * config.lora, config.lora_modules, config.seed)  # type: ignore[arg-type]
    encoding = {
        "end_id": config.end_token,
        "max_tokens": config.max_tokens or None,
        "template": config.template,
        "truncate": config.truncate,
    }
    rows, too_long = _rows(config.train, tokenizer, "train", **encoding)
    validation, _ = _rows(config.validation, tokenizer, "validation", **encoding)
    if config.replay:
        chosen = uniforms(config.seed, 0, np.array([row.row_id for row in rows]), 1)[:, 0] < config.replay
        chosen &= np.array([row.has_stages for row in rows])
        rows = [replay_prompt(row) if again else row for row, again in zip(rows, chosen, strict=True)]

    from prosg.training.setup import check  # transformers takes seconds to import; errors above come at once
    from prosg.training.trainer import fit

    check(model, phase, config, rows, validation)  # type: ignore[arg-type]
    if dry_run:
        from prosg.training.dry_run import dry_run as say_what_would_be

        say_what_would_be(model, phase, config, rows, validation, too_long)  # type: ignore[arg-type]
        distributed.leave()
        return 0
    # Only now: what was refused above leaves nothing that would stand in the corrected command's way.
    if distributed.is_first():
        _write_config(config, output)
    distributed.barrier()

    note = ""

    def tell(step: int, metrics: dict[str, Any]) -> None:
        nonlocal note
        value = metrics.get(f"eval_{config.stop.metric}")
        note = note if value is None else f"{config.stop.metric} {value:.3f}"
        write_progress(output / "progress.json", step / config.optim.steps, f"step {step}  {note}")

    result = fit(model, phase, config, rows, validation, tell)  # type: ignore[arg-type]
    if distributed.is_first():
        made = _save(model, phase, config, base)
        write_json(output / "result.json", dataclasses.asdict(result))
        distributed.print_once(f"{made}: {result.steps} steps, {result.seconds:.0f} s, {result.skipped} skipped")
    distributed.barrier()
    distributed.leave()
    return 0


def _save(model: ProSG, phase: str, config: TrainConfig, base: Path) -> Path:
    """Write what was trained; returns where."""
    made = Path(config.output) / {"finetune": "model", "state": STATE_FILE}.get(phase, "adapter")
    if phase == "finetune":
        its_tokenizer = tokenizer_file(config.tokenizer or tokenizer_beside(base) or WORLD)
        backbone: Any = model.backbone
        if config.lora:
            trained = take_off(backbone)
            _save_lora(backbone, trained, Path(config.output) / "lora", base)
            backbone = merge(backbone, trained)
        save_backbone(backbone, made, tokenizer=its_tokenizer, overwrite=True)
    elif model.initial is not None:
        save_initial(model.initial, made, overwrite=True)
    else:
        save_adapter(model, made, base=os.path.relpath(base, made), overwrite=True)
    return made


def _save_lora(backbone: Any, trained: Update, folder: Path, base: Path) -> None:
    """PEFT's folder of what was trained, where PEFT has a model to put it on."""
    try:
        peft_names(backbone)
    except ValueError:
        return  # this package alone has such models
    export_peft(backbone, trained, folder, base=str(base) if base.is_dir() else "", overwrite=True)


def _check_config(config: TrainConfig, output: Path) -> None:
    """Refuse to go on with another configuration: the result would be neither's."""
    passing = ("progress", "threads", "log_steps", "report_to")
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file; --output names a folder")
    path = output / CONFIG
    if path.exists():
        before = _with_defaults(read_json(path))
        changed = [key for key in now if key not in passing and now[key] != before.get(key)]
        if changed:
            raise ValueError(
                f"{output} holds a run with another configuration ({', '.join(changed)} changed); "
                "choose another --output, or delete it"
            )


def _with_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration with the options that came after it: it ran as their defaults are."""
    fresh = json.loads(json.dumps(dataclasses.asdict(TrainConfig("", "-", ""))))
    groups = {key: {**fresh[key], **value} for key, value in stored.items() if isinstance(fresh.get(key), dict)}
    return {**fresh, **stored, **groups}


def _write_config(config: TrainConfig, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    if not (output / CONFIG).exists():
        write_json(output / CONFIG, dataclasses.asdict(config))


def _rows(files: Sequence[str] | str, tokenizer: Any, what: str, **encoding: Any) -> tuple[list[EncodedRow], int]:
    """The files' rows, encoded, and how many were too long, which it says on stderr; options as `encode_rows`'s."""
    rows: list[EncodedRow] = []
    found = 0
    for file in [files] if isinstance(files, str) else files:
        read = read_rows(file)
        try:
            kept, too_long = encode_rows(read, tokenizer, **encoding)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        rows += kept
        found += len(too_long)
        if too_long:
            done = "cut to" if encoding.get("truncate") else "left out, above"
            distributed.print_once(f"{file}: {len(too_long)} {what} rows {done} {encoding['max_tokens']} tokens")
    return rows, found


def perplexity_of_file(
    model: ProSG, file: str, *, update: bool = True, batch_size: int = 32, end_token: int = 0, template: str = ""
) -> int:
    """Print a file's perplexities as JSON; template as `TrainConfig`'s."""
    if batch_size < 1:
        raise ValueError(f"--batch-size is {batch_size}, must be at least 1")
    rows, _ = _rows(file, model.tokenizer, "", end_id=end_token, template=known_template(template))
    scores = perplexity(model, rows, batch_size, update=update)
    print(json.dumps(scores.to_dict(), indent=2))
    return 0


def curve_of_model(
    model: ProSG,
    out: str,
    *,
    system: str,
    seed: int,
    updates: Sequence[str],
    kinds: Sequence[str] = DEMO_KINDS,
    split: str = "test",
    prompt_tokens: Sequence[int] = (),
    turns: Sequence[int] = (),
    items: Sequence[int] = (),
    filler: str | None = None,
    **options: Any,
) -> int:
    """Measure a forgetting curve and write it: {"rows", "answers"}.

    Options are `difficulty_grid`'s and `forgetting_curve`'s; filler is a file. Every combination of prompt lengths, turns
    and items is a curve of its own.
    """
    known = {str(c): c for c in (*ALL_CONDITIONS, Condition("none"))} | {"wiped": Condition("own", "wiped")}
    if unknown := [name for name in updates if name not in known]:
        raise ValueError(f"--updates has {', '.join(unknown)}; allowed: own, other, mean, none, wiped")
    if model.synthesizer is None and list(updates) != ["none"]:
        raise ValueError("this model has no module: its only update is none")
    path = Path(out)
    if path.is_dir():
        raise ValueError(f"--out {path}: is a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)

    progress = path.with_suffix(".progress")
    bar = tqdm(total=100, unit="%", leave=False, disable=not sys.stderr.isatty())

    def tell(share: float, note: str) -> None:
        write_progress(progress, share, note)
        bar.set_description(f"measuring: {note}", refresh=False)
        bar.update(round(100 * share) - bar.n)

    labels = {"backbone": model.backbone.config.model_type, "system": system, "seed": seed}
    conditions = [known[name] for name in updates]
    text = None if filler is None else Filler.read(filler)
    lists = {"prompt_tokens": prompt_tokens, "turns": turns, "items": items}
    settings = difficulty_grid(model.tokenizer, kinds, seed, split, **lists, filler=text)
    result = CurveResult([], [])
    for number, setting in enumerate(settings):

        def tell_part(share: float, note: str, number: int = number) -> None:
            tell((number + share) / len(settings), note)

        one = forgetting_curve(
            model,
            labels=labels,
            conditions=conditions,
            kinds=kinds,
            seed=seed,
            split=split,
            setting=setting,
            tell=tell_part,
            **options,
        )
        result = CurveResult(result.rows + one.rows, result.answers + one.answers)
    write_json(path, result._asdict())
    bar.close()
    progress.unlink(missing_ok=True)
    for row in result.rows:
        if row["kind"] == "all":
            low, high = row["late_interval"]
            named = [f"{name} {row[name]}" for name in ("prompt_tokens", "turns", "items", "window") if name in row]
            print(
                f"{row['update']:>6} {row['state']:>6} {row['length']:>11} {row['distance_tokens']:>6} tokens:"
                f"  late {row['late_accuracy']:.3f} [{low:.3f}, {high:.3f}]  all stages {row['accuracy']:.3f}"
                + "".join(f"  {what}" for what in named)
            )
    return 0


def info(model: ProSG) -> int:
    """Print what a model is."""
    print_table(list(describe(model)))
    return 0
