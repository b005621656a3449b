"""Writes the tables of docs/performance.md from benchmarks/results: decoding*, linear, reading and training.json.

python scripts/performance_page.py            writes them
python scripts/performance_page.py --check    says whether they are those of the file; exit status 1 if not
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n\n).*?(<!-- end -->)", re.DOTALL)
NAMES = {"rwkv4": "RWKV-4 169M", "rwkv7": "RWKV-7 0.1B"}
SMALL = {"rwkv4": "RWKV-4, 3 layers of 96", "rwkv7": "RWKV-7, 3 layers of 96"}


def rows(benchmark: str = "decoding") -> list[dict[str, Any]]:
    """The rows of a benchmark."""
    found: list[dict[str, Any]] = json.loads((RESULTS / f"{benchmark}.json").read_text("utf-8"))
    return found


def value(row: Mapping[str, Any] | None) -> str:
    """Tokens a second; - for what was not measured."""
    if row is None:
        return "-"
    return f"{row['value']:.1f}" if row["value"] < 100 else f"{row['value']:,.0f}"


def times(row: Mapping[str, Any] | None) -> str:
    """As a multiple of the `rwkv` package."""
    return "" if row is None or "times_rwkv" not in row else f"{row['times_rwkv']:.1f}"


def decoding(benchmark: str = "decoding") -> str:
    """The table of decoding: a line for each version, type and batch."""
    found = {
        (r["version"], r["dtype"], r["system"], r["batch"]): r for r in rows(benchmark) if r["quantity"] == "decode"
    }
    lines = [
        "| tokens/s | rows | `rwkv` | transformers | prosg | times `rwkv` | with updates | they cost | limit | share |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for version, dtype in dict.fromkeys((key[0], key[1]) for key in found):
        for batch in sorted({key[3] for key in found if key[:3] == (version, dtype, "prosg")}):
            ours, held = (found.get((version, dtype, name, batch)) for name in ("prosg", "prosg + update"))
            assert ours is not None and held is not None
            peers = [value(found.get((version, dtype, name, batch))) for name in ("rwkv", "transformers")]
            cost = f"{1 - held['value'] / ours['value']:.0%}"
            first = f"{NAMES[version]}, {dtype}"
            cells = [first, str(batch), *peers, value(ours), times(ours), value(held), cost]
            cells += [f"{ours['limit']:,.0f}", f"{ours['share']:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reading() -> str:
    """The table of reading: a line for each version, type and machine."""
    found = {(r["version"], r["dtype"], r["machine"], r["system"]): r for r in rows("reading")}
    lines = [
        "| 512 tokens a call, tokens/s | `rwkv` | transformers | prosg | share | update adds | anchor adds | machine |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for version, dtype, machine in dict.fromkeys(key[:3] for key in found):
        read = [found.get((version, dtype, machine, name)) for name in ("rwkv", "transformers", "prosg")]
        cells = [f"{NAMES[version]}, {dtype}", *map(value, read)]
        cells.append(f"{read[-1]['share']:.2f}" if read[-1] and "share" in read[-1] else "")
        for name in ("update", "anchor"):
            added = found.get((version, dtype, machine, name))
            cells.append("" if added is None else "{:.0f}% [{:.0f}, {:.0f}]".format(added["value"], *added["interval"]))
        lines.append(f"| {' | '.join([*cells, machine])} |")
    return "\n".join(lines)


def training() -> str:
    """The table of training: a line for each version, phase and type."""
    found = {
        (r["shape"], r["version"], r["phase"], r["dtype"], r["quantity"], r["system"]): r for r in rows("training")
    }
    lines = [
        "| tokens/s of a step | phase | transformers | prosg | times | limit | share | peak, GB | over what it needs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for shape, version, phase, dtype in dict.fromkeys(key[:4] for key in found):
        own, peer = (found.get((shape, version, phase, dtype, "step", name)) for name in ("prosg", "transformers"))
        assert own is not None
        held = found.get((shape, version, phase, dtype, "memory", "prosg"))
        name = (NAMES if shape == "169m" else SMALL)[version]
        ratio = "" if peer is None else f"{own['value'] / peer['value']:.1f}"
        cells = [f"{name}, {dtype}", str(phase), value(peer), value(own), ratio]
        cells += [f"{own['limit']:,.0f}", f"{own['share']:.2f}"]
        cells += ["", ""] if held is None else [f"{held['value']:.2f}", f"{held['share']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def training_machine() -> str:
    """What training was measured on."""
    row = rows("training")[0]
    what = f"{row['machine']}, one core, one thread; commit `{row['commit'][:7]}`"
    return f"{what}; a large product in fp32 ran at {row['rate'] / 1e9:.0f} GFLOP/s."


def machine(benchmark: str = "decoding") -> str:
    """What decoding was measured on."""
    row = rows(benchmark)[0]
    what = f"{row['machine']}, one core, one thread; commit `{row['commit'][:7]}`"
    return f"{what}; it read {row['bandwidth'] / 1e9:.1f} GB/s."


def linear() -> str:
    """The table of products: a line for each type and matrix, GFLOP/s of this package, PyTorch and at most."""
    found = {(r["dtype"], r["outputs"], r["inputs"], r["rows"], r["system"]): r for r in rows("linear")}
    counts = sorted({key[3] for key in found})
    heads = (f"{count} rows" if count > 1 else "1 row" for count in counts)
    lines = [
        f"| GFLOP/s: prosg / PyTorch / limit | {' | '.join(heads)} |",
        f"| --- |{' ---: |' * len(counts)}",
    ]
    for dtype, outputs, inputs in dict.fromkeys(key[:3] for key in found):
        cells = []
        for count in counts:
            ours = found[dtype, outputs, inputs, count, "c"]
            theirs = found.get((dtype, outputs, inputs, count, "torch"))
            peer = "-" if theirs is None else f"{theirs['gflops']:.0f}"
            cells.append(f"{ours['gflops']:.0f} / {peer} / {ours['limit']:.0f}")
        lines.append(f"| {dtype}, {outputs:,} x {inputs:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def linear_machine() -> str:
    """What products were measured on."""
    row = rows("linear")[0]
    return f"{row['machine']}, one core, one thread; commit `{row['commit'][:7]}`."


TABLES = {
    "decoding": decoding,
    "decoding_amx": partial(decoding, "decoding_amx"),
    "machine_amx": partial(machine, "decoding_amx"),
    "decoding_avx2": partial(decoding, "decoding_avx2"),
    "machine_avx2": partial(machine, "decoding_avx2"),
    "linear": linear,
    "linear_machine": linear_machine,
    "reading": reading,
    "machine": machine,
    "training": training,
    "training_machine": training_machine,
}


def main() -> int:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where figures differ")
    options = parser.parse_args()
    text = PAGE.read_text("utf-8")
    new = MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n\n{match[3]}", text)
    if not options.check:
        PAGE.write_text(new, "utf-8")
        return 0
    if new != text:
        print(f"{PAGE.relative_to(ROOT)} has not the figures of {RESULTS.relative_to(ROOT)}/; run {sys.argv[0]}")
    return int(new != text)


if __name__ == "__main__":
    sys.exit(main())
