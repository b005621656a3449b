"""Experiments beyond the demo: other fillers, longer prompts, more digits, turns in between, other sizes.

    python experiments/harder.py filler --seeds 1,2,3 --filler valid.txt --out runs/filler

Each generates rows of its difficulty, trains base and phase 1 on them, then `plus` on the frozen backbone and, as the
rival, durable fine-tuning (the demo's rate); then evaluates all on the test split. Every step has files before and
after it: killed and started again, it goes on. OUT/evaluation has the report.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.cli.scripts import ScriptParser, natural_ints, positive_int, run_script
from prosg.data.synthetic import DEMO_KINDS, Difficulty, Filler
from prosg.demo.measuring import measure, module_systems, system
from prosg.demo.rivals import RIVALS
from prosg.demo.trainings import common_options, length, phase1_jobs, prepare, training, training_notes
from prosg.evaluation.report.curves import distance_table, late_table
from prosg.utils.jobs import Job, check_plan, run_jobs
from prosg.utils.tables import to_text

ROWS = 24_000
BASE_STEPS = 300


@dataclass(frozen=True)
class Experiment:
    """One difficulty.

    Attributes:
        curve: Options of the forgetting curve, which say what varies.
        kinds: Kinds of instruction.
        sentences: Least and greatest length of the stories that are trained on.
        difficulty: Ranges of `Difficulty` in training: distractors (words), turns, items.
        filler: Whether stories are running text.
        rows: So many rows to train on.
        easier: So many rows of the demo's come on top: recall is learned on them sooner.
        window: `plus` is also measured in windows of so many tokens of the prompt; 0: it is not.
        trained_window: A second `plus` is trained to read in windows of so many tokens, and measured, too; 0: none.
        wide: A second `plus` of this rank is trained and measured, too; 0: none.
        backbone, width, layers: Of the model.
        durable: Recipe of the rival; "": it is not trained.
        late_weight: Of the last stage's tokens in phase 1.
        phase1_steps, plus_steps, durable_steps: At most; the rival's as many as cost plus's seconds.
    """

    curve: dict[str, Any] = field(default_factory=lambda: {"sentences": [5, 20, 60, 125, 250]})
    kinds: tuple[str, ...] = DEMO_KINDS
    sentences: tuple[int, int] = (1, 5)
    difficulty: tuple[tuple[str, tuple[int, int]], ...] = ()
    filler: bool = False
    rows: int = ROWS
    easier: int = 0
    window: int = 0
    trained_window: int = 0
    wide: int = 0
    backbone: str = "rwkv4"
    width: int = 96
    layers: int = 3
    durable: str = "durable"
    late_weight: float = 1.0
    phase1_steps: int = 2500
    plus_steps: int = 1000
    durable_steps: int = 1100

    def fresh(self, seed: int) -> RWKV4 | RWKV7:
        """The model with random weights."""
        shape = {"vocab_size": 1024, "hidden_size": self.width, "num_layers": self.layers}
        model = RWKV7(RWKV7Config(**shape, head_size=32)) if self.backbone == "rwkv7" else RWKV4(RWKV4Config(**shape))
        model.reset_parameters(torch.Generator().manual_seed(seed))
        return model


LONG = (("distractors", (0, 400)),)
FAR = {"prompt_tokens": [60, 500, 1000, 2000], "sentences": [5]}
EXPERIMENTS = {
    "filler": Experiment(
        {"sentences": [1, 12, 24, 46]},
        sentences=(1, 1),
        filler=True,
        easier=ROWS // 2,
        late_weight=3.0,  # a text that cannot be learned takes most of the loss
        phase1_steps=3000,
    ),
    "prompts": Experiment(FAR, difficulty=LONG, easier=ROWS // 4, window=250),
    "prompts-rwkv7": Experiment(
        FAR,
        difficulty=LONG,
        easier=ROWS // 4,
        trained_window=250,
        backbone="rwkv7",
        durable="durable-load",
        plus_steps=2000,
        durable_steps=1600,
    ),
    # What does not fade has to be written whole: four times the steps of the others, with the rival's.
    "digits": Experiment(
        {"items": [4, 6, 8, 10, 12, 14, 16], "sentences": [60]},
        kinds=("code",),
        difficulty=(("items", (4, 16)),),
        rows=2 * ROWS,
        wide=32,
        plus_steps=4000,
        durable_steps=4400,
    ),
    "pairs": Experiment(
        {"items": [2, 4, 6, 8], "sentences": [60]},
        kinds=("pairs",),
        difficulty=(("items", (2, 8)),),
        rows=2 * ROWS,
        wide=32,
        plus_steps=4000,
        durable_steps=4400,
    ),
    "pairs-rwkv7": Experiment(
        {"items": [2, 4, 6, 8], "sentences": [5, 60]},
        kinds=("pairs",),
        difficulty=(("items", (2, 8)),),
        rows=2 * ROWS,
        backbone="rwkv7",
        durable="",
        plus_steps=4000,
    ),
    "turns": Experiment({"turns": [1, 2, 4, 8], "sentences": [5]}, kinds=("code",), difficulty=(("turns", (0, 1)),)),
    "small": Experiment(width=64, layers=2),
    "large": Experiment(width=128, layers=4),
}


def jobs_of(experiment: Experiment, folder: Path, seed: int, dtype: str) -> list[Job]:
    """Trainings of one seed, from its data."""
    shared = common_options(seed, dtype)
    weight = ("--optim.late-weight", str(experiment.late_weight))
    plus = (*shared, "--recipe", "plus", *length(experiment.plus_steps), "--eval-steps", "250")
    jobs = [
        *phase1_jobs(folder, seed, dtype, BASE_STEPS, experiment.phase1_steps, *weight),
        training("plus", "synthesize", folder, "phase1/model", "train.jsonl", 110, *plus),
    ]
    if experiment.wide:
        wide = (*plus, "--module.rank", str(experiment.wide))
        jobs.append(training("plus_wide", "synthesize", folder, "phase1/model", "train.jsonl", 140, *wide))
    if experiment.trained_window:
        windows = (*plus, "--module.window", str(experiment.trained_window))
        jobs.append(training("plus_windows", "synthesize", folder, "phase1/model", "train.jsonl", 120, *windows))
    if experiment.durable:
        durable = (*shared, "--recipe", experiment.durable, "--optim.lr", "3e-3", "--optim.late-weight", "3")
        durable = (*durable, *length(experiment.durable_steps), "--eval-steps", "400")
        jobs.append(training("phase1_perturbed", "finetune", folder, "phase1/model", "train.jsonl", 110, *durable))
    return jobs


def systems_of(experiment: Experiment, folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """What is measured of one seed."""
    systems = {f"phase1-{seed}": system(folder / "phase1", seed, "phase 1")}
    systems |= module_systems(folder / "plus", seed, "plus", ("own", "other", "mean", "wiped"))
    if experiment.wide:
        systems |= module_systems(folder / "plus_wide", seed, f"plus of rank {experiment.wide}", ("own", "wiped"))
    if experiment.window:
        for name, options in module_systems(folder / "plus", seed, "plus in windows", ("own", "wiped")).items():
            systems[name.replace(" ", "_")] = {**options, "window": experiment.window}
    if experiment.trained_window:
        which = ("own", "other", "wiped")
        systems |= module_systems(folder / "plus_windows", seed, "plus trained in windows", which)
    if experiment.durable:
        systems[f"durable-{seed}"] = system(folder / "phase1_perturbed", seed, RIVALS["phase1_perturbed"].label)
    return {name.replace(" ", "_"): options for name, options in systems.items()}


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=natural_ints, default="1", help="one run of trainings each, like 1,2,3")
    parser.add_argument("--out", type=Path, required=True, help="the folder to go on in")
    parser.add_argument("--filler", default="", help="a text file, for the experiment of that name")
    parser.add_argument("--rows", type=positive_int, default=192, help="prompts a cell")
    parser.add_argument("--jobs", type=positive_int, default=2)
    parser.add_argument("--dtype", default="fp32", help="of training: fp32 or bf16")
    options = parser.parse_args()
    experiment = EXPERIMENTS[options.name]
    if experiment.filler and not options.filler:
        parser.error("this experiment needs --filler FILE")
    filler = Filler.read(options.filler) if experiment.filler else None
    difficulty = Difficulty(filler=filler, **dict(experiment.difficulty))
    options.out.mkdir(parents=True, exist_ok=True)
    check_plan(options.out / "plan.json", {"name": options.name, "rows": options.rows}, "--out")
    folders = {seed: options.out / f"seed-{seed}" for seed in options.seeds}
    work: list[Job] = []
    for seed, folder in folders.items():
        rows = (experiment.rows, experiment.kinds, experiment.sentences, difficulty, experiment.easier)
        prepare(folder, seed, experiment.fresh, *rows)
        work += jobs_of(experiment, folder, seed, options.dtype)
    live = sys.stderr.isatty()
    run_jobs(work, options.jobs, live=live)
    systems: dict[str, dict[str, Any]] = {}
    for seed, folder in folders.items():
        systems |= systems_of(experiment, folder, seed)
    trainings = {f"{job.done.parent.name}, {job.done.parent.parent.name}": job.done.parent for job in work}
    status, run = measure(
        options.out / "evaluation",
        systems,
        curve={**experiment.curve, "rows": options.rows, **({"filler": options.filler} if experiment.filler else {})},
        seed=min(folders),
        kinds=experiment.kinds,
        measures=("curve",),
        reference="plus, own update",
        title=f"Harder data: {options.name}",
        notes=training_notes(trainings),
        jobs=options.jobs,
        live=live,
    )
    print(to_text(late_table(run)), to_text(distance_table(run)), sep="\n\n")
    print(f"\n{run.folder / 'report.html'}")
    return status


if __name__ == "__main__":
    run_script(main)
