"""Decoding at the 169M shapes, beside the peers and the machine's limit, on one core.

    python benchmarks/decoding.py [--out FILE] [--versions rwkv4 rwkv7] [--batches 1 8 32 64] [--repeats 7] [--small]

Random weights of the published shapes. Systems: the `rwkv` package and transformers (one row: what they do with several
is wrong or not there), prosg alone, and prosg with a rank-8 update of its own in every row. All of one version and type
take turns, so that what disturbs the machine disturbs all of them; the median of each is shown.

The limit of a step: the bytes of the weights and of the state over the bandwidth at which one core reads, or its
operations over the core's rate in a matrix product, whichever takes longer; both are measured in the same run. Before
anything is timed every batched system is compared with the same rows alone, and prosg with the `rwkv` package.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import Decoder, commit, medians, random_update, write_rows
from _peers import (
    TEXT,
    TOLERANCE,
    TYPES,
    begin,
    machine,
    random_model,
    rwkv_peer,
    shapes_parser,
    transformers_peer,
)

from prosg.backbones.native import NativeBackbone
from prosg.backbones.quantised import quantise
from prosg.checkpoints.backbone import load_backbone
from prosg.cli.scripts import positive_int, run_script
from prosg.core.update import LowRank
from prosg.utils.environment import processor


class CheckedDecoder(Decoder):
    """A decoder whose rows are compared with the same rows alone."""

    def check(self, tolerance: float) -> None:
        """The first and the last row alone give the same as in the batch."""
        together, state = self.model(self.tokens, self.state, update=self.update, logits="last").logits, self.state
        for row in {0, len(self.tokens) - 1}:
            alone = None
            if self.update is not None:
                alone = {site: LowRank(d.a[row : row + 1], d.b[row : row + 1]) for site, d in self.update.items()}
            mine = tuple(type(layer)(*(leaf[row : row + 1] for leaf in layer)) for layer in state)
            logits = self.model(self.tokens[row : row + 1], mine, update=alone, logits="last").logits
            gap = float((logits[0] - together[row]).abs().max() / together[row].abs().max())
            assert gap <= tolerance, f"row {row} of {len(self.tokens)}: {gap:.1e}"


def peers(path: Path, version: str, dtype: str, model: NativeBackbone) -> dict[str, Callable[[], Any]]:
    """One-row decoding of the other packages."""
    systems: dict[str, Callable[[], Any]] = {}
    if (peer := rwkv_peer(path, version, dtype, model)) is not None:
        states = [peer.forward(TEXT, None)[1]]

        def step() -> None:
            _, states[0] = peer.forward([11], states[0])

        systems["rwkv"] = step
    if (hf := transformers_peer(version, dtype, model)) is not None:
        kept = [hf(torch.tensor([TEXT]), use_cache=True).state]

        def step_hf() -> None:
            kept[0] = hf(torch.tensor([[11]]), state=kept[0], use_cache=True).state

        systems["transformers"] = step_hf
    return systems


def limit(model: NativeBackbone, batch: int, bandwidth: float, rate: float) -> float:
    """Tokens a second that the machine could decode at most."""
    matrices = [p for name, p in model.named_parameters() if name != "emb.weight"]
    weights = sum(p.numel() * p.element_size() for p in matrices)
    state = sum(leaf.numel() * leaf.element_size() for layer in model.init_state(batch) for leaf in layer)
    operations = 2 * batch * sum(p.numel() for p in matrices if p.dim() == 2)
    return batch / max((weights + 2 * state) / bandwidth, operations / rate)


def measure(version: str, dtype: str, batches: list[int], repeats: int, small: bool) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = random_model(version, small, Path(folder))
        narrow = torch.bfloat16 if dtype == "int8" else TYPES[dtype]
        model = load_backbone(path, dtype=narrow)
        systems = peers(path, version, dtype, model) if dtype != "int8" else {}
        if dtype == "int8":
            quantise(model)
        counts = dict.fromkeys(systems, 1)
        for batch in batches:
            for name, update in (("prosg", None), ("prosg + update", random_update(model, batch, narrow))):
                decoder = CheckedDecoder(model, batch, update)
                decoder.check(TOLERANCE[dtype])
                systems[f"{name}, {batch} rows"], counts[f"{name}, {batch} rows"] = decoder, batch
        bandwidth, rate = machine(dtype, repeats)
        taken = medians(systems, repeats, 3)
        for name, seconds in taken.items():
            batch = counts[name]
            best = limit(model, batch, bandwidth, rate)
            value = batch / seconds
            row = {"quantity": "decode", "version": version, "dtype": dtype, "system": name.partition(",")[0]}
            row |= {"batch": batch, "value": value, "unit": "tokens/s", "limit": best, "share": value / best}
            if "rwkv" in taken:
                row["times_rwkv"] = value * taken["rwkv"]
            rows.append(row)
        for row in rows:
            row |= {"bandwidth": bandwidth, "rate": rate}
    return rows


def main() -> None:
    parser = shapes_parser(__doc__, [*TYPES, "int8"], repeats=7)
    parser.add_argument("--batches", type=positive_int, nargs="+", default=[1, 8, 32, 64])
    args = begin(parser)
    print(f"{processor()}; torch {torch.__version__}; one thread")
    print(f"{'':8}{'':6}{'':18}{'rows':>5}{'tokens/s':>10}{'x rwkv':>8}{'limit':>8}{'share':>7}")
    every = []
    for version in args.versions:
        for dtype in args.types:
            for row in measure(version, dtype, args.batches, args.repeats, args.small):
                times = f"{row['times_rwkv']:8.1f}" if "times_rwkv" in row else f"{'':8}"
                print(
                    f"{version:8}{dtype:6}{row['system']:18}{row['batch']:5}{row['value']:10.1f}{times}{row['limit']:8.0f}"
                    f"{row['share']:7.2f}",
                    flush=True,
                )
                every.append(row | {"machine": processor(), "commit": commit()})
            if args.out:  # what is measured is kept, should the next be stopped
                write_rows(args.out, every)


if __name__ == "__main__":
    run_script(main)
