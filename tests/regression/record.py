"""Records what the package computes on tiny fixed models, to compare two states of the tree with each other.

    python tests/regression/record.py FILE             write everything to FILE
    python tests/regression/record.py --against FILE   compare with it, bit for bit; says what differs
    python tests/regression/record.py --small tests/regression/recorded.json

Logits of every backbone with and without an update (fp64), the losses of each recipe's first steps, the bytes of data
sets that are made, composed and built, and what a small evaluation and the packaged model write. Bits are equal on one
machine only: the committed record is the small one, without them, and `test_record` compares it with a tolerance.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import yaml

from prosg.checkpoints.load import demo_model
from prosg.cli import main
from support import hf_models as hf_tiny
from support import models as helpers
from support import training_folder as workshop
from support.chat_server import ChatServer

RECIPES = {
    "finetune": ("plain", "durable", "durable-load"),
    "synthesize": ("paper", "plus"),
    "static": ("static", "static-durable", "static-durable-load"),
    "state": ("state",),
}
STEPS, SMALL_STEPS = 20, 3


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, so that no recorded file holds the name of a temporary one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(*command: object) -> str:
    """What a command prints. Raises AssertionError unless it succeeds."""
    said, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(errors):
        status = main([str(part) for part in command])
    assert status == 0, f"{command}: status {status}: {errors.getvalue()}"
    return said.getvalue()


def digest(data: bytes) -> str:
    """A short hash."""
    return hashlib.sha256(data).hexdigest()[:16]


def numbers(x: torch.Tensor) -> dict[str, Any]:
    """A tensor as a hash of its bits and some of its values."""
    x = x.detach().double().contiguous()
    return {"bits": digest(x.numpy().tobytes()), "values": x.flatten()[:: max(x.numel() // 6, 1)].tolist()}


def logits() -> dict[str, Any]:
    """Of every backbone, over 9 tokens read in two calls, bare and under an update."""
    found: dict[str, Any] = {}
    prompt = helpers.tokens(2, 7, seed=3)
    answer = helpers.tokens(2, 9, seed=4)
    for name, module in helpers.SYSTEMS:
        model = helpers.live_model(name, module)
        encoded = model.encode(prompt, torch.tensor([7, 4]))
        with torch.no_grad():
            for update in (None, encoded.update):
                output = model.backbone(answer, encoded.state, update=update)
                key = f"{name} | {module} | {'bare' if update is None else 'update'}"
                found[key] = numbers(output.logits)
    for name in hf_tiny.HF_TINY:
        backbone = hf_tiny.hf_backbone(name)
        with torch.no_grad():
            found[f"{name} | bare"] = numbers(backbone(answer).logits)
    return found


def losses(steps: int) -> dict[str, Any]:
    """Of the first steps of every recipe, through the command."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, inside(Path(folder)):
        shop = workshop.make_training_folder(Path())
        for phase, recipes in RECIPES.items():
            for recipe in recipes:
                out = Path(recipe)
                shop.run(phase, out, "--recipe", recipe, "--optim.steps", steps, "--validation", shop.validation)
                found[recipe] = workshop.losses(out)
    return found


