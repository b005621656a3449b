"""Products of few rows with a matrix, y = x W^T: the compiled kernel beside PyTorch's own, and what the core could do.

    python benchmarks/linear.py [--out FILE] [--types fp32 bf16 int8] [--rows 1 4 8 16 32 64] [--repeats 7]

The matrices are those of a model of width 768, more of each than the caches hold, so that all come from memory, as in
decoding. GFLOP/s of one thread; the limit is the bytes of the matrix over the bandwidth at which a core reads or the
operations over its rate in a large product, whichever takes longer. PyTorch has no product with a matrix in int8.
"""

from __future__ import annotations

from typing import Any

import torch
from _common import commit, medians, write_rows
from decoding import machine
from torch import Tensor

from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.ops.linear import KERNELS
from prosg.utils.environment import processor

SHAPES = ((768, 768), (3072, 768), (768, 3072), (50277, 768))
"""Outputs and inputs: projections, the channel mixing's two, the head."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
MEMORY = 96 << 20
"""Bytes of the matrices of one shape, at least."""


def matrices(outputs: int, inputs: int, dtype: torch.dtype) -> list[Tensor]:
    """Random ones that together are too large for the caches."""
    size = outputs * inputs * torch.empty(0, dtype=dtype).element_size()
    return [torch.randn(outputs, inputs).mul(30).to(dtype) for _ in range(-(-MEMORY // size))]


def measure(name: str, shape: tuple[int, int], rows: list[int], repeats: int) -> list[dict[str, Any]]:
    """GFLOP/s of the kernels for each number of rows."""
    outputs, inputs = shape
    dtype = TYPES[name]
    weights = matrices(outputs, inputs, dtype)
    scale = torch.rand(outputs) if dtype == torch.int8 else None
    bandwidth, rate = machine("fp32", repeats)
    if name == "bf16":  # slower than in fp32 where the processor has no such products
        rate = max(rate, machine(name, repeats)[1])
    names = ["c"] if scale is not None else ["torch", "c"]
    found = []
    for count in rows:
        x = torch.randn(count, inputs).to(torch.float32 if scale is not None else dtype)

        def run(kernel: str, x: Tensor = x) -> None:
            for weight in weights:
                KERNELS[kernel](x, weight, scale)

        seconds = medians({kernel: lambda kernel=kernel: run(kernel) for kernel in names}, repeats, 1)
        operations = 2 * count * outputs * inputs
        limit = operations / max(weights[0].nbytes / bandwidth, operations / rate)
        sizes = {"dtype": name, "outputs": outputs, "inputs": inputs, "rows": count}
        for kernel, taken in seconds.items():
            speed = operations * len(weights) / taken
            found.append(sizes | {"system": kernel, "gflops": speed / 1e9, "limit": limit / 1e9})
    return found


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_out("JSON file for the rows")
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=TYPES)
    parser.add_argument("--rows", nargs="+", type=positive_int, default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--repeats", type=positive_int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; torch {torch.__version__}; one thread; GFLOP/s")
    print(f"{'':22}{'rows':>5}{'torch':>9}{'c':>9}{'limit':>9}{'share':>7}")
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for name in options.types:
            for shape in SHAPES:
                found = measure(name, shape, options.rows, options.repeats)
                rows += [row | {"machine": processor(), "threads": 1, "commit": commit()} for row in found]
                for count in options.rows:
                    speeds = {row["system"]: row for row in found if row["rows"] == count}
                    ours, theirs = speeds["c"], speeds.get("torch", {}).get("gflops")
                    print(
                        f"{name:5}{shape[0]:7} x{shape[1]:6}  {count:5}"
                        f"{f'{theirs:.1f}' if theirs else '-':>9}{ours['gflops']:9.1f}{ours['limit']:9.1f}"
                        f"{ours['gflops'] / ours['limit']:7.2f}",
                        flush=True,
                    )
    if options.out:
        write_rows(options.out, rows)


if __name__ == "__main__":
    run_script(main)
