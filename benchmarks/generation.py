"""Time of many generations: answers of a fixed length from a small RWKV-4, with updates of their own and without.

    python benchmarks/generation.py [--out FILE] [--answers 1000] [--tokens 200] [--batch 500] [--threads 1 2]
        [--repeats 3]

Prints, per system, seconds and seconds of processor time, all threads together (beside other work they say more), for
all answers: prompts encoded, tokens sampled at temperature .8 with numbers of their own per row, text decoded. The
quickest repetition counts; the systems take turns. `--out` gets the same as rows. Beside other work, two threads wait
for each other with less waste under GOMP_SPINCOUNT=30000, as `prosg eval` sets it for its processes.

    python benchmarks/generation.py --steps 200 [--rows 1 8 48]

Prints instead what a step of `decode` takes while a story is held, as in `prosg curve`: models of the demo's size, one
thread, milliseconds of processor time, the best of many short runs of steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from _common import commit, write_rows

from prosg.backbones import BACKBONES
from prosg.backbones.native import NativeBackbone
from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.load import load_model
from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.core.encoded import EncodedPrompt
from prosg.core.tensors import pad
from prosg.core.update import LowRank
from prosg.data.synthetic import make_rows
from prosg.generation.decode import decode
from prosg.generation.length_control import sentence_ends
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts
from prosg.model.config import ProSGConfig
from prosg.model.prosg import ProSG
from prosg.utils.environment import processor

HIDDEN, LAYERS = 112, 3
VERSIONS = ("rwkv4", "rwkv7")
RANK = 8
RUN = 5


def make_model() -> ProSG:
    """0.7 million parameters of random weights, with the demo's tokenizer, and a module whose update is not zero."""
    tokenizer = load_model("demo").tokenizer
    backbone = RWKV4(RWKV4Config(vocab_size=tokenizer.vocab_size, hidden_size=HIDDEN, num_layers=LAYERS))
    generator = torch.Generator().manual_seed(0)
    backbone.reset_parameters(generator)
    model = ProSG(backbone, ProSGConfig.from_preset("plus"))
    model.tokenizer = tokenizer
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def write(model: ProSG, prompts: list[list[int]], tokens: int, batch: int, update: bool = True) -> int:
    """Answers to all prompts; returns how many tokens they have."""
    written = 0
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        encoded = model.encode(
            pad(some), torch.tensor([len(ids) for ids in some]), memory="update" if update else "none"
        )
        # No token ends an answer: all are of the same length.
        sampling = Sampling(max_tokens=tokens, end_token=-1, seed=start)
        answers = generate_texts(model.backbone, encoded, model.tokenizer, sampling)
        written += sum(len(answer.ids) for answer in answers)
    return written


def without_update(model: ProSG, *arguments: Any) -> int:
    return write(model, *arguments, update=False)


def measure(model: ProSG, prompts: list[list[int]], sizes: dict[str, int], repeats: int) -> dict[str, list[float]]:
    """By system: seconds, and seconds of processor time."""
    torch.set_num_threads(sizes["threads"])
    systems: dict[str, Callable[..., int]] = {"no update": without_update, "own updates": write}
    best: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, run in systems.items():
            start, used = time.perf_counter(), time.process_time()
            assert run(model, prompts, sizes["tokens"], sizes["batch"]) == len(prompts) * sizes["tokens"]
            taken = [time.perf_counter() - start, time.process_time() - used]
            best[name] = list(map(min, best.get(name, taken), taken))
    return best


