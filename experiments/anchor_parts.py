"""Which parts of the memory carry an anchor, and what a little training under one changes.

    python experiments/anchor_parts.py units --model DIR/rwkv7-1/phase1/model --tau 50 --out runs/units
    python experiments/anchor_parts.py trained --folder DIR/rwkv7-choose-1 --kinds code,choose --tau 200 --out runs/more

`units` anchors one layer alone, all but it, and (RWKV-7, RetNet) all but one head, on validation rows. `trained`
continues phase 1 with and without an anchor for as many steps, and measures both under it. OUT/evaluation has the
report.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prosg.checkpoints.anchor import save_anchor
from prosg.checkpoints.load import load_model
from prosg.cli.scripts import ScriptParser, file_to_read, natural_ints, positive_float, positive_int, run_script
from prosg.data.row import write_rows
from prosg.data.synthetic import SENTENCES, check_kinds, make_rows
from prosg.demo.measuring import measure, system
from prosg.demo.trainings import common_options, length, training
from prosg.evaluation.report.curves import late_table
from prosg.model.anchor import StateAnchor
from prosg.utils.jobs import run_jobs
from prosg.utils.tables import to_text

FREE = math.log(1e9)
"""Logarithm of the window of a unit that is not anchored."""


def units(model: Path, tau: float, out: Path) -> dict[str, dict[str, Any]]:
    """The systems: anchors of some units only, written as files."""
    backbone = load_model(model).backbone
    sizes = backbone.anchor_units
    out.mkdir(parents=True, exist_ok=True)
    everything = [(layer, unit) for layer, size in enumerate(sizes) for unit in range(size)]
    chosen = {"all": everything}
    for layer, size in enumerate(sizes):
        chosen[f"layer-{layer}-alone"] = [place for place in everything if place[0] == layer]
        chosen[f"all-but-layer-{layer}"] = [place for place in everything if place[0] != layer]
        for head in range(size if size <= 8 else 0):
            chosen[f"all-but-head-{layer}.{head}"] = [place for place in everything if place != (layer, head)]
    systems = {"none": {"model": str(model), "memory": "none", "label": "none"}}
    for name, places in chosen.items():
        anchor = StateAnchor(backbone, tau)
        for layer, log_tau in enumerate(anchor.log_tau):
            here = {unit for at, unit in places if at == layer}
            log_tau.masked_fill_(torch.tensor([unit not in here for unit in range(len(log_tau))]), FREE)
        save_anchor(anchor, out / f"{name}.safetensors", overwrite=True)
        file = str(out / f"{name}.safetensors")
        systems[name] = {"model": str(model), "memory": "anchor", "anchor": file, "label": name}
    return systems


def trained(folder: Path, kinds: list[str], tau: float, steps: int, longest: int) -> dict[str, dict[str, Any]]:
    """Phase 1 continued under an anchor and without, on stories of up to `longest` sentences; measured in both ways."""
    data = "train.jsonl" if longest <= SENTENCES[1] else f"stories-{longest}.jsonl"
    if not (folder / "data" / data).exists():
        write_rows(folder / "data" / data, make_rows(kinds, 32 * steps, 1, "train", sentences=(1, longest)))
    tag = "" if longest <= SENTENCES[1] else f"-{longest}"
    shared = (*common_options(1, "fp32"), *length(steps), "--optim.lr", "1e-3", "--eval-steps", "200")
    under = ("--recipe", "anchored", "--anchor.tau", str(tau))
    jobs = [
        training(f"anchored{tag}", "finetune", folder, "phase1/model", data, 300, *shared, *under),
        training(f"continued{tag}", "finetune", folder, "phase1/model", data, 300, *shared, "--recipe", "plain"),
    ]
    # What they need is there already.
    run_jobs([replace(job, needs=()) for job in jobs], 1, live=False)
    held = {"memory": "anchor", "tau": tau}
    names = ("phase1", f"continued{tag}", f"anchored{tag}")
    systems = {name: system(folder / name, 1, f"{name}, anchored", **held) for name in names}
    return systems | {f"{name}-free": system(folder / name, 1, f"{name}, not", memory="none") for name in names}


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("what", choices=["units", "trained"])
    parser.add_argument("--model", type=file_to_read, help="a backbone, for units")
    parser.add_argument("--folder", type=file_to_read, help="a seed's folder of experiments/anchor.py, for trained")
    parser.add_argument("--kinds", default="ending,names,code")
    parser.add_argument("--tau", type=positive_float, default=50.0)
    parser.add_argument("--steps", type=positive_int, default=500)
    parser.add_argument(
        "--longest", type=positive_int, default=SENTENCES[1], help="longest story that is trained on, sentences"
    )
    parser.add_argument("--sentences", type=natural_ints, default="5,60")
    parser.add_argument("--rows", type=positive_int, default=48)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    needed = "model" if options.what == "units" else "folder"
    if getattr(options, needed) is None:
        parser.error(f"{options.what} needs --{needed}")
    kinds = check_kinds("--kinds", options.kinds.split(","))
    if options.what == "units":
        systems = units(options.model, options.tau, options.out)
    else:
        systems = trained(options.folder, kinds, options.tau, options.steps, options.longest)
    _, run = measure(
        options.out / "evaluation",
        systems,
        curve={"rows": options.rows, "sentences": options.sentences},
        seed=1,
        split="validation",
        kinds=kinds,
        measures=("curve",),
        jobs=1,
        live=False,
    )
    print(to_text(late_table(run, brief=True)))
    for kind in kinds:
        for result in run.systems:
            shares = [result.late_at(place, kind) for place in result.places]
            print(kind, result.label, [round(sum(late.values()) / len(late), 2) for late in shares])
    return 0


if __name__ == "__main__":
    run_script(main)
