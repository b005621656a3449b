"""Reading 512 tokens at the 169M shapes, beside the peers, and what an update or an anchor adds to it, on one core.

    python benchmarks/reading.py [--out FILE] [--versions rwkv4 rwkv7] [--types fp32 bf16] [--repeats 9] [--small]

Random weights of the published shapes. Systems: the `rwkv` package, transformers, prosg's backbone alone, and encoding
with a module of the preset `plus` (its update), an anchor, or both. All of one version and type take turns; times are
the processor's, of one thread, since the machine may be shared. What encoding adds is the median over turns of its time
over the backbone's in the same turn, with a 95 % interval. The peers are compared with prosg before anything is timed.

The limit: the operations of the matrix products over the core's rate in a large one, measured in the same run.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import commit, median_interval, turns, write_rows
from _peers import TYPES, begin, machine, random_model, rwkv_peer, shapes_parser, transformers_peer

from prosg.checkpoints.backbone import load_backbone
from prosg.cli.scripts import run_script
from prosg.core.encoded import Memory
from prosg.model.config import ProSGConfig
from prosg.model.prosg import ProSG
from prosg.utils.environment import processor

TOKENS = 512
MEMORIES: tuple[Memory, ...] = ("update", "anchor", "both")


def measure(version: str, dtype: str, repeats: int, small: bool) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = random_model(version, small, Path(folder))
        model = ProSG(load_backbone(path, dtype=TYPES[dtype]), ProSGConfig.from_preset("plus"), seed=0).eval()
        model.to(TYPES[dtype])
        backbone = model.backbone
        text = torch.randint(1, backbone.config.vocab_size, (1, TOKENS))
        systems: dict[str, Callable[[], Any]] = {"prosg": lambda: backbone(text, logits="last")}
        for memory in MEMORIES:
            systems[memory] = lambda memory=memory: model.encode(text, memory=memory)
        if (rwkv := rwkv_peer(path, version, dtype, backbone)) is not None:
            systems["rwkv"] = lambda: rwkv.forward(text[0].tolist(), None)
        if (hf := transformers_peer(version, dtype, backbone)) is not None:
            systems["transformers"] = lambda: hf(text, use_cache=True)
        seconds = turns(systems, repeats, 1, time.process_time)
    rate = machine(dtype, 3)[1]
    matrices = [
        p for name, p in backbone.named_parameters() if p.dim() == 2 and name not in ("emb.weight", "head.weight")
    ]
    limit = rate / (2 * sum(p.numel() for p in matrices))
    rows = []
    for name, taken in seconds.items():
        row: dict[str, Any] = {"version": version, "dtype": dtype, "system": name, "tokens": TOKENS}
        if name in MEMORIES:
            added = [100 * (own / alone - 1) for own, alone in zip(taken, seconds["prosg"], strict=True)]
            row |= {"quantity": "encoding adds", "value": statistics.median(added), "unit": "%"}
            row["interval"] = median_interval(added)
        else:
            value = TOKENS / statistics.median(taken)
            row |= {"quantity": "reading", "value": value, "unit": "tokens/s", "limit": limit, "share": value / limit}
        rows.append(row)
    return rows


def main() -> None:
    args = begin(shapes_parser(__doc__, list(TYPES), repeats=9))
    print(f"{processor()}; torch {torch.__version__}; one thread; {TOKENS} tokens")
    every = []
    for version in args.versions:
        for dtype in args.types:
            for row in measure(version, dtype, args.repeats, args.small):
                shown = f"{row['quantity']:16}{row['value']:9.1f} {row['unit']}"
                more = f"  {row['interval']}" if "interval" in row else f"  {row['share']:.2f} of the limit"
                print(f"{version:8}{dtype:6}{row['system']:14}{shown}{more}", flush=True)
                every.append(row | {"machine": processor(), "commit": commit()})
            if args.out:  # what is measured is kept, should the next be stopped
                write_rows(args.out, every)


if __name__ == "__main__":
    run_script(main)
