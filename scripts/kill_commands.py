"""Kills commands at moments of their writing, and prints how often what they write was damaged or left over.

    python scripts/kill_commands.py [--times 20] [--only NAME ...]

Every file has to be whole after each kill; after the next run of the command nothing may be left of the killed one.
`tests/integration/test_kills.py` does the same with fewer commands and kills.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import prosg.demo.measuring
import prosg.demo.plan
import prosg.evaluation.runner
from prosg.checkpoints.tensors import read_tensors
from prosg.cli import main
from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.demo.plan import Plan, run_demo
from prosg.utils.jobs import Job
from prosg.utils.leftovers import LEFTOVER
from prosg.utils.spelling import check_known
from support.commands import make_command_folder
from support.kills_at import in_child, leftovers, moments

GROWING = ("steps.jsonl",)
"""Files whose last line may be cut: whoever goes on with them cuts it off."""
PLAN = Plan(rows=6, base_steps=2, phase1_steps=2, module_steps=2, sentences=(1, 2))


def run_jobs(jobs: Sequence[Job], *_: object, **__: object) -> dict[str, str]:
    """Runs jobs in this process, so that their writing is seen."""
    failed = {}
    for job in jobs:
        if not job.done.exists() and (main(job.command) or not job.done.exists()):
            failed[job.name] = f"{job.name} failed"
    return failed


def damaged(folder: Path) -> list[Path]:
    """The files that are not whole, except in what is left over."""
    bad = []
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(LEFTOVER.fullmatch(part) or part == ".writing" for part in parts):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            elif path.suffix == ".jsonl" and path.name not in GROWING:
                for line in path.read_text("utf-8").splitlines():
                    json.loads(line)
            elif path.suffix in (".safetensors", ".pth") and "checkpoint-" not in str(path):
                read_tensors(path)
            elif path.suffix == ".yaml":
                yaml.safe_load(path.read_text("utf-8"))
        except Exception as error:
            print(f"{path}: {error}", file=sys.stderr)
            bad.append(path)
    return bad


def count_leftovers(folder: Path) -> int:
    """The number of leftovers, which are printed."""
    found = leftovers(folder)
    print(*found, sep="\n", end="\n" * bool(found), file=sys.stderr)
    return len(found)


def commands(shop: Path) -> dict[str, tuple[Callable[[], object], bool]]:
    """By name what is run, and whether it goes on where it was stopped, instead of beginning anew."""
    tasks = [json.dumps({"instruction": f"Say {word}.", "output": str(word)}) for word in range(100, 160)]
    (shop / "tasks.jsonl").write_text("\n".join(tasks))
    few = {"rows": 2, "sentences": [1, 1]}
    systems = {"one": "demo", "two": {"model": "demo", "update": "none"}}
    measured = {
        "out": "made/eval",
        "generation": {"max_tokens": 4},
        "systems": systems,
        "measures": ["curve", "accuracy"],
        "data": few,
        "curve": {"rows": 2, "sentences": [1, 2]},
    }
    (shop / "eval.yaml").write_text(yaml.safe_dump(measured))
    training = "train synthesize --model start --train train.jsonl --out made/run --progress false --save-steps 2"
    steps = " --optim.steps 8 --optim.batch-size 4"
    lines = {
        "convert": ("convert start made/model --overwrite", False),
        "convert to .pth": ("convert start made/model.pth --overwrite", False),
        "merge": ("merge run --prompt x --out made/merged --overwrite", False),
        "export": ("export run --prompt x --peft made/peft --overwrite", False),
        "data make": ("data make made/rows.jsonl --size 20 --overwrite", False),
        "compose": ("data compose tasks.jsonl --size 10 --out made/set --overwrite", False),
        "train": (training + steps, True),
        "eval": ("eval eval.yaml --plain --jobs 1", True),
    }

    def by_line(line: str) -> Callable[[], object]:
        def run() -> None:
            assert main(line.split()) == 0

        return run

    made = {name: (by_line(line), resumes) for name, (line, resumes) in lines.items()}
    return made | {"demo": (lambda: run_demo("made/demo", [1], False, 1, PLAN, live=False), True)}


def try_command(run: Callable[[], object], made: Path, times: int) -> dict[str, int]:
    """Kills a command in a folder that is new in half of the times, and has been written into in the others."""
    counts = dict.fromkeys(("kills", "damaged", "left over", "failed after"), 0)
    for kind in ("new", "written"):

        def reset(kind: str = kind) -> None:
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            if kind == "written":
                in_child(run, made)

        reset()
        for moment in moments(run, made, -(-times // 2)):
            reset()
            count(counts, run, made, moment)
    return counts


def try_resumed(run: Callable[[], object], made: Path, times: int) -> dict[str, int]:
    """Kills a command that goes on where it was stopped, again and again, at growing distances."""
    counts = dict.fromkeys(("kills", "damaged", "left over", "failed after"), 0)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    total, _ = in_child(run, made)
    shutil.rmtree(made)
    made.mkdir()
    for number in range(times):
        killed = in_child(run, made, 1 + (number * total) // times)[1] != 0
        counts["kills"] += killed
        counts["damaged"] += len(damaged(made))
        if not killed:  # it was done before the moment came
            counts["left over"] += count_leftovers(made)
            shutil.rmtree(made)
            made.mkdir()
    in_child(run, made)
    counts["damaged"] += len(damaged(made))
    counts["left over"] += count_leftovers(made)
    return counts


def count(counts: dict[str, int], run: Callable[[], object], made: Path, moment: int) -> None:
    """Kills once, runs again, and adds up what was found."""
    counts["kills"] += in_child(run, made, moment)[1] != 0
    counts["damaged"] += len(damaged(made))
    try:
        in_child(run, made)
    except AssertionError:
        counts["failed after"] += 1
    counts["damaged"] += len(damaged(made))
    counts["left over"] += count_leftovers(made)


def all_commands(times: int, only: Sequence[str]) -> bool:
    """Tries every command; prints a line for each. Returns whether nothing was wrong."""
    well = True
    for module in (prosg.evaluation.runner, prosg.demo.plan):
        module.run_jobs = run_jobs  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder)
        make_command_folder(shop)
        os.chdir(shop)
        known = commands(shop)
        check_known("--only", only, known)
        for name, (run, resumes) in known.items():
            if only and name not in only:
                continue
            start = time.perf_counter()
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                counts = (try_resumed if resumes else try_command)(run, shop / "made", times)
            found = ", ".join(f"{what} {number}" for what, number in counts.items())
            print(f"{name:<16}{found}  ({time.perf_counter() - start:.0f} s)", flush=True)
            well &= not (counts["damaged"] or counts["left over"] or counts["failed after"])
    return well


if __name__ == "__main__":
    parser = ScriptParser(__doc__)
    parser.add_argument("--times", type=positive_int, default=20, help="kills of each command")
    parser.add_argument("--only", nargs="+", default=[], help="names of commands")
    options = parser.parse_args()
    run_script(lambda: 0 if all_commands(options.times, options.only) else 1)
