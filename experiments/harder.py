"""Experiments beyond the demo: other fillers, longer prompts, more digits, turns in between, other sizes.

    python experiments/harder.py filler --seeds 1,2,3 --filler valid.txt --out runs/filler

Each makes rows of its setting, trains base and phase 1 on them, then `plus` on the frozen backbone and, as the rival,
phase 1 continued against perturbed states (durable fine-tuning, the rate of the demo); then measures all on the test
split. Every step is a public command with files before and after it: killed and started again, it goes on. Prints
tables and writes them to OUT/tables.md, with the rows of results in OUT/results.json.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from curves import curves_of, differences_of, table_of
from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.data.synthetic import DEMO_KINDS, Filler, Setting
from prosg.demo.plan import common, measuring, phase1_jobs, prepare, runs, steps, training
from prosg.utils.environment import commit, processor
from prosg.utils.io import write_json, write_lines
from prosg.utils.jobs import Job, check_plan, run_jobs
from prosg.utils.tables import to_markdown

ROWS = 24_000
BASE_STEPS = 300


@dataclass(frozen=True)
class Experiment:
    """One setting.

    Attributes:
        measure: Options of `prosg curve`, which say what varies.
        kinds: Kinds of instruction.
        sentences: Sentences of the stories that are trained on.
        setting: Ranges of `Setting` in training: distractors (words), turns, items.
        filler: Whether stories are running text.
        easier: So many rows of the demo's come on top: recall is learned on them sooner.
        window: `plus` is measured in windows of so many tokens of the prompt, too; 0: it is not.
        wide: A second `plus` of this rank is trained and measured, too; 0: none.
        backbone, width, layers: Of the model.
        durable: Recipe of the rival.
        late_weight: Of the last stage's tokens in phase 1.
        phase1_steps, plus_steps, durable_steps: At most; the rival's as many as cost plus's seconds.
    """

    measure: tuple[str, ...]
    kinds: tuple[str, ...] = DEMO_KINDS
    sentences: tuple[int, int] = (1, 5)
    setting: tuple[tuple[str, tuple[int, int]], ...] = ()
    filler: bool = False
    easier: int = 0
    window: int = 0
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
FAR = ("--prompt-tokens", "60", "500", "1000", "2000", "--sentences", "5")
DIGITS = ("--items", "4", "6", "8", "10", "12", "14", "16", "--sentences", "60")
EXPERIMENTS = {
    "filler": Experiment(
        ("--sentences", "1", "12", "24", "46"),
        sentences=(1, 1),
        filler=True,
        easier=ROWS // 2,
        late_weight=3.0,  # a text that cannot be learned takes most of the loss
        phase1_steps=3000,
    ),
    "prompts": Experiment(FAR, setting=LONG, easier=ROWS // 4, window=250),
    "prompts-rwkv7": Experiment(
        FAR, setting=LONG, easier=ROWS // 4, window=250, backbone="rwkv7", durable="durable-load"
    ),
    "digits": Experiment(DIGITS, kinds=("code",), setting=(("items", (4, 16)),), wide=32),
    "turns": Experiment(
        ("--turns", "1", "2", "4", "8", "--sentences", "5"), kinds=("code",), setting=(("turns", (0, 1)),)
    ),
    "small": Experiment((), width=64, layers=2),
    "large": Experiment((), width=128, layers=4),
}


def jobs_of(experiment: Experiment, folder: Path, seed: int, rows: int, filler: str, dtype: str) -> list[Job]:
    """Trainings and curves of one seed, from its data."""
    shared = common(seed, dtype)
    weight = ("--optim.late_weight", str(experiment.late_weight))
    plus = (*shared, "--recipe", "plus", *steps(experiment.plus_steps), "--eval_steps", "250")
    durable = (*shared, "--recipe", experiment.durable, "--optim.lr", "3e-3", "--optim.late_weight", "3")
    durable = (*durable, *steps(experiment.durable_steps), "--eval_steps", "400")
    measure = ("--rows", str(rows), "--no-free", "--kinds", *experiment.kinds, *experiment.measure)
    if experiment.filler:
        measure += ("--filler", filler)
    jobs = [
        *phase1_jobs(folder, seed, dtype, BASE_STEPS, experiment.phase1_steps, *weight),
        training("plus", "synthesize", folder, "phase1/model", "train.jsonl", 110, *plus),
        training("phase1_perturbed", "finetune", folder, "phase1/model", "train.jsonl", 110, *durable),
        measuring("phase1", folder, "phase1", "phase1", seed, 20, *measure),
        measuring("plus", folder, "plus", "plus", seed, 80, *measure, "--updates", "own,other,mean,wiped"),
        measuring("phase1_perturbed", folder, "phase1_perturbed", "phase1_perturbed", seed, 20, *measure),
    ]
    if experiment.wide:
        wide = (*plus, "--module.rank", str(experiment.wide))
        jobs += [
            training("plus_wide", "synthesize", folder, "phase1/model", "train.jsonl", 140, *wide),
            measuring("plus_wide", folder, "plus_wide", "plus_wide", seed, 40, *measure, "--updates", "own,wiped"),
        ]
    if experiment.window:
        windows = ("--window", str(experiment.window), "--updates", "own,wiped")
        jobs.append(measuring("plus_windows", folder, "plus", "plus_windows", seed, 40, *measure, *windows))
    return jobs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--seeds", default="1", help="one run each, like 1,2,3")
    parser.add_argument("--out", type=Path, required=True, help="the folder to go on in")
    parser.add_argument("--filler", default="", help="a text file, for the experiment of that name")
    parser.add_argument("--rows", type=int, default=192, help="prompts a cell")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--dtype", default="fp32", help="of training: fp32 or bf16")
    options = parser.parse_args()
    experiment = EXPERIMENTS[options.name]
    if experiment.filler and not options.filler:
        parser.error("this experiment needs --filler FILE")
    setting = Setting(filler=Filler.read(options.filler) if experiment.filler else None, **dict(experiment.setting))
    options.out.mkdir(parents=True, exist_ok=True)
    check_plan(options.out / "plan.json", {"name": options.name, "rows": options.rows}, "--out")
    folders = {int(seed): options.out / f"seed-{seed}" for seed in options.seeds.split(",")}
    work = []
    for seed, folder in folders.items():
        rows = (ROWS, experiment.kinds, experiment.sentences, setting, experiment.easier)
        prepare(folder, seed, experiment.fresh, *rows)
        work += jobs_of(experiment, folder, seed, options.rows, options.filler, options.dtype)
    run_jobs(work, options.jobs, live=sys.stderr.isatty())
    curves = curves_of(list(folders.values()))
    about = {
        "command": shlex.join(["python", "experiments/harder.py", *sys.argv[1:]]),
        "machine": f"{processor()}, {os.cpu_count()} cores, {options.jobs} jobs of one thread side by side",
        "dtype": options.dtype,
        "commit": commit(),
        "runs": {str(seed): runs(folder) for seed, folder in folders.items()},
    }
    write_json(options.out / "results.json", {"about": about, "rows": [row for curve in curves for row in curve.rows]})
    text = f"{to_markdown(table_of(curves))}\n\n{to_markdown(differences_of(curves))}"
    write_lines(options.out / "tables.md", [text])
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