def sets(shared: Path | None) -> dict[str, Any]:
    """Hashes of the files of a made and a built data set, and of one composed of Self-Instruct's tasks in `shared`."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, inside(Path(folder)):
        run("data", "make", "made.jsonl", "--size", 60, "--kinds", "code", "names", "ending", "reverse", "pairs")
        run("data", "make", "hard.jsonl", "--size", 20, "--kinds", "code", "--turns", 1, 2, "--distractors", 10, 40)
        if shared is not None:
            Path("tasks.jsonl").write_bytes((shared / "self-instruct" / "seed_tasks.jsonl").read_bytes())
            run("data", "compose", "tasks.jsonl", "--size", 100, "--seed", 5, "--out", "composed")
        with ChatServer(patience=5.0, timeouts=0.0) as server:
            server.start()
            build(server.url)
            server.shutdown()
        for path in sorted(Path().rglob("*")):
            if path.is_file() and (path.parts[0] in ("made.jsonl", "hard.jsonl", "composed") or "export" in path.parts):
                found[str(path)] = digest(path.read_bytes())
    return found


def build(url: str) -> None:
    """A small data set built with a chat model."""
    os.environ["MUSI_KEY"] = "sk-a-key"
    content = {
        "out": "built",
        "endpoint": {
            "base_url": url,
            "model": "mock",
            "api_key_env": "MUSI_KEY",
            "timeout": 5.0,
            "backoff": 0.02,
            "concurrency": 4,
        },
        "budget": {"requests": 5000, "tokens": 5_000_000},
        "prompts": {"count": 20},
        "export": {"licence": "CC-BY-4.0"},
    }
    Path("build.yaml").write_text(yaml.safe_dump(content))
    run("data", "build", "build.yaml")
    # The port is another one every time; all else of the data card stays.
    for card in Path("built/export").glob("*.md"):
        card.write_text(card.read_text().replace(url, "URL"))


def packaged(rows: int, sentences: tuple[int, ...]) -> dict[str, Any]:
    """What the packaged model writes at several distances under every condition: hashes of answers, and scores."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, inside(Path(folder)):
        wanted = ("--updates", "own,other,mean,none,wiped", "--rows", rows, "--sentences", *sentences)
        run("curve", "demo", *wanted, "--system", "plus", "--out", "curve.json")
        content = json.loads(Path("curve.json").read_text())
        for answer in content["answers"]:
            length = f"controlled {answer['sentences']}" if answer["measure"] == "curve" else "free"
            written = f"{digest(answer['text'].encode())} {answer.get('distance_tokens', '')}".strip()
            found.setdefault(f"{answer['update']} {answer['state']} {length}", {})[answer["id"]] = written
        scores = {}
        for row in content["rows"]:
            length = f"controlled {row['sentences']}" if row["measure"] == "curve" else "free"
            values = [row["accuracy"], row["late_accuracy"], *row["late_interval"], row.get("perplexity")]
            scores[f"{row['update']} {row['state']} {length} {row['kind']}"] = values
        found["scores"] = scores
    return found


def evaluation() -> dict[str, Any]:
    """Answers, likelihoods and late stages of a small evaluation."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, inside(Path(folder)):
        base = str(demo_model().parent / "base")
        content = {
            "out": "out",
            "batch_size": 4,
            "systems": {
                "phase1": base,
                "plus": "demo",
                "other": {"model": "demo", "update": "other"},
                "wiped": {"model": "demo", "state": "wiped"},
                "again": {"model": base, "replay_every": 16},
            },
            "measures": ["accuracy", "perplexity", "curve", "capacity"],
            "data": {"rows": 9, "sentences": [1, 2]},
            "generation": {"max_tokens": 60},
            "curve": {"rows": 6, "sentences": [2, 5]},
            "capacity": {"items": [4, 6], "rows": 3, "sentences": 2},
        }
        Path("eval.yaml").write_text(yaml.safe_dump(content))
        run("eval", "eval.yaml", "--plain", "--jobs", 1)
        for name in content["systems"]:
            answers = Path(f"out/answers/{name}.jsonl").read_bytes()
            found[f"{name} answers"] = digest(answers)
            for measure in ("perplexity", "curve", "capacity"):
                part = json.loads(Path(f"out/parts/{name}/{measure}.json").read_text())["result"]
                found[f"{name} {measure}"] = part if measure == "perplexity" else digest(json.dumps(part).encode())
    return found


def record(shared: Path) -> dict[str, Any]:
    """Everything."""
    return {
        "logits": logits(),
        "losses": losses(STEPS),
        "packaged": packaged(24, (5, 60)),
        "evaluation": evaluation(),
        "sets": sets(shared),
    }


def small_record() -> dict[str, Any]:
    """What takes seconds, without bits, and without what follows from samples: equal up to rounding anywhere."""
    return {
        "logits": {name: values["values"] for name, values in logits().items()},
        "losses": losses(SMALL_STEPS),
        "sets": sets(None),
    }


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Where two records differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() | theirs.keys():
            if key not in ours or key not in theirs:
                yield f"{where}/{key}: only {'before' if key in theirs else 'now'}"
            else:
                yield from differences(ours[key], theirs[key], f"{where}/{key}")
    elif ours != theirs:
        yield f"{where}: {str(theirs)[:80]} -> {str(ours)[:80]}"


def command_line() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="the JSON file to write")
    parser.add_argument("--against", type=Path, help="a record to compare with")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--small", action="store_true", help="the small record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(json.dumps(small_record() if options.small else record(options.shared)))
    if options.file is not None:
        options.file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if options.against is None:
        return 0
    said = sorted(differences(found, json.loads(options.against.read_text())))
    print("\n".join(said) or "all equal")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(command_line())
