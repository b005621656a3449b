"""Why an update's late stage is missed far from its prompt: what is wrong with the state there.

    python experiments/full_memory.py DIR/plus --tokens 10000 --rows 24 --out full_memory.json

A model with a module writes stories whose memories are not limited. At several lengths the late stage is asked for:
from the state as it is, from one whose memories are scaled to the norms that they had after the story's first 50
tokens (the directions stay), from one without the memory of one layer, and from an empty state. Where the late stage
is right again, the update had its prompt all along.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from prosg import load_model
from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import State, limit_memory, map_state, memory_norms
from prosg.data.row import Row
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.model.prosg import ProSG
from prosg.utils.io import write_json
from prosg.utils.tables import to_text
from state_growth import stories
from two_prompts import late_text, written

FIRST = 50
"""Tokens of a story in range."""


def without(state: State, number: int) -> State:
    """The state without the memory of a layer."""
    return tuple(
        type(layer)(*(torch.zeros_like(leaf) if leaf.ndim > 2 and at == number else leaf for leaf in layer))
        for at, layer in enumerate(state)
    )


def scaled(state: State, limit: Tensor) -> State:
    """The state with memories of at most these norms."""
    copy = map_state(torch.clone, state)
    limit_memory(copy, limit)
    return copy


def right(model: ProSG, rows: list[Row], place: EncodedPrompt) -> float:
    """Share of rows whose late stage is exactly right from here."""
    got = written(model, [row.stages[-1].marker for row in rows], place)
    return sum(a == late_text(row) for a, row in zip(got, rows, strict=True)) / len(rows)


@torch.no_grad()
def measure(name: str, count: int, lengths: list[int], seed: int, split: str) -> list[dict[str, object]]:
    """Shares by length and state."""
    model = load_model(name)
    rows = make_rows(DEMO_KINDS, count, seed, split, sentences=(5, 5))
    encoded = model.encode([row.prompt for row in rows], memory="update").replace(limit=None)
    found: list[dict[str, object]] = []
    in_range = None
    for at, step in enumerate(stories(model, rows, encoded, max(lengths), seed)):
        if at not in (FIRST, *lengths):
            continue
        place, state = step.before, step.before.state
        norms = memory_norms(state)
        in_range = norms if in_range is None else in_range
        states = {"as it is": state, "memories scaled": scaled(state, in_range), "empty": model.init_state(count)}
        states |= {f"without the memory of layer {number}": without(state, number) for number in range(len(state))}
        largest = (norms / in_range).amax(0).tolist()
        for called, one in states.items():
            share = right(model, rows, place.replace(state=one))
            found.append({"model": name, "tokens": at, "state": called, "late": share, "growth": largest})
            print(f"{name}: {at} tokens, {called}: {share:.2f}", file=sys.stderr)
        if at == max(lengths):
            break
    return found


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("models", nargs="+", help="adapters' folders")
    parser.add_argument("--rows", type=positive_int, default=24)
    parser.add_argument("--tokens", type=positive_int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", default="test")
    parser.add_out("JSON file for the figures")
    options = parser.parse_args()
    found = [
        line
        for name in options.models
        for line in measure(name, options.rows, options.tokens, options.seed, options.split)
    ]
    head = ["model", "tokens", "state", "late stage right", "growth of the memory, by layer"]
    lines = []
    for line in found:
        growth = line["growth"]
        assert isinstance(growth, list)
        told = " ".join(f"{one:.3g}" for one in growth)
        lines.append([str(line["model"]), str(line["tokens"]), str(line["state"]), f"{line['late']:.2f}", told])
    print(to_text([head, *lines]))
    if options.out:
        write_json(options.out, {"rows": options.rows, "seed": options.seed, "split": options.split, "found": found})
    return 0


if __name__ == "__main__":
    run_script(main)
