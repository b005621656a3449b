"""Real sizes on this machine: time and peak resident memory of what a user does first with a checkpoint.

    python benchmarks/real_sizes.py [--out FILE] [--sizes 169M 1.5B] [--versions rwkv4 rwkv7] [--actions ...]

Random bf16 `.pth` files of the published shapes are made in a folder that is removed afterwards, block by block, so
that making one takes no memory either. Every figure comes from a process of its own; its memory is the largest resident
set that the system saw, mapped pages of the file included. `plus` has fresh weights: they cost what trained ones do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import commit, training_step, write_rows

from prosg.backbones import BACKBONES
from prosg.checkpoints.backbone import load_backbone
from prosg.cli.scripts import ScriptParser, file_to_read, positive_int, rows_before, run_script
from prosg.model.config import PRESETS
from prosg.model.prosg import ProSG
from prosg.utils.environment import processor
from prosg.utils.spelling import check_known

SIZES = {
    "169M": {"rwkv4": "169M", "rwkv7": "0.1B"},
    "1.5B": {"rwkv4": "1.5B", "rwkv7": "1.5B"},
    "7B": {"rwkv4": "7B", "rwkv7": "7.2B"},
}
ACTIONS = {
    "169M": [
        *("load", "encode 512", "encode 4096", "generate", "phase 1 fp32", "phase 1 bf16", "phase 2 fp32"),
        *("phase 2 bf16", "phase 1 fp32 checkpointing", "phase 2 fp32 4096"),
    ],
    "1.5B": ["load", "encode 512", "generate"],
    "7B": ["load", "generate"],
}
BATCH, TOKENS, NEW = 4, 256, 16


def make(path: Path, version: str, size: str) -> None:
    """A checkpoint with fresh weights: a file with room for them, which is then filled through a mapping."""
    kind = BACKBONES[version]
    config = kind.sizes[SIZES[size][version]]
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in kind.model(config).state_dict().items()}
    with torch.serialization.skip_data():  # memory that is never written to takes none
        torch.save({name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, path)
    with torch.serialization.set_default_mmap_options(torch.serialization.MAP_SHARED):
        tensors = torch.load(path, mmap=True, weights_only=True)
    with torch.device("meta"):
        model = kind.model(config)
    model.load_state_dict(tensors, assign=True)
    model.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.LayerNorm | torch.nn.GroupNorm)):
            norm.weight.fill_(1.0)
            norm.bias.zero_()


def training(model: ProSG, phase: str, dtype: str, prompt: int) -> float:
    """Seconds of a step, the second one: the first also sets things up. One row where the prompt is long."""
    model.backbone.float()
    model.backbone.requires_grad_(phase == "1")
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), fused=True)
    batch = BATCH if prompt < TOKENS else 1
    tokens = torch.randint(1, 50000, (batch, prompt + TOKENS // 2))
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        training_step(model, optimiser, tokens[:, :prompt], tokens[:, prompt:], autocast=dtype == "bf16")
        seconds = time.perf_counter() - start
    return seconds


def act(path: Path, action: str) -> dict[str, Any]:
    """One measurement, in a process of its own: seconds, and what they were for."""
    name, *details = action.split()
    start = time.perf_counter()
    backbone = load_backbone(path)
    note: dict[str, Any] = {"dtype": "bf16", "batch": 1, "tokens": 0}
    if name == "load":
        note["seconds"] = time.perf_counter() - start
        return note
    model = ProSG(backbone, None if action.startswith("phase 1") else PRESETS["plus"], seed=0)
    if name == "phase":
        if details[-1] == "checkpointing":
            model.activation_checkpointing_enable()
        prompt = 4096 if details[-1] == "4096" else TOKENS // 2
        seconds = training(model, details[0], details[1], prompt)
        return {
            "dtype": details[1],
            "batch": BATCH if prompt < TOKENS else 1,
            "tokens": prompt + TOKENS // 2,
            "seconds": seconds,
        }
    model.eval()
    prompt = torch.randint(1, 50000, (1, int(details[0]) if details else 32))
    start = time.perf_counter()
    encoded = model.encode(prompt)
    if name == "encode":
        return note | {"tokens": prompt.shape[1], "seconds": time.perf_counter() - start}
    state, token = encoded.state, encoded.logits.argmax(1, keepdim=True)
    start = time.perf_counter()
    with torch.no_grad():
        for _ in range(NEW):
            output = backbone(token, state, update=encoded.update)
            state, token = output.state, output.logits[:, -1].argmax(1, keepdim=True)
    return note | {"tokens": NEW, "seconds": time.perf_counter() - start}


def peak() -> int:
    """Largest resident set of this process, bytes. `getrusage` would start from that of the process that began it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def measure(path: Path, system: str, action: str, threads: int) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--act", action, "--folder", str(path), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{system:16}{action:28} failed with status {done.returncode}\n{done.stderr[-500:]}", flush=True)
        return []
    found = json.loads(done.stdout.splitlines()[-1])
    seconds, most = found.pop("seconds"), found.pop("peak")
    size = path.stat().st_size
    print(f"{system:16}{action:28}{seconds:9.2f} s {most / 1e9:8.2f} GB {most / size:6.2f} of the file", flush=True)
    same = {"system": system, "threads": threads, **found}
    return [
        {"quantity": f"{action}, seconds", "value": round(seconds, 3), "unit": "s"} | same,
        {"quantity": f"{action}, peak resident memory", "value": round(most / 1e9, 3), "unit": "GB"} | same,
        {"quantity": f"{action}, peak over the file's size", "value": round(most / size, 3), "unit": ""} | same,
    ]


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_out("JSON file for the rows; those of other systems in it stay", merges=True)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["169M"])
    parser.add_argument("--versions", nargs="+", choices=["rwkv4", "rwkv7"], default=["rwkv4", "rwkv7"])
    parser.add_argument(
        "--folder", type=file_to_read, default=Path(tempfile.gettempdir()), help="where the files are made"
    )
    parser.add_argument("--threads", type=positive_int, default=2)
    parser.add_argument("--actions", nargs="+", help="by default all that fit the size")
    parser.add_argument("--act", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.act:
        torch.set_num_threads(args.threads)
        found = act(args.folder, args.act)
        print(json.dumps(found | {"peak": peak()}))
        return
    known = list(dict.fromkeys(action for some in ACTIONS.values() for action in some))
    check_known("--actions", args.actions or (), known)
    print(f"{processor()}; torch {torch.__version__}; {args.threads} threads")
    rows = rows_before(args.out)
    for size in args.sizes:
        for version in args.versions:
            system = f"{version} {size}"
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                path = Path(folder) / "random.pth"
                make(path, version, size)
                for action in args.actions or ACTIONS[size]:
                    about = {"machine": processor(), "commit": commit()}
                    new = [row | about for row in measure(path, system, action, args.threads)]
                    replaced = {(row["system"], row["quantity"]) for row in new}
                    rows = [row for row in rows if (row.get("system"), row.get("quantity")) not in replaced] + new
                    if args.out:
                        write_rows(args.out, rows)


if __name__ == "__main__":
    run_script(main)
