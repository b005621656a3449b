"""Time of RWKV-4's recurrence: every implementation and transformers' loop over tokens, interleaved in one run.

    python benchmarks/wkv4.py [--out FILE] [--batch 4] [--tokens 256] [--channels 768] [--threads 1 2] [--repeats 7]

Prints a table per number of threads, medians over the repeats: forward and backward from an empty memory, from
time_decay on; and one token for a batch of rows without gradients, as in generation. `--out` gets the same as rows.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

from prosg.ops import wkv4

PEER = "transformers"
LATENCY = {"batch": 64, "tokens": 1, "channels": 96}

Run = Callable[[Tensor, Tensor, Tensor, Tensor, wkv4.Memory], Tensor]


def systems() -> dict[str, Run]:
    """time_decay, u (C,), k, v (B, T, C), memory -> y."""

    def ours(kernel: wkv4.Kernel) -> Run:
        return lambda time_decay, u, k, v, memory: kernel(-time_decay.exp(), u, k, v, memory, None)[0]

    def peer(time_decay: Tensor, u: Tensor, k: Tensor, v: Tensor, memory: wkv4.Memory) -> Tensor:
        return rwkv_linear_attention_cpu(time_decay, u, k, v, state=memory, return_state=True)[0]

    cpu = torch.device("cpu")
    built = [name for name in wkv4.KERNELS if name != "c" or not wkv4.wkv4_c.unavailable(cpu, torch.float32)]
    return {PEER: peer} | {name: ours(wkv4.KERNELS[name]) for name in built}


def inputs(batch: int, tokens: int, channels: int, *, gradients: bool) -> list[Tensor]:
    shapes = [(channels,), (channels,), (batch, tokens, channels), (batch, tokens, channels)]
    return [torch.randn(shape).requires_grad_(gradients) for shape in shapes]


def empty(k: Tensor) -> wkv4.Memory:
    zeros = torch.zeros(k.shape[0], k.shape[2])
    return wkv4.Memory(zeros, zeros, zeros + wkv4.EMPTY_TOP)


def train(run: Run, tensors: list[Tensor], memory: wkv4.Memory, weight: Tensor) -> None:
    torch.autograd.grad(run(*tensors, memory), tensors, weight)


def medians(actions: dict[str, Callable[[], object]], repeats: int, calls: int) -> dict[str, float]:
    """Seconds of one call: the systems take turns, so that what disturbs the machine disturbs all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            for _ in range(calls):
                action()
            if repeat:  # the first is the warm-up
                seconds[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    here = Path(__file__).parent
    result = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    return result.stdout.strip()


def measure(sizes: dict[str, int], repeats: int, threads: int) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    tensors = inputs(**sizes, gradients=True)
    weight = torch.randn_like(tensors[2])
    one = inputs(**LATENCY, gradients=False)
    runs = systems()
    memory, memory_one = empty(tensors[2]), empty(one[2])
    whole = medians({n: lambda run=run: train(run, tensors, memory, weight) for n, run in runs.items()}, repeats, 1)
    single = medians({n: lambda run=run: run(*one, memory_one) for n, run in runs.items()}, repeats, 200)
    rows = []
    for name in runs:
        for quantity, value, unit, size in (
            ("wkv4 forward and backward", 1e3 * whole[name], "ms", sizes),
            ("wkv4 speed-up", whole[PEER] / whole[name], "times transformers", sizes),
            ("wkv4 one token", 1e6 * single[name], "us", LATENCY),
        ):
            rows.append({"quantity": quantity, "system": name, "value": value, "unit": unit, "threads": threads} | size)
    return rows


def show(rows: list[dict[str, Any]], sizes: dict[str, int], threads: int) -> None:
    text = ", ".join(f"{name} {size}" for name, size in sizes.items())
    print(f"\n{threads} thread(s), fp32, {text}; one token: batch {LATENCY['batch']}, channels {LATENCY['channels']}")
    print(f"{'':14}{'fwd + bwd, ms':>15}{'speed-up':>10}{'one token, us':>15}")
    for name in dict.fromkeys(row["system"] for row in rows):
        whole, speed_up, single = (row["value"] for row in rows if row["system"] == name)
        print(f"{name:14}{whole:15.2f}{speed_up:10.1f}{single:15.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--channels", type=int, default=768)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(0)
    sizes = {"batch": args.batch, "tokens": args.tokens, "channels": args.channels}
    print(f"{machine()}; torch {torch.__version__}; {wkv4.describe(torch.device('cpu'), torch.float32)}")
    every = []
    for threads in args.threads:
        rows = measure(sizes, args.repeats, threads)
        show(rows, sizes, threads)
        every += rows
    if args.out:
        origin = {"dtype": "float32", "machine": machine(), "commit": commit()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("[\n" + ",\n".join("  " + json.dumps(row | origin) for row in every) + "\n]\n")


if __name__ == "__main__":
    main()
