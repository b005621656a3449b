"""Decoding and prefill at the 169M shapes, beside the peers and the machine's limit, on one core.

    python benchmarks/decoding.py [--out FILE] [--versions rwkv4 rwkv7] [--batches 1 8 32] [--repeats 7] [--small]

Random weights of the published shapes. Systems: the `rwkv` package and transformers (one row: what they do with several
is wrong or not there), prosg alone, and prosg with a rank-8 update of its own in every row. All of one version and type
take turns, so that what disturbs the machine disturbs all of them; the median of each is shown.

The limit of a step: the bytes of the weights and of the state over the bandwidth at which one core reads, or its
operations over the core's rate in a matrix product, whichever takes longer; both are measured in the same run. Before
anything is timed every batched system is compared with the same rows alone, and prosg with the `rwkv` package.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import Decoder, commit, medians, random_update, write_rows

from prosg.backbones import BACKBONES
from prosg.backbones.native import NativeBackbone
from prosg.backbones.quantised import quantise
from prosg.checkpoints.backbone import load_backbone, save_backbone
from prosg.core.update import LowRank
from prosg.utils.allocation import keep_freed_memory
from prosg.utils.environment import processor

SIZES = {"rwkv4": "169M", "rwkv7": "0.1B"}
PREFILL = 512
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "int8": 5e-2}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def random_model(version: str, small: bool, folder: Path) -> Path:
    """A `.pth` of random weights."""
    kind = BACKBONES[version]
    model = kind.model(kind.sizes["debug" if small else SIZES[version]])
    model.reset_parameters(torch.Generator().manual_seed(0))
    path = folder / f"{version}.pth"
    save_backbone(model, path, overwrite=True)
    return path


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


def rwkv_peer(path: Path, version: str, dtype: str) -> Any:
    """The `rwkv` package's model, or None where it is not installed."""
    os.environ |= {"RWKV_V7_ON": "1" if version == "rwkv7" else "0", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
    try:
        spec = importlib.util.find_spec("rwkv.model")
    except ImportError:
        return None
    # Once more for each version: which one its class serves is settled when it is imported.
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if version == "rwkv7":
        return module.RWKV(model=str(path.with_suffix("")), strategy=f"cpu {dtype}")
    return module.RWKV(str(path), f"cpu {dtype}", verbose=False)


def peers(path: Path, version: str, dtype: str, model: NativeBackbone) -> dict[str, Callable[[], Any]]:
    """One-row decoding of the other packages, compared with ours where they compute what we do."""
    systems: dict[str, Callable[[], Any]] = {}
    if (peer := rwkv_peer(path, version, dtype)) is not None:
        text = [5, 17, 3, 88]
        theirs, state = peer.forward(text, None)
        ours = model(torch.tensor([text])).logits[0, -1].float()
        gap = float((theirs.float() - ours).abs().max() / ours.abs().max())
        assert gap <= TOLERANCE[dtype], f"prosg and rwkv differ by {gap:.1e}"
        states = [state]

        def step() -> None:
            _, states[0] = peer.forward([11], states[0])

        systems["rwkv"] = step
    if version == "rwkv4":
        try:
            from transformers import AutoModelForCausalLM
        except ImportError:
            return systems
        with tempfile.TemporaryDirectory() as folder:
            save_backbone(model, Path(folder) / "hf")
            hf = AutoModelForCausalLM.from_pretrained(Path(folder) / "hf", dtype=TYPES[dtype]).eval()
        kept = [hf(torch.tensor([[5, 17, 3, 88]]), use_cache=True).state]

        def step_hf() -> None:
            kept[0] = hf(torch.tensor([[11]]), state=kept[0], use_cache=True).state

        systems["transformers"] = step_hf
    return systems


def machine(dtype: str, repeats: int) -> tuple[float, float]:
    """Bytes a second that a core reads, the fastest way known, and its operations a second in a matrix product."""
    big, one = torch.randn(100_000, 1024), torch.randn(1, 1024)
    square = torch.randn(1024, 1024).to(TYPES.get(dtype, torch.float32))
    from prosg.ops.linear import linear

    taken = medians({"sum": big.sum, "row": lambda: linear(one, big), "product": lambda: square @ square}, repeats, 1)
    return 4 * big.numel() / min(taken["sum"], taken["row"]), 2 * 1024**3 / taken["product"]


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
        if dtype != "int8":
            text = torch.randint(1, model.config.vocab_size, (1, PREFILL))
            seconds = medians({"prefill": lambda: model(text, logits="last")}, max(repeats // 2, 1), 1)["prefill"]
            best = PREFILL * limit(model, 1, float("inf"), rate)
            row = {"quantity": "prefill", "version": version, "dtype": dtype, "system": "prosg", "batch": 1}
            best = limit(model, 1, 1e30, rate)
            rows.append(row | {"value": PREFILL / seconds, "unit": "tokens/s", "limit": best})
            rows[-1]["share"] = rows[-1]["value"] / best
        for row in rows:
            row |= {"bandwidth": bandwidth, "rate": rate}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    parser.add_argument("--versions", nargs="+", default=["rwkv4", "rwkv7"])
    parser.add_argument("--types", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"{processor()}; torch {torch.__version__}; one thread")
    print(f"{'':8}{'':6}{'':18}{'rows':>5}{'tokens/s':>10}{'x rwkv':>8}{'limit':>8}{'share':>7}")
    every = []
    for version in args.versions:
        for dtype in args.types:
            for row in measure(version, dtype, args.batches, args.repeats, args.small):
                times = f"{row['times_rwkv']:8.1f}" if "times_rwkv" in row else f"{'':8}"
                name = row["system"] if row["quantity"] == "decode" else "prosg, prefill"
                print(
                    f"{version:8}{dtype:6}{name:18}{row['batch']:5}{row['value']:10.1f}{times}{row['limit']:8.0f}"
                    f"{row['share']:7.2f}",
                    flush=True,
                )
                every.append(row | {"machine": processor(), "commit": commit()})
    if args.out:
        write_rows(args.out, every)


if __name__ == "__main__":
    main()
