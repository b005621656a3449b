"""What an anchor costs: reading and decoding at published sizes, with and without, random weights.

    python benchmarks/anchor.py [--out FILE] [--models rwkv4,rwkv7] [--batch 1 32] [--tokens 512] [--repeats 7]

Reading is one call on `--tokens` tokens (1 and 4 rows), decoding one token a call. The two take turns; the median
counts, and the ratio's is over the turns' own ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _common import commit, write_rows
from torch import Tensor

from prosg.backbones import BACKBONES
from prosg.backbones.native import NativeBackbone
from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.core.state import State
from prosg.model.anchor import StateAnchor
from prosg.utils.environment import processor
from prosg.utils.spelling import check_known

SIZES = {"rwkv4": "169M", "rwkv7": "0.1B", "retnet": "demo"}


def random_model(name: str) -> NativeBackbone:
    """A backbone of published size with random weights."""
    kind = BACKBONES[name]
    model = kind.model(kind.sizes[SIZES[name]])
    model.reset_parameters(torch.Generator().manual_seed(0))
    return model.eval()


def paired(plain: Callable[[], Any], anchored: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Seconds of both, and the ratio of anchored to plain: medians over pairs, the first of which is the warm-up."""
    pairs = []
    for number in range(repeats + 1):
        times = []
        for action in (plain, anchored) if number % 2 else (anchored, plain):
            start = time.perf_counter()
            action()
            times.append(time.perf_counter() - start)
        pairs.append(times if number % 2 else times[::-1])
    pairs = pairs[1:]
    without, held = zip(*pairs, strict=True)
    return statistics.median(without), statistics.median(held), statistics.median(b / a for a, b in pairs)


def _decode(model: NativeBackbone, token: Tensor, state: State, anchor: Any) -> None:
    """Four tokens, one a call."""
    for _ in range(4):
        state = model(token, state, anchor=anchor, logits="last").state


@torch.no_grad()
def measure(name: str, batches: list[int], tokens: int, repeats: int) -> list[dict[str, Any]]:
    model = random_model(name)
    rows = []

    def prepare(batch: int) -> tuple[State, Any]:
        state = model(torch.randint(1, 1000, (batch, 16)), logits="none").state
        return state, StateAnchor(model)(model, state)

    def compare(what: str, batch: int, run: Callable[[Any], Any], anchor: Any, count: int) -> None:
        plain, held, ratio = paired(lambda: run(None), lambda: run(anchor), count)
        print(
            f"{name:8}{what:10}{batch:>6}{1e3 * plain:12.1f}{1e3 * held:12.1f}{100 * (ratio - 1):+9.1f} %", flush=True
        )
        rows.append(
            {
                "model": name,
                "size": SIZES[name],
                "what": what,
                "batch": batch,
                "plain_s": plain,
                "anchored_s": held,
                "ratio": ratio,
            }
        )

    for batch in (1, 4):
        state, anchor = prepare(batch)
        read = partial(model, torch.randint(1, 1000, (batch, tokens)), state, logits="last")
        compare(f"read {tokens}", batch, lambda held, read=read: read(anchor=held), anchor, repeats)
    for batch in batches:
        state, anchor = prepare(batch)
        decode = partial(_decode, model, torch.randint(1, 1000, (batch, 1)), state)
        compare("decode 4", batch, decode, anchor, 3 * repeats)
    return rows


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_out("JSON file for the rows")
    parser.add_list("--models", default=["rwkv4", "rwkv7"], help=f"of {', '.join(SIZES)}")
    parser.add_argument("--batch", type=positive_int, nargs="+", default=[1, 32])
    parser.add_argument("--tokens", type=positive_int, default=512)
    parser.add_argument("--repeats", type=positive_int, default=7)
    parser.add_argument("--threads", type=positive_int, default=2)
    options = parser.parse_args()
    check_known("--models", options.models, SIZES)
    torch.set_num_threads(options.threads)
    print(f"{processor()}; torch {torch.__version__}; {options.threads} threads, fp32")
    print(f"{'model':8}{'':10}{'rows':>6}{'plain, ms':>12}{'anchor, ms':>12}{'more':>11}")
    rows = [row for name in options.models for row in measure(name, options.batch, options.tokens, options.repeats)]
    if options.out:
        origin = {"threads": options.threads, "dtype": "float32", "machine": processor(), "commit": commit()}
        write_rows(options.out, [row | origin for row in rows])


if __name__ == "__main__":
    run_script(main)
