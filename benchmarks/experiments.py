"""Experiments beyond the demo: other fillers, longer prompts, more digits, turns in between, other sizes.

    python benchmarks/experiments.py filler --seeds 1,2,3 --filler valid.txt --out runs/filler

Each makes rows of its setting, trains base and phase 1 on them, then `plus` on the frozen backbone and, as the rival,
phase 1 continued against perturbed states (durable fine-tuning, the rate of the demo); then measures all on the test
split. Every step is a public command with files before and after it: killed and started again, it goes on. Prints a
table and writes it to OUT/table.md, with the rows of results in OUT/results.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoint import save_backbone
from prosg.data.kinds import DEMO_KINDS, Filler, Setting, make_rows
from prosg.data.record import write_rows
from prosg.demo import common, measuring, training
from prosg.evaluation.findings import amount
from prosg.evaluation.tables import Table, to_markdown
from prosg.jobs import Job, check_plan, run_jobs
from prosg.machine import commit, processor
from prosg.tokenizer import train_bpe

ROWS = 24_000


@dataclass(frozen=True)
class Experiment:
    """One setting.

    Attributes:
        kinds: Kinds of instruction.
        sentences: Sentences of the stories that are trained on.
        setting: Ranges of `Setting` in training: distractors (words), turns, items.
        filler: Whether stories are running text.
        measure: Options of `prosg curve`, which say what varies.
        width, layers: Of the backbone.
        durable: Recipe of the rival.
        phase1_steps, plus_steps, durable_steps: At most; the rival's as many as cost plus's seconds.
    """

    measure: tuple[str, ...]
    kinds: tuple[str, ...] = DEMO_KINDS
    sentences: tuple[int, int] = (1, 5)
    setting: tuple[tuple[str, tuple[int, int]], ...] = ()
    filler: bool = False
    backbone: str = "rwkv4"
    width: int = 96
    layers: int = 3
    durable: str = "durable"
    phase1_steps: int = 2500
    plus_steps: int = 1000
    durable_steps: int = 1100


LONG = (("distractors", (0, 400)),)
FAR = ("--prompt-tokens", "60", "500", "1000", "2000", "--sentences", "5")
DIGITS = ("--kinds", "code", "--items", "4", "6", "8", "10", "12", "14", "16", "--sentences", "60")
EXPERIMENTS = {
    "filler": Experiment(("--sentences", "1", "9", "18", "36"), sentences=(1, 1), filler=True),
    "prompts": Experiment(FAR, setting=LONG),
    "prompts-rwkv7": Experiment(FAR, setting=LONG, backbone="rwkv7", durable="durable-load"),
    "digits": Experiment(DIGITS, kinds=("code",), setting=(("items", (4, 16)),)),
    "turns": Experiment(
        ("--kinds", "code", "--turns", "1", "2", "4", "8", "--sentences", "5"),
        kinds=("code",),
        setting=(("turns", (0, 1)),),
    ),
    "small": Experiment((), width=64, layers=2),
    "large": Experiment((), width=128, layers=4),
}


def fresh(experiment: Experiment, seed: int) -> RWKV4 | RWKV7:
    width, layers = experiment.width, experiment.layers
    if experiment.backbone == "rwkv7":
        model: RWKV4 | RWKV7 = RWKV7(RWKV7Config(vocab_size=1024, hidden_size=width, num_layers=layers, head_size=32))
    else:
        model = RWKV4(RWKV4Config(vocab_size=1024, hidden_size=width, num_layers=layers))
    model.reset_parameters(torch.Generator().manual_seed(seed))
    return model


def prepare(experiment: Experiment, folder: Path, seed: int, filler: Filler | None) -> None:
    """Rows, tokenizer and random weights of one seed, unless they are there."""
    data, start = folder / "data", folder / "start"
    if (start / "config.json").exists():
        return
    data.mkdir(parents=True, exist_ok=True)
    setting = Setting(filler=filler, **dict(experiment.setting))
    bare = Setting(**{name: value for name, value in experiment.setting if name == "items"})
    kinds, sentences = experiment.kinds, experiment.sentences
    rows = make_rows(kinds, ROWS, seed, "train", sentences=sentences, setting=setting)
    single = make_rows(kinds, ROWS // 5, seed, "train", sentences=(0, 0), setting=bare)
    plain = make_rows(("story",), ROWS // 25, seed, "train")
    write_rows(data / "base.jsonl", [*single, *plain])
    write_rows(data / "train.jsonl", [*rows, *single[: ROWS // 10]])
    write_rows(
        data / "validation.jsonl", make_rows(kinds, 192, seed, "validation", sentences=sentences, setting=setting)
    )
    tokenizer = train_bpe([text for row in rows[:4000] for text in (row.prompt, row.answer)])
    save_backbone(fresh(experiment, seed), start, tokenizer=tokenizer.save(data))


def jobs_of(experiment: Experiment, folder: Path, seed: int, rows: int, filler: str, dtype: str) -> list[Job]:
    shared = common(seed, dtype)
    scratch = ("--optim.lr", "3e-3")
    until = ("--stop.times", "2", "--stop.value", "0.985", "--eval_steps", "100")

    def steps(count: int) -> tuple[str, ...]:
        return ("--optim.steps", str(count))

    phase1 = (*shared, *scratch, *until, *steps(experiment.phase1_steps))
    plus = (*shared, "--recipe", "plus", *steps(experiment.plus_steps), "--eval_steps", "250")
    durable = (*shared, "--recipe", experiment.durable, "--optim.lr", "3e-3", "--optim.late_weight", "3")
    durable = (*durable, *steps(experiment.durable_steps), "--eval_steps", "400")
    measure = ("--rows", str(rows), "--no-free", *experiment.measure)
    if "--kinds" not in experiment.measure:
        measure += ("--kinds", *experiment.kinds)
    if experiment.filler:
        measure += ("--filler", filler)
    controls = ("--updates", "own,other,mean,wiped")
    return [
        training("base", "finetune", folder, "start", "base.jsonl", 20, *shared, *scratch, *steps(300)),
        training("phase1", "finetune", folder, "base/model", "train.jsonl", 110, *phase1),
        training("plus", "synthesize", folder, "phase1/model", "train.jsonl", 110, *plus),
        training("phase1_perturbed", "finetune", folder, "phase1/model", "train.jsonl", 110, *durable),
        measuring("phase1", folder, "phase1", "phase1", seed, 20, *measure),
        measuring("plus", folder, "plus", "plus", seed, 80, *measure, *controls),
        measuring("phase1_perturbed", folder, "phase1_perturbed", "phase1_perturbed", seed, 20, *measure),
    ]


CONDITIONS = {
    ("phase1", "none", "kept"): "phase 1",
    ("plus", "own", "kept"): "plus, own update",
    ("plus", "other", "kept"): "plus, another prompt's",
    ("plus", "mean", "kept"): "plus, the mean update",
    ("plus", "own", "wiped"): "plus, own, state wiped",
    ("phase1_perturbed", "none", "kept"): "phase 1 continued, perturbed",
}


def table_of(found: list[dict[str, object]]) -> Table:
    """Late accuracy, a seed beside the other, under each setting."""
    varied = next((key for key in ("prompt_tokens", "items", "turns") if any(key in row for row in found)), "")

    def place(row: dict[str, object]) -> tuple[int, ...]:
        return (int(str(row.get(varied, 0))), int(str(row["sentences"])))

    places = sorted({place(row) for row in found})
    seeds = sorted({int(str(row["seed"])) for row in found})

    def head(at: tuple[int, ...]) -> str:
        here = [int(str(row["distance_tokens"])) for row in found if place(row) == at]
        distance = f"{round(sum(here) / len(here)):,} tokens on"
        return distance if not varied else f"{varied.replace('_', ' ')} {at[0]:,}, {distance}"

    table: Table = [[f"late accuracy, seeds {'/'.join(map(str, seeds))}", *map(head, places)]]
    for (system, update, state), name in CONDITIONS.items():
        cells = []
        for at in places:
            values = [
                amount(float(str(row["late_accuracy"])))
                for seed in seeds
                for row in found
                if (row["system"], row["update"], row["state"]) == (system, update, state)
                and (place(row), row["seed"]) == (at, seed)
            ]
            cells.append("/".join(values) or "-")
        if set(cells) != {"-"}:
            table.append([name, *cells])
    return table


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
    filler = Filler.read(options.filler) if experiment.filler else None
    options.out.mkdir(parents=True, exist_ok=True)
    check_plan(options.out / "plan.json", {"name": options.name, "rows": options.rows}, "--out")
    folders = {int(seed): options.out / f"seed-{seed}" for seed in options.seeds.split(",")}
    work = []
    for seed, folder in folders.items():
        prepare(experiment, folder, seed, filler)
        work += jobs_of(experiment, folder, seed, options.rows, options.filler, options.dtype)
    run_jobs(work, options.jobs, live=sys.stderr.isatty())
    found = [
        row
        for folder in folders.values()
        for path in sorted((folder / "curves").glob("*.json"))
        for row in json.loads(path.read_text())["rows"]
        if row["kind"] == "all"
    ]
    table = to_markdown(table_of(found))
    about = f"{options.name}: {options.rows} prompts a cell, test split; {processor()}; commit {commit()}"
    (options.out / "table.md").write_text(f"{table}\n\n{about}\n")
    (options.out / "results.json").write_text(json.dumps({"about": about, "rows": found}, indent=1))
    print(f"{table}\n\n{about}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
