"""The serving engine: what batching gains, what each row's own update and anchor cost, how long a first token takes.

    python benchmarks/serving.py [--version rwkv4] [--shape 169M] [--dtype fp32] [--threads 1] [--out FILE]

Weights are random, of a published shape; the module (`plus`) has an update that is not zero. Measured, in turn with
what it is compared with, the median of `--repeats`:

- tokens a second with 32 requests at once, and one at a time: prompts read, tokens sampled, text decoded;
- a step of 32 and of 64 rows whose prompts all differ, with an update, an anchor or both for each, against none: one
  engine each, which take turns step by step, so that each step is compared with the one beside it (`--steps` of them;
  in processor time where there is one thread, as the machine may be shared);
- the first token of a short request, on an idle engine and while a prompt of 4,000 tokens is read;
- the first token of a prompt of 2,000 tokens that is encoded already, against the same prompt as text.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
import torch
from _common import commit, median_interval, write_rows
from tokenizers import models, pre_tokenizers

from prosg.backbones import BACKBONES
from prosg.cli.scripts import ScriptParser, positive_int, rows_before, run_script
from prosg.core.encoded import EncodedPrompt, Memory
from prosg.generation.sampling import Sampling
from prosg.model.config import ProSGConfig
from prosg.model.prosg import ProSG
from prosg.serving import Engine, Finished, Piece, Request
from prosg.tokenizers.json_file import JsonTokenizer
from prosg.utils.environment import processor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MEMORIES: tuple[Memory, ...] = ("none", "update", "anchor", "both")
SHORT = 16
"""Tokens of a short prompt."""


def make_model(version: str, shape: str, dtype: torch.dtype) -> ProSG:
    kind = BACKBONES[version]
    backbone = kind.model(kind.sizes[shape])
    generator = torch.Generator().manual_seed(0)
    backbone.reset_parameters(generator)
    model = ProSG(backbone, ProSGConfig.from_preset("plus"), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    words = {f"w{token}": token for token in range(backbone.config.vocab_size)}
    inner = tokenizers.Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.tokenizer = JsonTokenizer(inner)
    return model.to(dtype).eval()


class Bench:
    """A model, and what is measured of it."""

    def __init__(self, model: ProSG, tokens: int, repeats: int, chunk: int) -> None:
        self.model, self.tokens, self.repeats, self.chunk = model, tokens, repeats, chunk
        self.vocab_size = model.backbone.config.vocab_size
        self.drawn = 0

    def ids(self, length: int) -> tuple[int, ...]:
        """A prompt that was not there before."""
        self.drawn += 1
        generator = torch.Generator().manual_seed(self.drawn)
        return tuple(torch.randint(1, self.vocab_size - 1, (length,), generator=generator).tolist())

    def engine(self, rows: int) -> Engine:
        return Engine(
            self.model, max_rows=rows, prefill_chunk=self.chunk, queue=1000, cache_bytes=0, fingerprint="random"
        )

    def request(self, ids: Sequence[int] = (), tokens: int = 0, **options: Any) -> Request:
        """A request whose answer is, in all likelihood, as long as it may be: one token of the vocabulary ends it."""
        sampling = Sampling(max_tokens=tokens or self.tokens, end_token=self.vocab_size - 1, seed=self.drawn)
        return Request(tuple(ids), sampling, **options)

    def throughput(self, rows: int, count: int) -> float:
        """Tokens a second: `count` requests, `rows` at once."""
        engine = self.engine(rows)
        for _ in range(count):
            engine.submit(self.request(self.ids(SHORT), memory="update"), lambda _: None)
        start = time.perf_counter()
        while engine.step():
            pass
        return engine.statistics().written_tokens / (time.perf_counter() - start)

    def step_seconds(self, begun: dict[str, Sequence[EncodedPrompt]], steps: int) -> dict[str, list[float]]:
        """Seconds of each of so many steps of rows that begin at these places; the engines take turns."""
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        engines = {}
        for name, places in begun.items():
            engines[name] = self.engine(len(places))
            for place in places:
                engines[name].submit(self.request(encoded=place, tokens=steps + 3), lambda _: None)
            for _ in range(2):
                engines[name].step()
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for turn in range(steps):
            # Backwards every other time, so that none always follows the same one.
            for name, engine in list(engines.items())[:: 1 if turn % 2 else -1]:
                start = clock()
                engine.step()
                seconds[name].append(clock() - start)
        return seconds

    def first_token(self, request: Request, before: Request | None = None) -> tuple[float, int]:
        """Seconds and steps to a request's first token, maybe while another one's prompt is read."""
        engine, told = self.engine(4), list[Piece | Finished]()
        if before is not None:
            engine.submit(before, lambda _: None)
            for _ in range(3):
                engine.step()
        start, steps = time.perf_counter(), 0
        engine.submit(request, told.append)
        while not told:
            engine.step()
            steps += 1
        return time.perf_counter() - start, steps

    def turns(self, actions: dict[str, Callable[[], float]]) -> dict[str, float]:
        """Medians of what takes turns, so that what disturbs the machine disturbs all of them."""
        values: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(self.repeats):
            for name, action in actions.items():
                values[name].append(action())
        return {name: statistics.median(found) for name, found in values.items()}


def measure(bench: Bench, rows: Sequence[int], steps: int, long: int, stored: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def add(quantity: str, system: str, value: float, unit: str, between: Sequence[float] = ()) -> None:
        row = {"quantity": quantity, "system": system, "value": float(f"{value:.4g}"), "unit": unit}
        bounds = [float(f"{bound:.4g}") for bound in between]
        found.append(row | ({"interval": bounds} if bounds else {}))
        print(f"{quantity:38}{system:28}{value:12.4g} {unit}{f'  {bounds}' if bounds else ''}", flush=True)

    most = rows[0]
    speed = bench.turns({"1": lambda: bench.throughput(1, 2), str(most): lambda: bench.throughput(most, most)})
    for name, value in speed.items():
        add("throughput", f"{name} at once", value, "tokens/s")
    add("throughput", f"{most} at once against 1", speed[str(most)] / speed["1"], "times")
    for count in rows:
        prompts = torch.tensor([bench.ids(SHORT) for _ in range(count)])
        both = bench.model.encode(prompts, memory="both")
        held = {memory: bench.model.held_by(both, memory) for memory in MEMORIES}
        places = {memory: [place.take([row]) for row in range(count)] for memory, place in held.items()}
        seconds = bench.step_seconds(places, steps)
        for memory, taken in seconds.items():
            add(f"step of {count} rows", memory, 1e3 * statistics.median(taken), "ms")
            if memory != "none":
                costs = [100 * (own / none - 1) for own, none in zip(taken, seconds["none"], strict=True)]
                add(f"cost of {count} of their own", memory, statistics.median(costs), "%", median_interval(costs))
    text = bench.ids(stored)
    kept = bench.model.encode(torch.tensor([text]), memory="update")
    waits = bench.turns(
        {
            "idle": lambda: bench.first_token(bench.request(bench.ids(SHORT)))[0],
            "busy": lambda: bench.first_token(bench.request(bench.ids(SHORT)), bench.request(bench.ids(long)))[0],
            "stored": lambda: bench.first_token(bench.request(encoded=kept))[0],
            "text": lambda: bench.first_token(bench.request(text, memory="update"))[0],
        }
    )
    add("first token", "idle", 1e3 * waits["idle"], "ms")
    add("first token", f"while {long} tokens are read", 1e3 * waits["busy"], "ms")
    steps = bench.first_token(bench.request(bench.ids(SHORT)), bench.request(bench.ids(long)))[1]
    add("first token", f"while {long} tokens are read", steps, "steps")
    add("first token", f"{stored} tokens, as text", 1e3 * waits["text"], "ms")
    add("first token", f"{stored} tokens, encoded", 1e3 * waits["stored"], "ms")
    add("first token", "encoded against text", waits["text"] / waits["stored"], "times sooner")
    row = bench.model.encode(torch.tensor([bench.ids(SHORT)]), memory="update")
    add("bytes of an encoded prompt", "state and update", row.nbytes, "bytes")
    return found


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_argument("--version", choices=BACKBONES, default="rwkv4")
    parser.add_argument("--shape", default="169M", help="a published size, demo, or debug")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--rows", type=positive_int, nargs="+", default=[32, 64])
    parser.add_argument("--tokens", type=positive_int, default=32, help="of an answer")
    parser.add_argument("--steps", type=positive_int, default=40, help="that are compared")
    parser.add_argument("--long", type=positive_int, default=4000, help="tokens of the prompt that is read meanwhile")
    parser.add_argument(
        "--stored", type=positive_int, default=2000, help="tokens of the prompt that is encoded already"
    )
    parser.add_argument("--chunk", type=positive_int, default=256, help="tokens of prompts between two steps")
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument("--threads", type=positive_int, default=1)
    parser.add_out("JSON file for the rows; those of other systems in it stay", merges=True)
    options = parser.parse_args()
    sizes = BACKBONES[options.version].sizes
    if options.shape not in sizes:
        parser.error(f"--shape {options.shape} is unknown; allowed: {', '.join(sizes)}")
    torch.set_num_threads(options.threads)
    model = make_model(options.version, options.shape, DTYPES[options.dtype])
    print(f"{processor()}; torch {torch.__version__}; {model.backbone.kernel_in_use}; {options.threads} thread(s)")
    bench = Bench(model, options.tokens, options.repeats, options.chunk)
    about = {"model": f"{options.version} {options.shape}", "dtype": options.dtype, "threads": options.threads}
    rows = [row | about for row in measure(bench, options.rows, options.steps, options.long, options.stored)]
    if options.out:
        kept = [row for row in rows_before(options.out) if any(row.get(name) != value for name, value in about.items())]
        rows = kept + [row | {"machine": processor(), "commit": commit()} for row in rows]
        write_rows(options.out, rows)


if __name__ == "__main__":
    run_script(main)
