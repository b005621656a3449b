"""Answers to the prompts of rows: texts and conversations of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from prosg.core.encoded import Memory
from prosg.data.row import Row
from prosg.data.templates import TEMPLATES, ChatTemplate, FramedPrompt, Turn
from prosg.generation.sampling import Sampling
from prosg.generation.text import Generation, generate_texts
from prosg.model.prosg import ProSG

__all__ = ["answer_rows", "frame_rows", "reply"]


def frame_rows(rows: Sequence[Row], model: ProSG, template: str = "") -> list[tuple[FramedPrompt, ChatTemplate]]:
    """Writes the prompts of rows, each with the template that it is written in.

    Args:
        rows: Rows of any form; a plain prompt is the user's turn. Their answers are left out.
        model: What reads them.
        template: Name of a template for all; by default that of a {"text"} row, and the model's own for others.

    Raises:
        ValueError: naming the row that the template cannot write.
    """
    framed = []
    for row in rows:
        chosen = (
            TEMPLATES[row.framing]
            if row.framing and not template
            else model.own_template.choose(template, model.tokenizer)
        )
        try:
            framed.append((chosen.frame(row.turns or [Turn("user", row.prompt)]), chosen))
        except ValueError as error:
            raise ValueError(f"row {row.id}: {error}") from None
    return framed


def answer_rows(
    model: ProSG,
    prompts: Sequence[tuple[FramedPrompt, ChatTemplate]],
    sampling: Sampling,
    *,
    memory: Memory | None = None,
    tau: float | None = None,
    window: int | None = None,
    batch_size: int = 16,
) -> Iterator[Generation]:
    """Writes an answer to each prompt, in batches; what is drawn for one does not depend on the batches.

    Args:
        model: What writes.
        prompts: As `frame_rows` returns them.
        sampling: How tokens are chosen. Answers also end where their templates say.
        memory, tau, window: As in `ProSG.encode`.
        batch_size: Prompts at once.

    Raises:
        ValueError: as `ProSG.encode`, and for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}, must be at least 1")
    assert model.tokenizer is not None
    own = [template.special(model.special, model.tokenizer).end for _, template in prompts]
    ends = [tuple(dict.fromkeys((*sampling.ends, *more))) for more in own]
    for start in range(0, len(prompts), batch_size):
        some = prompts[start : start + batch_size]
        encoded = model.encode([prompt for prompt, _ in some], memory=memory, tau=tau, window=window)
        yield from (
            answer._replace(text=reply(answer.text, template))
            for answer, (_, template) in zip(
                generate_texts(
                    model.backbone,
                    encoded,
                    model.tokenizer,
                    sampling,
                    numbers=np.arange(start, start + len(some)),
                    stops=[template.stop for _, template in some],
                    ends=ends[start : start + len(some)],
                ),
                some,
                strict=True,
            )
        )


def reply(text: str, template: ChatTemplate) -> str:
    """An answer without the space that the template puts between the cue and the reply."""
    return text.removeprefix(" ") if template.reshapes else text
