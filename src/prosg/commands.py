"""What stands behind `prosg train`, `prosg perplexity` and `prosg info`: files in, files out, words for people."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prosg.adapter import load_model, save_adapter
from prosg.checkpoint import TOKENIZER, fingerprint, save_backbone
from prosg.config import PRESETS, RECIPES, TrainConfig
from prosg.data.collate import EncodedRow, encode_rows
from prosg.data.record import read_rows
from prosg.evaluation.perplexity import perplexity
from prosg.ops import wkv4
from prosg.prosg import ProSG
from prosg.synthesizer import Synthesizer

__all__ = ["info", "perplexity_of_file", "train"]


def train(phase: str, config: TrainConfig, tell: Callable[[int, dict[str, Any]], None] | None = None) -> int:
    """Run one phase from files to files.

    The output folder gets the trained backbone (phase 1) or adapter, the configuration, checkpoints, steps.jsonl,
    TensorBoard's logs and result.json. A finished run is not run again; an unfinished one goes on.
    """
    allowed = [name for name, recipe in RECIPES.items() if recipe.phase == phase]
    if config.recipe and config.recipe not in allowed:
        raise ValueError(f"recipe is {config.recipe!r}; for {phase} allowed: {', '.join(allowed)}")
    output = Path(config.output)
    _settle_config(config, output)
    if (output / "result.json").exists():
        print(f"{output}: already trained", file=sys.stderr)
        return 0
    model = load_model(config.model, tokenizer=config.tokenizer or None)
    if model.tokenizer is None:
        raise ValueError(f"{config.model}: no tokenizer.json lies beside it; name one with --tokenizer")
    if model.synthesizer is not None:
        raise ValueError(f"{config.model}: is an adapter already; train on its backbone")
    tokenizer = model.tokenizer
    backbone = model.backbone
    backbone.float()  # type: ignore[attr-defined]  # master weights; bf16 is autocast
    if phase != "finetune":
        model = ProSG(backbone, config.module, seed=config.seed)
    rows = _rows(config.train, tokenizer, config.max_tokens, "train")
    validation = _rows(config.validation, tokenizer, config.max_tokens, "validation")

    from prosg.train import fit  # transformers takes seconds to import; errors above come at once

    result = fit(model, phase, config, rows, validation, tell)  # type: ignore[arg-type]
    where = _find_tokenizer(config)
    if phase == "finetune":
        save_backbone(backbone, output / "model", tokenizer=where, overwrite=True)  # type: ignore[arg-type]
    else:
        base = os.path.relpath(Path(config.model), output / "adapter")
        save_adapter(model, output / "adapter", base=base, overwrite=True)
    write_json(output / "result.json", dataclasses.asdict(result))
    made = output / ("model" if phase == "finetune" else "adapter")
    print(f"{made}: {result.steps} steps, {result.seconds:.0f} s, {result.skipped} skipped", file=sys.stderr)
    return 0


def _settle_config(config: TrainConfig, output: Path) -> None:
    """Write the run's configuration; refuse to go on with another one, since the result would be neither."""
    passing = ("progress", "threads", "log_steps")
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    path = output / "config.json"
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        changed = [key for key in now if key not in passing and now[key] != before.get(key)]
        if changed:
            raise ValueError(
                f"{output} holds a run with another configuration ({', '.join(changed)} changed); "
                "choose another --output, or delete it"
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def write_json(path: Path, content: Any) -> None:
    """Write beside, then rename."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    temporary.replace(path)


def _find_tokenizer(config: TrainConfig) -> Path:
    given = Path(config.tokenizer or config.model)
    if given.is_dir():
        return given / TOKENIZER
    return given if config.tokenizer else given.parent / TOKENIZER


def _rows(files: Sequence[str] | str, tokenizer: Any, max_tokens: int, what: str) -> list[EncodedRow]:
    rows: list[EncodedRow] = []
    for file in [files] if isinstance(files, str) else files:
        kept, too_long = encode_rows(read_rows(file), tokenizer, max_tokens=max_tokens or None)
        rows += kept
        if too_long:
            print(f"{file}: {len(too_long)} {what} rows left out, above {max_tokens} tokens", file=sys.stderr)
    return rows


def perplexity_of_file(model: ProSG, file: str, *, update: bool = True, batch_size: int = 32) -> int:
    """Print a file's perplexities as JSON."""
    rows = _rows(file, model.tokenizer, 0, "")
    if update:
        scores = perplexity(model, rows, batch_size)
    else:
        with model.disable_update():
            scores = perplexity(model, rows, batch_size)
    print(json.dumps(scores.to_dict(), indent=2))
    return 0


def info(model: ProSG) -> int:
    """Print what a model is."""
    backbone: Any = model.backbone
    state = sum(leaf.numel() * leaf.element_size() for layer in backbone.init_state(1) for leaf in layer)
    device = next(model.parameters()).device
    total = sum(p.numel() for p in backbone.parameters())
    lines = [
        ("type", backbone.config.model_type),
        *((field.name, getattr(backbone.config, field.name)) for field in dataclasses.fields(backbone.config)),
        ("parameters", f"{total:,} ({next(backbone.parameters()).dtype})"),
        ("fingerprint", fingerprint(backbone)),
        ("state", f"{state:,} bytes per row"),
        ("sites", f"{len(backbone.sites)}: " + ", ".join(sorted({site.name for site in backbone.sites}))),
        ("kernel", wkv4.describe(backbone.kernel, device, backbone.state_dtype)),
        ("tokenizer", f"{model.tokenizer.vocab_size} tokens" if model.tokenizer else "none"),
    ]
    if model.synthesizer is not None:
        own = sum(p.numel() for p in model.synthesizer.parameters())
        lines.append(("module", f"{model.synthesizer.config.preset}, {own:,} parameters ({own / total:.1%})"))
        lines += [(f"  {key}", value) for key, value in model.synthesizer.config.to_dict().items() if key != "preset"]
    for name, preset in PRESETS.items():
        try:
            count = sum(p.numel() for p in Synthesizer(preset, backbone.sites, backbone.tap_widths).parameters())
            lines.append((f"preset {name}", f"{count:,} parameters ({count / total:.1%})"))
        except ValueError as error:
            lines.append((f"preset {name}", f"not for this backbone: {error}"))
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        print(f"{name:<{width}}{value}")
    return 0
