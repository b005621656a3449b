"""What stands behind `prosg train`, `prosg perplexity` and `prosg info`: files in, files out, words for people."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.export import export_peft, merge, peft_names
from prosg.checkpoints.initial_state import STATE_FILE, save_initial
from prosg.checkpoints.load import load_model, require_tokenizer
from prosg.core.rng import uniforms
from prosg.core.update import Update
from prosg.data.encode import EncodedRow, encode_rows, replay_prompt
from prosg.data.row import read_rows
from prosg.data.templates import known_template
from prosg.inspection.info import describe
from prosg.model.initial_state import InitialState
from prosg.model.perplexity import perplexity
from prosg.model.prosg import ProSG
from prosg.tokenizers.files import WORLD, tokenizer_beside, tokenizer_file
from prosg.training.config import Phase, TrainConfig
from prosg.training.lora import add_lora, remove_lora
from prosg.training.recipes import check_recipe
from prosg.utils import distributed
from prosg.utils.device import resolve_device
from prosg.utils.io import read_json, write_json
from prosg.utils.jobs import write_progress
from prosg.utils.tables import print_table

__all__ = ["info", "perplexity_of_file", "train"]


CONFIG = "config.json"


def train(phase: Phase, config: TrainConfig, dry_run: bool = False) -> int:
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
    require_tokenizer(model, config.model)
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
        add_lora(backbone, config.lora, config.lora_alpha or 2.0 * config.lora, config.lora_modules, config.seed)  # type: ignore[arg-type]
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

    from prosg.training.fit import fit
    from prosg.training.setup import check  # transformers takes seconds to import; errors above come at once

    check(model, phase, config, rows, validation)
    if dry_run:
        from prosg.training.dry_run import dry_run as say_what_would_be

        say_what_would_be(model, phase, config, rows, validation, too_long)
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

    result = fit(model, phase, config, rows, validation, tell)
    if distributed.is_first():
        made = _save(model, phase, config, base)
        write_json(output / "result.json", dataclasses.asdict(result))
        distributed.print_once(f"{made}: {result.steps} steps, {result.seconds:.0f} s, {result.skipped} skipped")
    distributed.barrier()
    distributed.leave()
    return 0


def _save(model: ProSG, phase: Phase, config: TrainConfig, base: Path) -> Path:
    """Write what was trained; returns where."""
    made = Path(config.output) / {"finetune": "model", "state": STATE_FILE}.get(phase, "adapter")
    if phase == "finetune":
        its_tokenizer = tokenizer_file(config.tokenizer or tokenizer_beside(base) or WORLD)
        backbone: Any = model.backbone
        if config.lora:
            trained = remove_lora(backbone)
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


def info(model: ProSG) -> int:
    """Print what a model is."""
    print_table(list(describe(model)))
    return 0
