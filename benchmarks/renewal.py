"""What a conversation keeps: its first prompt held throughout, or all of it held anew at each turn.

    python benchmarks/renewal.py [--model demo] [--rows 128] [--turns 1 2 4 8] [--out FILE]

The first turn gives a code. In one set the turns after it ask for stories; at the end of the last answer "Code:" is
forced, and the first code should follow. In the other each turn gives a code of its own, and the last turn's should.
Answers are the rows' own, read as a chat reads what it wrote; the code is written greedily.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from _common import commit

from prosg.checkpoints.load import load_model
from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.core.encoded import MEMORIES, EncodedPrompt, Memory, with_update
from prosg.core.tensors import pad
from prosg.data.row import Row
from prosg.data.synthetic import make_rows
from prosg.generation.decode import advance
from prosg.model.prosg import ProSG
from prosg.utils.io import write_json

MARKER = "\nCode:"
RENEWALS = ("never", "turn")


class Talks:
    """Conversations side by side, each a row of one batch, as `prosg.model.conversation.Conversation` has one."""

    def __init__(self, model: ProSG, memory: Memory, renew: str, prompts: Sequence[str]) -> None:
        self.model, self.memory, self.renew = model, memory, renew
        self.texts = list(prompts)
        self.place = model.encode(self.texts, memory=memory)

    def read(self, texts: Sequence[str]) -> EncodedPrompt:
        """The place after these texts."""
        assert self.model.tokenizer is not None
        ids = [self.model.tokenizer.encode(text) for text in texts]
        return advance(self.model.backbone, self.place, pad(ids), torch.tensor([*map(len, ids)]))

    def turn(self, texts: Sequence[str]) -> None:
        """Reads the user's next turn."""
        self.place = self.read([f"\n\n{text}" for text in texts])
        self.texts = [f"{before}\n\n{text}" for before, text in zip(self.texts, texts, strict=True)]
        if self.renew == "turn":
            if with_update(self.memory):
                encoded = self.model.encode(self.texts, memory="update")
                self.place = self.place.replace(update=encoded.update, known=encoded.known)
            self.place = self.model.held_by(self.place.replace(anchor=None), self.memory)

    def answer(self, texts: Sequence[str]) -> None:
        """Reads the answers to it."""
        self.place = self.read(texts)
        self.texts = [before + text for before, text in zip(self.texts, texts, strict=True)]

    def says(self, stories: Sequence[str], codes: Sequence[str]) -> float:
        """The share of answers that, after these stories, give these codes."""
        place = self.read([story + MARKER for story in stories])
        written = self.model.generate(place, temperature=0.0, max_tokens=16)
        return sum(text.split()[:1] == [code] for text, code in zip(written, codes, strict=True)) / len(codes)


def code_of(row: Row) -> str:
    return row.answer.rpartition(MARKER)[2].strip()


def story_of(row: Row) -> str:
    return row.answer.partition(MARKER)[0]


def measure(
    model: ProSG, count: int, turns: Sequence[int], memory: Memory, renew: str, coded: bool
) -> Iterator[dict[str, Any]]:
    """Accuracies after each number of turns: of the first turn's code, and, where all give one, of the last's."""
    sets = [make_rows(("code" if coded or not i else "story",), count, i, "test") for i in range(max(turns))]
    talks = Talks(model, memory, renew, [row.prompt for row in sets[0]])
    for number, rows in enumerate(sets, 1):
        if number > 1:
            talks.turn([row.prompt for row in rows])
        stories = [story_of(row) for row in rows]
        if number in turns:
            first = talks.says(stories, [code_of(row) for row in sets[0]])
            last = talks.says(stories, [code_of(row) for row in rows]) if coded else None
            yield {
                "memory": memory,
                "renew": renew,
                "set": "codes" if coded else "stories",
                "turns": number,
                "tokens": len(model.tokenizer.encode(talks.texts[0])) if model.tokenizer else 0,
                "first": first,
                "last": last,
            }
        talks.answer([row.answer for row in rows])


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rows", type=positive_int, default=128)
    parser.add_argument("--turns", type=positive_int, nargs="+", default=[1, 2, 4, 8])
    parser.add_out("JSON file for the figures")
    options = parser.parse_args()
    model = load_model(options.model)
    found = [
        row
        for coded in (False, True)
        for memory in MEMORIES
        for renew in (RENEWALS if memory != "none" else RENEWALS[:1])
        for row in measure(model, options.rows, options.turns, memory, renew, coded)
    ]
    for row in found:
        last = "" if row["last"] is None else f"  last code {row['last']:.3f}"
        name = f"{row['set']:<8} {row['memory']:<7} {row['renew']:<6}"
        print(f"{name} {row['turns']} turns, {row['tokens']:>4} tokens  first code {row['first']:.3f}{last}")
    if options.out:
        result = {"commit": commit(), "model": options.model, "rows": options.rows, "results": found}
        write_json(options.out, result)


if __name__ == "__main__":
    run_script(main)
