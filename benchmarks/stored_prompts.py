"""Many stored prompts: their bytes in memory and on disk, and the seconds to store, find and load one.

    python benchmarks/stored_prompts.py [--count 1000] [--version rwkv4] [--shape demo] [--dtype fp32] [--out FILE]

Weights are random, of a published shape, as in benchmarks/serving.py; the prompts differ in their values alone, since
that is all in which prompts of any text and length differ. All are kept in memory as the server keeps them, then stored
as it stores them, each synced before the next, then read back. What `prosg info` says stands beside what was measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import commit
from serving import DTYPES, make_model

from prosg.backbones import BACKBONES
from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.core.encoded import EncodedPrompt
from prosg.core.packed import PackedPrompt
from prosg.inspection.prompt_memory import blank_prompt, file_bytes
from prosg.serving.api.prompts import PromptRecord, PromptStore, prompt_id
from prosg.serving.api.storage import Folder
from prosg.utils.environment import processor
from prosg.utils.io import write_json

OWNER = "local"
FINGERPRINT = "random"


def resident() -> int:
    """Bytes of memory that this process takes, on Linux."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def copy_of(encoded: EncodedPrompt, number: int) -> EncodedPrompt:
    """The same prompt with other logits, in memory of its own."""
    row = encoded.take([0])
    row.logits[0, number % row.logits.shape[1]] += 1.0
    return row


def record_of(number: int) -> PromptRecord:
    identity = prompt_id(OWNER, number=number)
    return PromptRecord(identity, number, "", "text", 20, 0, FINGERPRINT, None, None, None, "", ())


def timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(version: str, shape: str, dtype: torch.dtype, count: int) -> dict[str, float]:
    model = make_model(version, shape, dtype)
    first = model.encode(torch.ones(1, 20, dtype=torch.int64), memory="update")
    before = resident()
    prompts = [PackedPrompt(copy_of(first, number)) for number in range(count)]
    in_memory = (resident() - before) / count
    with tempfile.TemporaryDirectory(prefix="prosg-stored-") as folder:
        store = PromptStore(Folder(Path(folder)), model, FINGERPRINT, cache_bytes=0)
        records = [record_of(number) for number in range(count)]
        pairs = ((record, prompt.unpack()) for record, prompt in zip(records, prompts, strict=True))
        stored = [timed(lambda pair=pair: store.add(OWNER, *pair)) for pair in pairs]
        files = [file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()]
        listed = timed(lambda: store.owned_by(OWNER))
        loaded = [timed(lambda record=record: store.load(OWNER, record)) for record in records]
        assert torch.equal(store.load(OWNER, records[-1]).encoded.logits, prompts[-1].unpack().logits)
    blank = blank_prompt(model)
    return {
        "bytes in memory": in_memory,
        "bytes in memory, as prosg info has them": blank.nbytes,
        "bytes on disk": sum(files) / count,
        "bytes on disk, as prosg info has them": file_bytes(blank),
        "ms to store one": 1e3 * statistics.median(stored),
        "ms to load one": 1e3 * statistics.median(loaded),
        "ms to list all": 1e3 * listed,
    }


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_argument("--count", type=positive_int, default=1000)
    parser.add_argument("--version", choices=BACKBONES, default="rwkv4")
    parser.add_argument("--shape", default="demo", help="a published size, demo, or debug")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_out("JSON file for the figures")
    options = parser.parse_args()
    sizes = BACKBONES[options.version].sizes
    if options.shape not in sizes:
        parser.error(f"--shape {options.shape} is unknown; allowed: {', '.join(sizes)}")
    torch.set_num_threads(1)
    found = measure(options.version, options.shape, DTYPES[options.dtype], options.count)
    print(f"{options.count} prompts of {options.version} {options.shape}, {options.dtype}; {processor()}")
    for name, value in found.items():
        print(f"{name:42}{value:12,.4g}" if value < 1000 else f"{name:42}{value:12,.0f}")
    if options.out:
        about = {"count": options.count, "model": f"{options.version} {options.shape}", "dtype": options.dtype}
        write_json(options.out, about | found | {"machine": processor(), "commit": commit()})


if __name__ == "__main__":
    run_script(main)
