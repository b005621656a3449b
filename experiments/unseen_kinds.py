"""Kinds of instruction that a module never saw: what its update does to them, and what holds their prompts instead.

    python experiments/unseen_kinds.py --backbone rwkv4 --seeds 1 --out runs/unseen

Phase 1 learns seven kinds. A module is trained on all of them, and one on each six. It is measured on the kind that it
did not see: as it is used by default (memory auto: the anchor of a prompt that the module does not know), and
"ungated", with an update of every prompt. Killed and started again, it goes on. OUT/KIND has the report of each kind,
on the test split.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prosg.cli.scripts import ScriptParser, natural_ints, positive_int, run_script
from prosg.data.row import read_rows, write_rows
from prosg.demo.measuring import measure, module_systems, system
from prosg.demo.models import DEMO_MODELS
from prosg.demo.trainings import common_options, length, phase1_jobs, prepare, training
from prosg.evaluation.report.curves import distance_table, late_table
from prosg.utils.jobs import Job, check_plan, run_jobs
from prosg.utils.spelling import check_known
from prosg.utils.tables import to_text

SEVEN = ("ending", "names", "code", "pairs", "sentence", "steps", "reverse")
ROWS, BASE_STEPS, PHASE1_STEPS, PLUS_STEPS = 56_000, 500, 6000, 1000
CONDITIONS = ("own", "other", "mean")
"""Of a module's update."""


def jobs_of(folder: Path, seed: int, left_out: list[str], backbone: str) -> list[Job]:
    """Trainings of one seed: phase 1 on seven kinds, a module on all of them, and one without each of `left_out`."""
    model = DEMO_MODELS[backbone]
    prepare(folder, seed, model.fresh, ROWS, SEVEN)
    jobs = phase1_jobs(folder, seed, "fp32", BASE_STEPS, PHASE1_STEPS)
    options = (*common_options(seed, "fp32"), *length(PLUS_STEPS), "--eval-steps", "500", "--recipe", "plus")
    for kind in ["", *left_out]:
        data = folder / "data" / f"{name_of(kind)}.jsonl"
        if not data.exists():
            write_rows(data, [row for row in read_rows(folder / "data" / "train.jsonl") if row.kind != kind])
        jobs.append(
            training(name_of(kind), "synthesize", folder, "phase1/model", data.name, 110, *options, *model.plus)
        )
    return jobs


def name_of(kind: str) -> str:
    """The name of the module that did not see a kind; "" is none."""
    return f"plus-without-{kind}" if kind else "plus-all"


def systems_of(folder: Path, seed: int, kind: str) -> dict[str, dict[str, Any]]:
    """What is measured on the prompts of a kind."""
    phase1 = folder / "phase1"
    systems = {f"phase1-{seed}": system(phase1, seed, "phase 1")}
    for whose in CONDITIONS:
        anchored = {"memory": "anchor", "update": whose}
        systems[f"anchor-{whose}-{seed}"] = system(phase1, seed, f"phase 1, anchored, {whose}", **anchored)
    conditions, without = (*CONDITIONS, "wiped"), folder / name_of(kind)
    systems |= module_systems(folder / name_of(""), seed, "seen", conditions, "plus that saw the kind", "auto")
    systems |= module_systems(without, seed, "unseen", conditions, "plus that did not", "auto")
    systems |= module_systems(without, seed, "ungated", ("own", "wiped"), "the same, ungated")
    return systems


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("--backbone", default="rwkv4", choices=["rwkv4", "rwkv7", "retnet"])
    parser.add_argument("--seeds", type=natural_ints, default="1", help="one run of trainings each, like 1,2,3")
    parser.add_argument("--kinds", default=",".join(SEVEN), help="which kinds are left out, one after the other")
    parser.add_argument("--out", type=Path, required=True, help="the folder to go on in")
    parser.add_argument("--rows", type=positive_int, default=96, help="prompts a cell")
    parser.add_argument("--sentences", type=natural_ints, default="5,60,125", help="lengths of the stories")
    parser.add_argument("--jobs", type=positive_int, default=2)
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    check_known("--kinds", kinds, SEVEN)
    sentences = options.sentences
    options.out.mkdir(parents=True, exist_ok=True)
    check_plan(options.out / "plan.json", {"backbone": options.backbone, "rows": options.rows}, "--out")
    folders = {seed: options.out / f"seed-{seed}" for seed in options.seeds}
    work = [job for seed, folder in folders.items() for job in jobs_of(folder, seed, kinds, options.backbone)]
    run_jobs(work, options.jobs, live=sys.stderr.isatty())
    status = 0
    for kind in kinds:
        systems: dict[str, dict[str, Any]] = {}
        for seed, folder in folders.items():
            systems |= systems_of(folder, seed, kind)
        failed, run = measure(
            options.out / kind,
            systems,
            curve={"sentences": sentences, "rows": options.rows},
            seed=min(folders),
            kinds=(kind,),
            measures=("curve",),
            reference="plus that did not, own update",
            title=f"A kind that the module never saw: {kind}, {options.backbone}",
            jobs=options.jobs,
            live=sys.stderr.isatty(),
        )
        status = status or failed
        print(kind, to_text(late_table(run)), to_text(distance_table(run)), sep="\n\n")
    return status


if __name__ == "__main__":
    run_script(main)
