"""Speed and memory on a GPU: a training step of each phase, reading a prompt, and writing with and without updates.

    python benchmarks/gpu.py [--out FILE] [--device cuda|cpu] [--shape 0.4B|tiny] [--versions rwkv4 rwkv7]
        [--parts writing reading training] [--kernels auto torch] [--limit SECONDS] [--budget SECONDS]

Random weights of the published shapes. Every part, version and kernel is measured in a process of its own with a limit
of time: one that fails, or takes longer, is reported and does not stop the others. All together take no more than
`--budget` seconds. Where Triton has to compile and tune its kernels first, which can take minutes for RWKV-7's, a
second run finds them in its cache. `--device cpu --shape tiny` tries the script where there is no GPU; its figures mean
nothing.

writing    bf16 weights; a token of each of 1 and of 32 texts, alone and each under a rank-8 update of its own
reading    bf16 weights; 4,096 tokens of 1 text, 512 tokens of 8
training   fp32 weights and bf16 autocast, AdamW, a batch of prompts of 256 and answers of 256 tokens. Phase 1 trains
           the backbone, phase 2 a module of the preset `plus`

Products are bf16 everywhere (torch.set_float32_matmul_precision "medium"). Tokens a second are medians; the first
call, in which kernels are compiled, is left out. Memory is the most that PyTorch had allocated (on a CPU the largest
resident set), weights included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from _common import Decoder, commit, medians, random_update, training_step, write_rows

from prosg.backbones import BACKBONES
from prosg.backbones.native import NativeBackbone
from prosg.cli.scripts import ScriptParser, positive_float, run_script
from prosg.model.config import PRESETS
from prosg.model.prosg import ProSG
from prosg.utils.environment import processor


class Shape(NamedTuple):
    """Sizes of what is measured."""

    size: str
    """of the backbone, a key of its published sizes"""
    train_rows: int
    tokens: int
    """of a prompt, and of an answer, in training"""
    read: tuple[tuple[int, int], ...]
    """(texts, tokens of each)"""
    write: tuple[int, ...]
    """texts"""
    repeats: int


SHAPES = {
    "0.4B": Shape("0.4B", 8, 256, ((1, 4096), (8, 512)), (1, 32), 5),
    "tiny": Shape("debug", 2, 16, ((1, 64), (2, 32)), (1, 3), 1),
}
Rows = list[dict[str, Any]]


def make(version: str, shape: Shape, device: torch.device, dtype: torch.dtype, kernel: str) -> NativeBackbone:
    kind = BACKBONES[version]
    model = kind.model(kind.sizes[shape.size], kernel)
    model.reset_parameters(torch.Generator().manual_seed(0))
    return model.to(device, dtype)


def seconds(action: Callable[[], object], device: torch.device, repeats: int, calls: int = 1) -> float:
    """Seconds of one call, until the device has done its work."""

    def finished() -> None:
        for _ in range(calls):
            action()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return medians({"": finished}, repeats, 1)[""] / calls


def peak(device: torch.device) -> float:
    """The most memory since the last call, in GB."""
    if device.type != "cuda":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    most = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return most


def row(quantity: str, dtype: str, batch: int, tokens: int, taken: float, memory: float) -> dict[str, Any]:
    return {
        "quantity": quantity,
        "value": round(batch * tokens / taken, 1),
        "unit": "tokens/s",
        "memory_gb": round(memory, 3),
        "dtype": dtype,
        "batch": batch,
        "tokens": tokens,
    }


def training(version: str, shape: Shape, device: torch.device, kernel: str) -> Rows:
    rows = []
    for phase in ("phase 1", "phase 2"):
        backbone = make(version, shape, device, torch.float32, kernel)
        model = ProSG(backbone, PRESETS["plus"] if phase == "phase 2" else None, seed=0).to(device)
        backbone.requires_grad_(phase == "phase 1")
        optimiser = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
        batch, length = shape.train_rows, shape.tokens
        tokens = torch.randint(1, backbone.config.vocab_size, (batch, 2 * length), device=device)
        prompt, answer = tokens[:, :length], tokens[:, length:]
        peak(device)
        step = partial(training_step, model, optimiser, prompt, answer, autocast=True)
        taken = seconds(step, device, shape.repeats)
        rows.append(row(f"training step, {phase}", "fp32, bf16 autocast", batch, 2 * length, taken, peak(device)))
    return rows


@torch.no_grad()
def reading(version: str, shape: Shape, device: torch.device, kernel: str) -> Rows:
    model = make(version, shape, device, torch.bfloat16, kernel)
    rows = []
    for batch, length in shape.read:
        text = torch.randint(1, model.config.vocab_size, (batch, length), device=device)
        peak(device)
        taken = seconds(partial(model, text, logits="last"), device, shape.repeats)
        rows.append(row("reading", "bf16", batch, length, taken, peak(device)))
    return rows


@torch.no_grad()
def writing(version: str, shape: Shape, device: torch.device, kernel: str) -> Rows:
    model = make(version, shape, device, torch.bfloat16, kernel)
    rows = []
    for batch in shape.write:
        for quantity, update in (
            ("writing", None),
            ("writing under updates", random_update(model, batch, torch.bfloat16)),
        ):
            decoder = Decoder(model, batch, update)
            peak(device)
            rows.append(row(quantity, "bf16", batch, 1, seconds(decoder, device, shape.repeats, 20), peak(device)))
    return rows


PARTS = {"writing": writing, "reading": reading, "training": training}


def measure(part: str, version: str, kernel: str, limit: float, args: argparse.Namespace) -> Rows:
    """One part in a process of its own; no rows, and a line that says why, where it fails."""
    own = [f"--part={part}", f"--versions={version}", f"--kernels={kernel}"]
    command = [sys.executable, __file__, *own, f"--device={args.device}", f"--shape={args.shape}"]
    label = f"{version} {args.shape}, {part}, kernel {kernel}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"{label}: not done after {limit:.0f} s", flush=True)
        return []
    if done.returncode:
        print(f"{label}: failed with status {done.returncode}\n{done.stderr[-1500:]}", flush=True)
        return []
    rows: Rows = json.loads(done.stdout.splitlines()[-1])
    for one in rows:
        print(
            f"{one['system']:12}{one['kernel']:36}{one['quantity']:24}{one['batch']:4} x {one['tokens']:<6}"
            f"{one['value']:12,.0f} tokens/s {one['memory_gb']:8.2f} GB",
            flush=True,
        )
    return rows


def act(part: str, version: str, kernel: str, args: argparse.Namespace) -> Rows:
    """The measurement itself, with where it was made."""
    device, shape = torch.device(args.device), SHAPES[args.shape]
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("medium")
    operation = BACKBONES[version].model.operation
    name = operation.describe(device, torch.float32) if kernel == "auto" else f"{operation.name}: {kernel}"
    machine = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    about = {"system": f"{version} {shape.size}", "kernel": name, "machine": machine}
    about |= {"torch": torch.__version__, "commit": commit()}
    return [one | about for one in PARTS[part](version, shape, device, kernel)]


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_out("JSON file for the rows")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=SHAPES, default="0.4B")
    parser.add_argument("--versions", nargs="+", choices=("rwkv4", "rwkv7"), default=["rwkv7", "rwkv4"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kernels", nargs="+", default=["auto", "torch"], help="as in --kernel of the commands")
    parser.add_argument(
        "--limit", type=positive_float, default=240, help="seconds for a part of one version by one kernel"
    )
    parser.add_argument("--budget", type=positive_float, default=3600, help="seconds for everything together")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(act(args.part, args.versions[0], args.kernels[0], args)))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU: nothing is measured")
        return
    every: Rows = []
    complete, begin = True, time.perf_counter()
    for kernel, version, part in product(args.kernels, args.versions, args.parts):
        left = begin + args.budget - time.perf_counter()
        rows = measure(part, version, kernel, min(left, args.limit), args) if left > 0 else []
        every += rows
        complete = complete and bool(rows)
        if args.out and every:
            write_rows(args.out, every)
    if not complete:
        print("not everything was measured")
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    run_script(main)
