"""A tiny model behind an engine, and what its listeners are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prosg.core.encoded import EncodedPrompt, Memory
from prosg.generation.text import generate_texts
from prosg.model.prosg import ProSG
from prosg.serving import Engine, Finished, Handle, Piece, Request
from support.models import WORDS, live_model, word_tokenizer


def serving_model(backbone: str = "rwkv4", module: str | None = "plus", dtype: torch.dtype = torch.float64) -> ProSG:
    model = live_model(backbone, module, dtype, vocab=len(WORDS))
    model.tokenizer = word_tokenizer()
    return model


@dataclass
class Told:
    """A request's listener."""

    pieces: list[Piece] = field(default_factory=list)
    end: Finished | None = None

    def __call__(self, event: Piece | Finished) -> None:
        assert self.end is None, "nothing comes after the end"
        if isinstance(event, Finished):
            self.end = event
        else:
            self.pieces.append(event)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def ids(self) -> list[int]:
        return [token.id for piece in self.pieces for token in piece.tokens]


def submit(engine: Engine, request: Request) -> tuple[Handle, Told]:
    told = Told()
    return engine.submit(request, told), told


def finish(engine: Engine) -> int:
    """Steps until the engine is idle; returns how often."""
    steps = 1
    while engine.step():
        steps += 1
        assert steps < 20_000
    return steps


def request(ids: Sequence[int], *, memory: Memory | None = None, tau: float | None = None, **options: Any) -> Request:
    """A request; options of `Request` are told from those of sampling by their names."""
    own = {name: options.pop(name) for name in [*options] if name in Request.__dataclass_fields__}
    return Request(tuple(ids), serving_sampling(**options), memory=memory, tau=tau, **own)


def serving_sampling(**options: Any) -> Any:
    from prosg.generation.sampling import Sampling

    return Sampling(**{"max_tokens": 12, "end_token": 0} | options)


def alone(model: ProSG, wanted: Request) -> tuple[str, list[int]]:
    """The same request by itself, by the functions that `ProSG.generate` is made of: its text and ids."""
    import numpy as np

    from prosg.generation.decode import advance

    prompt = wanted.ids[: wanted.prefix or len(wanted.ids)]
    place: EncodedPrompt
    if wanted.encoded is not None:
        place, prompt = wanted.encoded, ()
    else:
        place = model.encode(torch.tensor([prompt]), memory=wanted.memory, tau=wanted.tau)
    if rest := wanted.ids[len(prompt) :]:
        place = advance(model.backbone, place, torch.tensor([rest]))
    (written,) = generate_texts(
        model.backbone, place, model.tokenizer, wanted.sampling, numbers=np.array([wanted.number])
    )
    return written.text, written.ids
