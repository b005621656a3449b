"""The anchor on small models that know nothing of it: windows chosen on validation rows, then the test split.

    python experiments/anchor.py --backbone rwkv7 --seeds 1,2,3 --out runs/anchor

Phase 1 of the demo is trained for each seed (folders OUT/BACKBONE-SEED). On the first seed's validation rows a window
and an age are chosen among `WINDOWS` x `AGES`; then every seed is measured on test rows: without an anchor, with the
prompt's own, another prompt's and the mean one, and last far out. OUT/BACKBONE-evaluation has the report,
OUT/BACKBONE-story.json what the anchor does to the likelihood of a story. Killed and started again, it goes on.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prosg.checkpoints.load import load_model
from prosg.cli.scripts import ScriptParser, natural_int, natural_ints, positive_int, run_script
from prosg.core.encoded import Memory
from prosg.core.tensors import pad
from prosg.data.synthetic import DEMO_KINDS, check_kinds, make_rows
from prosg.demo.measuring import measure, system
from prosg.demo.models import DEMO_MODELS
from prosg.demo.trainings import phase1_jobs, prepare
from prosg.evaluation.report.curves import distance_table, late_table
from prosg.model.prosg import ProSG
from prosg.utils.io import write_json
from prosg.utils.jobs import run_jobs
from prosg.utils.tables import to_text

WINDOWS = {
    "rwkv4": (20.0, 50.0, 100.0, 200.0),
    "rwkv7": (20.0, 50.0, 100.0, 200.0),
    "retnet": (10.0, 20.0, 50.0),
    "mamba": (20.0, 50.0, 100.0),
}
AGES = {"rwkv4": (0.0, 15.0, 30.0), "rwkv7": (0.0,), "retnet": (0.0, 15.0, 30.0), "mamba": (0.0,)}
CHOICE_ROWS = 48
STORY_TOKENS, STORY_ROWS, SHORT_ROWS = 10_000, 16, 512


def story_nll(model: ProSG, memory: Memory, tau: float, age: float, seed: int) -> dict[str, float]:
    """Nats per token of given stories: `SHORT_ROWS` in range, and the last 1,000 of `STORY_TOKENS`."""
    tokenizer = model.tokenizer
    assert tokenizer is not None

    def nats(count: int, sentences: int, last: int) -> float:
        rows = make_rows(DEMO_KINDS, count, seed, "test", sentences=(sentences, sentences))
        stories = [tokenizer.encode(row.answer[: row.stages[1].start])[:STORY_TOKENS] for row in rows]
        encoded = model.encode([row.prompt for row in rows], memory="none")
        if memory == "anchor":
            encoded = model.anchored(encoded, tau, age)
        lengths = torch.tensor([len(story) for story in stories])
        nll = model.score(encoded, pad(stories), lengths).nll
        places = torch.arange(nll.shape[1])
        chosen = (places < lengths.unsqueeze(1)) & (places >= (lengths - last).unsqueeze(1)) & (places > 0)
        return (nll * chosen).sum().item() / chosen.sum().item()

    return {"in_range": nats(SHORT_ROWS, 5, STORY_TOKENS), "far": nats(STORY_ROWS, 1250, 1000)}


def anchored(folder: Path, seed: int, label: str, tau: float, age: float, **options: Any) -> dict[str, Any]:
    """The options of an anchored system."""
    return system(folder / "phase1", seed, label, memory="anchor", tau=float(tau), age=float(age), **options)


def choose(
    out: Path,
    name: str,
    folder: Path,
    seed: int,
    backbone: str,
    kinds: Sequence[str],
    sentences: Sequence[int],
    jobs: int,
) -> tuple[float, float]:
    """Window and age that are best on validation rows, mean over the lengths; of equal ones the longest window."""
    grid = [*itertools.product(WINDOWS[backbone], AGES[backbone])]
    if backbone == "rwkv4":
        grid += [(math.inf, age) for age in AGES[backbone]]
    names = {f"tau-{tau:g}-age-{age:g}": (tau, age) for tau, age in grid}
    systems = {one: anchored(folder, seed, one, *how) for one, how in names.items()}
    _, run = measure(
        out / f"{name}-choice",
        {"none": system(folder / "phase1", seed, "phase 1", memory="none"), **systems},
        curve={"rows": CHOICE_ROWS, "sentences": sentences},
        seed=seed,
        split="validation",
        kinds=kinds,
        measures=("curve",),
        title=f"Windows and ages of the anchor, {backbone}",
        jobs=jobs,
        live=False,
    )
    scores, by_kind = {}, {}
    for result in run.systems:
        by_kind[result.name] = {
            kind: [sum(late.values()) / len(late) for late in (result.late_at(place, kind) for place in result.places)]
            for kind in kinds
        }
        shares = [sum(late.values()) / len(late) for late in map(result.late_at, result.places)]
        scores[result.name] = sum(shares) / len(shares)
    print(to_text(late_table(run, brief=True)))
    best = max(names, key=lambda one: (round(scores[one], 2), names[one][0]))
    content = {"late_accuracy": scores, "by_kind": by_kind, "sentences": sentences, "chosen": best}
    write_json(out / f"{name}-choice.json", content)
    return names[best]


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("--backbone", choices=WINDOWS, required=True)
    parser.add_argument("--seeds", type=natural_ints, default="1", help="like 1,2,3")
    parser.add_argument("--kinds", default=",".join(DEMO_KINDS))
    parser.add_argument(
        "--choice", type=natural_ints, default="5,60,125", help="lengths of stories by which window and age are chosen"
    )
    parser.add_argument("--choice-only", action="store_true", help="end there: a table by window, length and kind")
    parser.add_argument("--tag", default="", help="added to the folders' names, for other kinds")
    parser.add_argument(
        "--sentences", type=natural_ints, default="5,125", help="lengths of stories, with every control"
    )
    parser.add_argument(
        "--far",
        type=natural_ints,
        default="1100",
        help="a further one: every seed's own anchor, the first's other and mean",
    )
    parser.add_argument("--farthest", type=natural_ints, default="7100", help="a last one: own anchors alone")
    parser.add_argument("--rows", type=positive_int, default=48, help="prompts a cell")
    parser.add_argument("--far-rows", type=positive_int, default=24)
    parser.add_argument("--farthest-seeds", type=natural_int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=positive_int, default=1)
    options = parser.parse_args()
    backbone, out = options.backbone, options.out
    kinds = check_kinds("--kinds", options.kinds.split(","))
    demo = DEMO_MODELS[backbone]
    name = f"{backbone}{options.tag}"
    seeds = options.seeds
    folders = {seed: out / f"{name}-{seed}" for seed in seeds}
    work = []
    for seed, folder in folders.items():
        prepare(folder, seed, demo.fresh, 32 * demo.phase1_steps // 2, kinds)
        work += phase1_jobs(folder, seed, "fp32", 300, demo.phase1_steps)
    run_jobs(work, options.jobs, live=False)
    tau, age = choose(out, name, folders[seeds[0]], seeds[0], backbone, kinds, options.choice, options.jobs)
    if options.choice_only:
        return 0
    story = {}
    for seed, folder in folders.items():
        model = load_model(folder / "phase1" / "model")
        story[str(seed)] = {memory: story_nll(model, memory, tau, age, seed) for memory in ("none", "anchor")}
    write_json(out / f"{name}-story.json", {"tau": tau, "age": age, "nats_per_token": story})
    print(json.dumps(story, indent=1))
    systems: dict[str, dict[str, Any]] = {}
    for seed, folder in folders.items():
        systems[f"phase1-{seed}"] = system(folder / "phase1", seed, "phase 1", memory="none")
        for whose, label in (("own", "own"), ("other", "another prompt's"), ("mean", "the mean")):
            systems[f"anchor-{whose}-{seed}"] = anchored(folder, seed, f"anchor, {label}", tau, age, update=whose)
    own = {name: options for name, options in systems.items() if name.startswith("anchor-own")}
    far = own | {name: options for name, options in systems.items() if name.endswith(f"-{seeds[0]}")}
    last = dict([*own.items()][: options.farthest_seeds])
    title = f"The anchor, {backbone}, window {tau:g}, age {age:g}"
    for part, some, sentences, rows in (
        ("evaluation", systems, options.sentences, options.rows),
        ("far", far, options.far, options.far_rows),
        ("farthest", last, options.farthest, options.far_rows),
    ):
        if not sentences:
            continue
        _, run = measure(
            out / f"{name}-{part}",
            some,
            curve={"rows": rows, "sentences": sentences},
            seed=seeds[0],
            kinds=kinds,
            measures=("curve",),
            reference="anchor, own",
            title=title,
            jobs=options.jobs,
            live=False,
        )
        print(to_text(late_table(run)), to_text(distance_table(run)), sep="\n\n")
    return 0


if __name__ == "__main__":
    run_script(main)
