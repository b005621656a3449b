"""Two prompts in one update: what each says is asked for, one after the other.

    python experiments/two_prompts.py rows --seed 1 --rows 12000 --out two.jsonl
    python experiments/two_prompts.py measure demo MODULE ... [--rows 96] [--out two.json]

`rows` writes instructions whose prompt is two of the demo's, of different kinds, and whose answer has both last stages:
a module can be trained on them. `measure` has a module read two prompts of the test split in several ways; then a
story stands in the answer, and the late stage of the first prompt is written, and, after the story, that of the second:

    alone       the first prompt's update, and the second's
    added       the products of both, dW = B1 A1 + B2 A2
    one set     the prompts read one after the other, each from the initial state, by one set of reads: one update
    one text    the prompts as one text

each with the state that the two prompts left as one text, and with the state wiped.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import torch

from prosg import load_model
from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.core.encoded import EncodedPrompt
from prosg.core.tensors import pad
from prosg.core.update import LowRank, Update
from prosg.data.row import Row, derived_id, write_rows
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.generation.decode import advance
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts
from prosg.model.prosg import ProSG
from prosg.model.reading import read_prompt
from prosg.utils.io import write_json
from prosg.utils.tables import to_text

LONGEST = 24
"""Tokens of a late stage at most."""


def joined(first: Row, second: Row) -> Row:
    """Both instructions in one prompt; the answer is the first's, then the second's last stage."""
    prompt, late = f"{first.prompt} {second.prompt}", second.stages[-1]
    answer = first.answer + second.answer[late.start :]
    stages = (*first.stages, replace(late, start=len(first.answer)))
    return Row(derived_id(prompt, answer), prompt, answer, "two", stages, first.distance_words)


def late_text(row: Row) -> str:
    """The row's own late stage, after its marker."""
    late = row.stages[-1]
    return row.answer[late.start + len(late.marker) :].strip()


def pairs_of(count: int, seed: int, split: str) -> list[tuple[Row, Row]]:
    """Pairs of instructions of different kinds, each order as often."""
    orders = list(permutations(DEMO_KINDS, 2))
    each = -(-count // len(orders))
    drawn = {
        order: zip(
            make_rows(order[:1], each, seed, split),
            make_rows(order[1:], each, seed + 1000, split),
            strict=True,
        )
        for order in orders
    }
    return [pair for several in zip(*drawn.values(), strict=True) for pair in several][:count]


@torch.no_grad()
def updates_of(model: ProSG, pairs: list[tuple[Row, Row]]) -> tuple[dict[str, Update], EncodedPrompt]:
    """The updates by what they are called in the table, and both prompts as one text."""
    assert model.synthesizer is not None
    sides = [model.padded(model.prepare([pair[side].prompt for pair in pairs])) for side in (0, 1)]
    reads = model.synthesizer.init(sides[0][1] + sides[1][1])
    for ids, lengths in sides:
        _, reads, _ = read_prompt(model.backbone, ids, lengths, None, model.synthesizer, reads, chunk=model.chunk)
    alone = [model.encode(*side, memory="update").update for side in sides]
    text = model.encode([f"{first.prompt} {second.prompt}" for first, second in pairs], memory="update")
    first, second = alone
    assert first is not None and second is not None and text.update is not None
    added = {
        site: LowRank(torch.cat([first[site].a, second[site].a], 1), torch.cat([first[site].b, second[site].b], 2))
        for site in first
    }
    found = {"first alone": first, "second alone": second, "added": added}
    return found | {"one set of reads": model.synthesizer.finish(reads), "one text": text.update}, text


def written(model: ProSG, texts: list[str], place: EncodedPrompt) -> list[str]:
    """What the model writes greedily after each text, to the end of the line."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    rows = [tokenizer.encode(text) for text in texts]
    place = advance(model.backbone, place, pad(rows), torch.tensor([len(row) for row in rows]))
    sampling = Sampling(max_tokens=LONGEST, temperature=0.0, stop=("\n",), end_token=model.special.end)
    return [answer.text.strip() for answer in generate_texts(model.backbone, place, tokenizer, sampling)]


def measure(name: str, pairs: list[tuple[Row, Row]]) -> list[dict[str, object]]:
    """Shares of prompts whose late stage is right, by update, state and place."""
    model = load_model(name)
    updates, text = updates_of(model, pairs)
    stories = [first.answer[: first.stages[-1].start] for first, _ in pairs]
    found: list[dict[str, object]] = []
    for where, start in (("kept", text.state), ("wiped", model.init_state(len(pairs)))):
        for called, update in updates.items():
            shares = []
            for side in (0, 1):
                late = [pair[side].stages[-1] for pair in pairs]
                texts = [story + stage.marker for story, stage in zip(stories, late, strict=True)]
                wanted = [late_text(pair[side]) for pair in pairs]
                got = written(model, texts, text.replace(state=start, update=update))
                shares.append(sum(a == b for a, b in zip(got, wanted, strict=True)) / len(pairs))
            found.append({"module": name, "state": where, "update": called, "first": shares[0], "second": shares[1]})
    return found


def main() -> int:
    parser = ScriptParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows", help="write rows with two prompts")
    rows.add_argument("--split", default="train")
    measuring = commands.add_parser("measure", help="have modules read two prompts")
    measuring.add_argument("modules", nargs="+", help="demo, or adapters' folders")
    for command, count in ((rows, 12_000), (measuring, 96)):
        command.add_argument("--rows", type=positive_int, default=count)
        command.add_argument("--seed", type=int, default=1)
        command.add_out("the file to write", required=command is rows)
    options = parser.parse_args()
    if options.command == "rows":
        write_rows(options.out, [joined(*pair) for pair in pairs_of(options.rows, options.seed, options.split)])
        return 0
    pairs = pairs_of(options.rows, options.seed, "test")
    found = [line for name in options.modules for line in measure(name, pairs)]
    head = ["module", "state", "update", "first right", "second right"]
    print(to_text([head, *([str(v) if isinstance(v, str) else f"{v:.2f}" for v in line.values()] for line in found)]))
    if options.out:
        write_json(options.out, found)
    return 0


if __name__ == "__main__":
    run_script(main)
