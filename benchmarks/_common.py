"""What the benchmarks share: the recurrences, interleaved in one run; decoding; a training step; files of rows."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prosg.backbones.native import NativeBackbone
from prosg.cli.scripts import ScriptParser, positive_int
from prosg.core.update import LowRank, Update, prepare_update
from prosg.model.prosg import ProSG
from prosg.utils.environment import processor
from prosg.utils.io import write_lines

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Recurrence:
    """What there is to measure."""

    name: str
    systems: dict[str, Callable[..., Tensor]]
    """inputs -> y"""
    peer: str
    """the system that the others' speed-ups refer to"""
    inputs: Callable[..., list[Tensor]]
    """sizes, and whether those that a model computes ask for gradients -> inputs"""
    sizes: dict[str, int]
    """of a training step, by default; "batch" and "tokens" are among them"""
    one_token: dict[str, int]
    """as in generation"""
    in_use: str
    """the implementation that is used here"""


def medians(
    actions: dict[str, Callable[[], object]],
    repeats: int,
    calls: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: bool = True,
) -> dict[str, float]:
    """Median seconds of one call; see `turns`."""
    seconds = turns(actions, repeats, calls, clock, warm_up)
    return {name: statistics.median(values) for name, values in seconds.items()}


def turns(
    actions: dict[str, Callable[[], object]],
    repeats: int,
    calls: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Seconds of one call, in each turn: the systems take turns, so that what disturbs the machine disturbs all."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(1 - warm_up, repeats + 1):
        for name, action in actions.items():
            start = clock()
            for _ in range(calls):
                action()
            if repeat:  # the first is the warm-up
                seconds[name].append((clock() - start) / calls)
    return seconds


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median, from the order of the values alone."""
    ordered = sorted(values)
    outside = max(0, int(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5))  # the binomial's normal approximation
    return ordered[outside], ordered[-1 - outside]


def commit() -> str:
    here = Path(__file__).parent
    result = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    return result.stdout.strip()


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A JSON file with one row a line, which is there whole; whether it may be replaced was asked before."""
    lines = [f"  {json.dumps(row)}{',' * (row is not rows[-1])}" for row in rows]
    write_lines(path, ["[", *lines, "]"])


RANK = 8


def random_update(model: NativeBackbone, batch: int, dtype: torch.dtype) -> Update:
    """Rank-8 changes of every projection, another for each row."""
    device = model.emb.weight.device

    def draw(*shape: int) -> Tensor:
        return 0.01 * torch.randn(batch, *shape, device=device)

    changes = {site: LowRank(draw(RANK, inp), draw(out, RANK)) for site, (out, inp) in model.sites.items()}
    return prepare_update(changes, dtype)


class Decoder:
    """Writes a token of each row at a time."""

    def __init__(self, model: NativeBackbone, batch: int, update: Update | None) -> None:
        self.model, self.update = model, update
        device, vocabulary = model.emb.weight.device, model.config.vocab_size
        self.tokens = torch.randint(1, vocabulary, (batch, 1), device=device)
        self.state = model(torch.randint(1, vocabulary, (batch, 8), device=device)).state

    def __call__(self) -> Tensor:
        output = self.model(self.tokens, self.state, update=self.update, logits="last")
        self.state = output.state
        return output.logits


def training_step(
    model: ProSG, optimiser: torch.optim.Optimizer, prompt: Tensor, answer: Tensor, *, autocast: bool
) -> None:
    """One step on rows of full length; under autocast products are bf16."""

    def lengths(tokens: Tensor) -> Tensor:
        return torch.full((len(tokens),), tokens.shape[1], device=tokens.device)

    with torch.autocast(prompt.device.type, torch.bfloat16, enabled=autocast):
        weights = torch.ones(answer.shape, device=answer.device)
        scored = model(prompt, lengths(prompt), answer, lengths(answer), weights)
    scored.loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def train(run: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor) -> None:
    torch.autograd.grad(run(*inputs), [x for x in inputs if x.requires_grad], weight)


def measure(it: Recurrence, sizes: dict[str, int], repeats: int, threads: int) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    inputs, one = it.inputs(**sizes, gradients=True), it.inputs(**it.one_token, gradients=False)
    weight = torch.randn_like(it.systems[it.peer](*inputs))
    whole = medians({n: lambda run=run: train(run, inputs, weight) for n, run in it.systems.items()}, repeats, 1)
    single = medians({n: lambda run=run: run(*one) for n, run in it.systems.items()}, repeats, 200)
    rows = []
    for name in it.systems:
        for quantity, value, unit, size in (
            (f"{it.name} forward and backward", 1e3 * whole[name], "ms", sizes),
            (f"{it.name} speed-up", whole[it.peer] / whole[name], f"times {it.peer}", sizes),
            (f"{it.name} one token", 1e6 * single[name], "us", it.one_token),
        ):
            rows.append({"quantity": quantity, "system": name, "value": value, "unit": unit, "threads": threads} | size)
    return rows


def text(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def show(it: Recurrence, rows: list[dict[str, Any]], sizes: dict[str, int], threads: int) -> None:
    print(f"\n{threads} thread(s), fp32, {text(sizes)}; one token: {text(it.one_token)}")
    print(f"{'':14}{'fwd + bwd, ms':>15}{'speed-up':>10}{'one token, us':>15}")
    for name in it.systems:
        whole, speed_up, single = (row["value"] for row in rows if row["system"] == name)
        print(f"{name:14}{whole:15.2f}{speed_up:10.1f}{single:15.1f}")


def main(it: Recurrence, description: str | None) -> None:
    parser = ScriptParser(description)
    parser.add_out("JSON file for the rows")
    for name, size in it.sizes.items():
        parser.add_argument(f"--{name}", type=positive_int, default=size)
    parser.add_argument("--threads", type=positive_int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=positive_int, default=7)
    args = parser.parse_args()
    torch.manual_seed(0)
    sizes = {name: getattr(args, name) for name in it.sizes}
    print(f"{processor()}; torch {torch.__version__}; {it.in_use}")
    every = []
    for threads in args.threads:
        rows = measure(it, sizes, args.repeats, threads)
        show(it, rows, sizes, threads)
        every += rows
    if args.out:
        origin = {"dtype": "float32", "machine": processor(), "commit": commit()}
        write_rows(args.out, [row | origin for row in every])
