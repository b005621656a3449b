"""The token ids that close a prompt, which activate an adapter in other programs.

PEFT's and llama.cpp's *activated* LoRA acts from the last occurrence of such ids on. Under a chat template they are
those with which it ends every prompt, whatever the prompt is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from prosg.data.templates import ChatTemplate, Turn
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.special import SpecialTokens

__all__ = ["invocation_tokens"]

ENDINGS = (
    "a",
    "Z",
    "7",
    ".",
    "!",
    "?",
    ":",
    ";",
    ",",
    ")",
    "]",
    "}",
    '"',
    "'",
    "`",
    "*",
    "-",
    "_",
    "/",
    ">",
    "é",
    "。",
    "？",
)
"""Ends of prompts: what follows may be a token together with them."""


def invocation_tokens(
    template: ChatTemplate, tokenizer: Tokenizer, special: SpecialTokens, prompt: Sequence[int] = ()
) -> list[int]:
    """Returns the ids with which a template ends every prompt; the last id of this prompt where there are none.

    Args:
        template: The chat template.
        tokenizer: The model's.
        special: The model's special tokens.
        prompt: Ids of one prompt under that template.

    Raises:
        ValueError: where the template ends prompts with nothing, and there is no prompt.
    """
    framed = [template.frame([Turn("user", f"Say it again{end}")]) for end in ENDINGS]
    ids = [frame.prompt_ids(tokenizer, special) for frame in framed]
    if prompt:
        ids.append(list(prompt))
    columns = zip(*(row[::-1] for row in ids), strict=False)  # from the last ids back
    closing = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    if closing:
        return closing[::-1]
    if not prompt:
        raise ValueError(
            f"template {template.name!r} ends prompts with nothing that could activate an adapter; give --prompt, for "
            "its last token, instead of --encoded, or another --template"
        )
    return list(prompt[-1:])