@torch.no_grad()
def held_place(model: NativeBackbone, rows: int, update: bool) -> EncodedPrompt:
    """The place after random prompts, under random updates or none."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return 0.05 * torch.randn(shape, generator=generator)

    prompt = torch.randint(1, model.config.vocab_size, (rows, 20), generator=generator)
    output = model(prompt, logits="last")
    factors = {site: LowRank(draw(rows, RANK, inp), draw(rows, out, RANK)) for site, (out, inp) in model.sites.items()}
    assert output.logits is not None
    return EncodedPrompt(output.state, factors if update else None, output.logits)


def time_steps(model: NativeBackbone, place: EncodedPrompt, ends: torch.Tensor, steps: int) -> float:
    """Milliseconds of processor time that a step takes while all rows are held."""
    sampling = Sampling(temperature=0.8, hold_until=steps, force_marker=["held"] * place.batch)
    best, start = float("inf"), 0.0
    for count, _ in enumerate(decode(model, place, sampling, markers=[[5, 6, 7]] * place.batch, ends_sentence=ends)):
        if count % RUN == 0:
            now = time.process_time()
            best, start = min(best, now - start) if count else best, now
        if count == steps:
            break
    return 1e3 * best / RUN


def measure_steps(steps: int, sizes: list[int]) -> list[dict[str, Any]]:
    """What a step of each model takes, for each number of rows."""
    torch.set_num_threads(1)
    tokenizer = load_model("demo").tokenizer
    rows = []
    print(f"{'':8}{'':14}{'rows':>6}{'ms a step':>12}")
    for version in VERSIONS:
        kind = BACKBONES[version]
        model = kind.model(kind.sizes["demo"])
        model.reset_parameters(torch.Generator().manual_seed(0))
        ends = sentence_ends(tokenizer, model.config.vocab_size)
        for size in sizes:
            for name, update in (("no update", False), ("own updates", True)):
                value = time_steps(model.eval(), held_place(model, size, update), ends, steps)
                print(f"{version:8}{name:14}{size:6}{value:12.2f}", flush=True)
                row = {"quantity": "decoding step", "version": version, "system": name, "rows": size, "value": value}
                rows.append({**row, "unit": "ms", "threads": 1})
    return rows


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_out("JSON file for the rows")
    parser.add_argument("--answers", type=positive_int, default=1000)
    parser.add_argument("--tokens", type=positive_int, default=200)
    parser.add_argument("--batch", type=positive_int, default=500)
    parser.add_argument("--threads", type=positive_int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument("--steps", type=positive_int, help="time so many steps under length control instead")
    parser.add_argument("--rows", type=positive_int, nargs="+", default=[1, 8, 48], help="rows of such steps")
    args = parser.parse_args()
    if args.steps:
        origin = {"machine": processor(), "commit": commit(), "dtype": "float32"}
        rows = [row | origin for row in measure_steps(args.steps, args.rows)]
        if args.out:
            write_rows(args.out, rows)
        return
    model = make_model()
    count = sum(parameter.numel() for parameter in model.backbone.parameters())  # type: ignore[attr-defined]
    prompts = [model.tokenizer.encode(row.prompt) for row in make_rows(size=args.answers, split="test")]
    print(f"{processor()}; torch {torch.__version__}; rwkv4 of {count:,} parameters, {model.backbone.kernel_in_use}")
    print(f"{args.answers} answers of {args.tokens} tokens, {args.batch} at once")
    print(f"{'threads':8}{'':14}{'seconds':>10}{'processor':>11}{'tokens a second':>18}")
    rows = []
    origin = {"machine": processor(), "commit": commit(), "dtype": "float32", "parameters": count}
    for threads in args.threads:
        sizes = {"answers": args.answers, "tokens": args.tokens, "batch": args.batch, "threads": threads}
        for name, (seconds, used) in measure(model, prompts, sizes, args.repeats).items():
            print(f"{threads:7} {name:14}{seconds:10.2f}{used:11.2f}{args.answers * args.tokens / seconds:18,.0f}")
            for quantity, value in (("generation", seconds), ("generation, processor time", used)):
                rows.append({"quantity": quantity, "system": name, "value": value, "unit": "s", **sizes, **origin})
    if args.out:
        write_rows(args.out, rows)


if __name__ == "__main__":
    run_script(main)
