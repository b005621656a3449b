"""Batching as a server does it: rows join and leave between steps, each with a prompt, update and anchor of its own.

    python examples/batch_serving.py

A place in a text is a value of B rows (`EncodedPrompt`). A request joins by concatenation, `advance` reads one token
for all, and rows that have ended are left out by indexing. A row's text is the one that it has alone.
`prosg.serving.Engine` does this with long prompts read in between, a cache, a queue, deadlines and stop strings.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from prosg import EncodedPrompt, ProSG, Sampling, load_model
from prosg.core.rng import uniforms
from prosg.generation.decode import advance
from prosg.generation.sampling import pick
from prosg.tokenizers.base import StreamDecoder

PROMPTS = (
    "I want a story. It must end in the church, with the ball and the sword.",
    "Tell a short story and at the end repeat the code 57488348.",
    "Please tell a short story and then give me these names: Ben, Anna, Emma and Peter.",
    "Please tell me a story. At the end, the lens and the lamp are in the shop.",
    "The code is 6660626. Tell a story, then give the code.",
)
FIRST = np.zeros(1, np.int64)
"""The number of a row in its own draws: each is the first, as it is alone."""


@dataclass
class Request:
    """One answer to be written."""

    prompt: str
    sampling: Sampling = field(default_factory=Sampling)
    tau: float | None = None
    """window of the anchor, tokens; None takes the backbone's default"""


@dataclass
class Row:
    """A request that is being answered."""

    request: Request
    decoder: StreamDecoder
    step: int = 0
    text: str = ""


class Batch:
    """Answers requests, at most `size` at once."""

    def __init__(self, model: ProSG, size: int) -> None:
        self.model, self.size = model, size
        self.waiting: deque[Request] = deque()
        self.rows: list[Row] = []
        self.place: EncodedPrompt | None = None

    def run(self) -> Iterator[tuple[Request, str]]:
        """Yields each request with its answer as soon as it is written. Requests may be added in between."""
        while self.waiting or self.rows:
            self._join()
            yield from self._step()

    def _join(self) -> None:
        """Takes waiting requests in, as long as there is room."""
        assert self.model.tokenizer is not None
        while self.waiting and len(self.rows) < self.size:
            request = self.waiting.popleft()
            encoded = self.model.encode(request.prompt, memory="both", tau=request.tau)
            self.place = encoded if self.place is None else EncodedPrompt.join([self.place, encoded])
            self.rows.append(Row(request, self.model.tokenizer.stream()))

    def _step(self) -> Iterator[tuple[Request, str]]:
        """Writes one token in every row; rows that end leave, and the others go on."""
        assert self.place is not None
        options = [row.request.sampling for row in self.rows]
        # Of (seed, step) alone, so that no row depends on its neighbours.
        draws = (uniforms(row.request.sampling.seed, row.step, FIRST, 1)[0, 0] for row in self.rows)
        numbers = torch.tensor([*draws], dtype=torch.float32)
        temperature = torch.tensor([o.temperature for o in options])
        tokens = pick(self.place.logits, temperature, numbers)
        staying = []
        for index, (row, token) in enumerate(zip(self.rows, tokens.tolist(), strict=True)):
            row.step += 1
            ended = token in self.model.special.end
            row.text += row.decoder.flush() if ended else row.decoder.push(token)
            if ended or row.step == row.request.sampling.max_tokens:
                yield row.request, row.text if ended else row.text + row.decoder.flush()
            else:
                staying.append(index)
        self.rows = [self.rows[index] for index in staying]
        if not staying:
            self.place = None
            return
        kept = torch.tensor(staying)
        self.place = advance(self.model.backbone, self.place.take(kept), tokens[kept].unsqueeze(1))


def main() -> dict[str, str]:
    """Answers all prompts, three at a time; returns the answers by prompt."""
    batch = Batch(load_model("demo"), size=3)
    for seed, prompt in enumerate(PROMPTS):
        batch.waiting.append(Request(prompt, Sampling(max_tokens=80, seed=seed)))
    answers = {}
    for request, text in batch.run():
        print(f"{request.prompt}\n    {text.strip()!r}")
        answers[request.prompt] = text
    return answers


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
