"""How 64 replicas serve a million stored prompts: a simulation with measured costs, and its check against real ones.

    python experiments/serving_at_scale.py [--costs FILE] [--out FOLDER]
    python experiments/serving_at_scale.py --check-against http://127.0.0.1:8000

The first writes `serving-at-scale.json`, a plot and a table. `--costs` is a file that `benchmarks/serving.py --out` has
written. The second measures the costs of a running server of the packaged model with few requests, sends it a load, and
simulates the same load with those costs; exit status 1 if a figure is more than 15 % off:

    prosg serve demo --replicas 2 --replica-cpus 0.5 --prompts prompts
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from prosg.cli.common import check_new_file
from prosg.cli.scripts import (
    ScriptParser,
    file_to_read,
    natural_float,
    natural_int,
    positive_float,
    positive_int,
    rows_before,
    run_script,
)
from prosg.utils.io import write_json, written_whole
from serving_load import Server, shares, zipf_of
from serving_simulation import ROUTERS, Costs, Load, Multiplexed, simulate
from serving_tables import table

ROOT = Path(__file__).resolve().parents[1]
COSTS = ROOT / "experiments" / "serving_costs.json"
CHECKED = ("first_p50", "whole_p50", "requests_per_second", "hit_rate")
NEAR = 0.15


def read_costs(path: Path, latency: float, bandwidth: float) -> tuple[Costs, bool]:
    """Costs of the first model in a file, and whether any of them is provisional."""
    rows = rows_before(path)
    rows = [row for row in rows if all(row.get(one) == rows[0].get(one) for one in ("model", "dtype", "threads"))]
    lacking = f"{path}: has no {{}}; written by: benchmarks/serving.py --out FILE"

    def value(quantity: str, system: str) -> float:
        found = [row["value"] for row in rows if (row.get("quantity"), row.get("system")) == (quantity, system)]
        if not found:
            raise ValueError(lacking.format(f"{quantity!r} of {system!r}"))
        return float(found[-1])

    steps = {1: 1 / value("throughput", "1 at once")}
    for row in rows:
        match = re.fullmatch(r"step of (\d+) rows", row["quantity"])
        if match is not None and row["system"] == "update":
            steps[int(match[1])] = row["value"] / 1e3
    encoded = next((row["system"] for row in rows if str(row["system"]).endswith("tokens, encoded")), None)
    if encoded is None:
        raise ValueError(lacking.format("'first token' of a prompt that is encoded already"))
    size = int(value("bytes of an encoded prompt", "state and update"))
    overhead = max(0.0, value("first token", encoded) / 1e3 - steps[1])
    order = sorted(steps)
    costs = Costs(
        tuple(order), tuple(steps[one] for one in order), size, overhead, latency=latency, bandwidth=bandwidth
    )
    return costs, any(row.get("provisional", False) for row in rows)


def scale(options: argparse.Namespace, costs: Costs) -> list[dict[str, Any]]:
    """One row for each size of cache and router, under the same load."""
    load = Load.zipf(
        options.prompts, options.zipf, options.requests, options.rate, options.tokens, options.warm, options.seed
    )
    rows = []
    for cache in options.cache:
        for name, make in ROUTERS.items():
            found = simulate(load, costs, make(options.replicas), replicas=options.replicas, cache_bytes=cache * 1e6)
            found = {key: float(f"{value:.4g}") for key, value in found.items()}
            rows.append({"cache_bytes": cache * 1e6, "routing": name, "requests": options.requests} | found)
            print(f"{cache:6} MB  {name:24}" + "  ".join(f"{k} {v:.4g}" for k, v in found.items()), flush=True)
    return rows


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws hits and the first token's p99 over the size of the cache."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in ROUTERS:
        own = [row for row in rows if row["routing"] == name]
        sizes = [row["cache_bytes"] / 1e6 for row in own]
        axes[0].plot(sizes, [100 * row["hit_rate"] for row in own], marker="o", label=name)
        axes[1].plot(sizes, [row["first_p99"] for row in own], marker="o", label=name)
    for axis, title in zip(axes, ("found in the cache, %", "first token, p99, s"), strict=True):
        axis.set(xscale="log", xlabel="cache of each replica, MB", title=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(0, 100)
    axes[1].set_yscale("log")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


async def check(options: argparse.Namespace) -> dict[str, Any]:
    """Measures and simulates two replicas under the same load."""
    server = Server(options.check_against, options.check_tokens)
    await server.store(options.check_prompts)
    costs = await server.costs(2, options.cores)
    # A share of what they could do, so that queues stay short.
    rate = options.check_rate or 0.4 * min(options.cores, 2) / (costs.overhead + options.check_tokens * costs.step(1))
    load = zipf_of(server, options.zipf, options.check_requests, rate, options.seed)
    real = await server.run(load)
    simulated = simulate(
        load, costs, Multiplexed(2), replicas=2, cache_bytes=options.check_cache * 2**20, cores=options.cores
    )
    return {"costs": vars(costs), "rate": rate, "real": real, "simulated": simulated}


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("--costs", type=file_to_read, default=COSTS, help="written by benchmarks/serving.py")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the figures and the plot")
    parser.add_argument("--overwrite", action="store_true", help="replace the figures and the plot that are there")
    parser.add_argument("--replicas", type=positive_int, default=64)
    parser.add_argument("--prompts", type=positive_int, default=1_000_000)
    parser.add_argument("--zipf", type=natural_float, default=1.0, help="exponent of Zipf's law")
    parser.add_argument(
        "--rate", type=positive_float, default=300.0, help="requests a second, to all replicas together"
    )
    parser.add_argument("--requests", type=positive_int, default=5000)
    parser.add_argument("--warm", type=natural_int, default=300_000, help="requests that have filled the caches before")
    parser.add_argument("--tokens", type=positive_int, default=24, help="of every answer")
    parser.add_argument("--cache", type=positive_int, nargs="+", default=[64, 256, 1024], help="MB of each replica")
    parser.add_argument("--latency", type=natural_float, default=0.02, help="seconds until the storage begins to send")
    parser.add_argument("--bandwidth", type=positive_float, default=100e6, help="bytes a second to each replica")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check-against", metavar="URL", help="a running server of `demo` with two replicas")
    parser.add_argument("--check-prompts", type=positive_int, default=40)
    parser.add_argument("--check-tokens", type=positive_int, default=12, help="of every answer there")
    parser.add_argument("--check-cache", type=positive_int, default=256, help="MiB: that server's --prompt-cache")
    parser.add_argument("--check-requests", type=positive_int, default=150)
    parser.add_argument(
        "--check-rate", type=positive_float, help="requests a second; by default 40 %% of what they could do"
    )
    parser.add_argument("--cores", type=positive_int, default=2, help="that the two replicas may use together")
    options = parser.parse_args()
    names = ["serving-check.json"] if options.check_against else ["serving-at-scale.json", "serving-at-scale.png"]
    written = [check_new_file("--out", options.out / name, options.overwrite) for name in names]
    if options.check_against and options.check_tokens < 2:
        parser.error("--check-tokens is 1, must be at least 2: what a token costs is the time between two")
    if options.check_against:
        found = asyncio.run(check(options))
        off = shares(found["real"], found["simulated"], CHECKED)
        for name in found["real"]:
            note = f"{100 * off[name]:+7.1f} %" if name in off else ""
            print(f"{name:22}real {found['real'][name]:10.4g}  simulated {found['simulated'][name]:10.4g}  {note}")
        write_json(written[0], found | {"off": off})
        return int(any(abs(value) > NEAR for value in off.values()))
    costs, provisional = read_costs(options.costs, options.latency, options.bandwidth)
    rows = scale(options, costs)
    about = {name: getattr(options, name) for name in ("replicas", "prompts", "zipf", "rate", "tokens", "seed", "warm")}
    content = {"about": about | {"provisional": provisional, "costs": vars(costs)}, "rows": rows}
    write_json(written[0], content)
    with written_whole(written[1], overwrite=True) as path:
        plot(rows, path)
    print(table(rows))
    return 0


if __name__ == "__main__":
    run_script(main)
