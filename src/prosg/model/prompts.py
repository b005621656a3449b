"""Prompts as users give them, texts and conversations, one or several; and as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeGuard, cast

from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.data.chat import Messages, is_messages, prompt_turns
from prosg.data.templates import NONE, ChatTemplate, FramedPrompt
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.special import SpecialTokens
from prosg.utils.values import shown, typed

__all__ = [
    "Batch",
    "PreparedPrompt",
    "Prompt",
    "check_answers",
    "check_template_used",
    "is_single",
    "listed",
    "prepare_prompts",
]

Prompt = str | Messages | FramedPrompt
"""One prompt: a text, which is read as it is; messages, which the chat template writes; or what it has written."""
Batch = list[str] | tuple[str, ...] | Sequence[Messages] | Sequence[FramedPrompt] | Tensor | EncodedPrompt
"""Several prompts: also token ids (B, T), and prompts that were encoded."""


class PreparedPrompt(NamedTuple):
    """A prompt before it is encoded, and what its answer is like."""

    ids: list[int]
    stop: str
    """string at which an answer ends; "" for none"""
    special: SpecialTokens
    spaced: bool
    """whether a space stands between the prompt and the answer"""


def is_single(prompt: Prompt | Batch) -> TypeGuard[Prompt]:
    """Whether there is one prompt, whose answer is one text.

    Raises:
        ValueError: for what is neither a prompt nor several.
    """
    if isinstance(prompt, str):
        return True
    if isinstance(prompt, Mapping):
        raise ValueError('a message is no prompt; give a list of messages: [{"role": "user", "content": "..."}]')
    several = isinstance(prompt, Sequence) and not any(isinstance(one, int | float) for one in prompt)
    if not several and not isinstance(prompt, FramedPrompt | EncodedPrompt | Tensor):
        kind = f"a list of {type(prompt[0]).__name__}" if isinstance(prompt, Sequence) else type(prompt).__name__
        raise ValueError(
            f"the prompt is {kind}; allowed: a text, a list of messages or of prompts, ids (B, T), and what was encoded"
        )
    return isinstance(prompt, str | FramedPrompt) or is_messages(prompt)


def listed(prompt: Prompt | Batch) -> Sequence[Prompt]:
    """The prompts, also where there is one; for neither ids nor encoded ones."""
    return [prompt] if is_single(prompt) else cast(Sequence[Prompt], prompt)


def check_template_used(prompt: Prompt | Batch | Sequence[Prompt], template: str) -> None:
    """Raises ValueError for the name of a template where none of the prompts is written by it."""
    if template in ("", NONE.name):
        return
    what = "was encoded already" if isinstance(prompt, EncodedPrompt) else "is token ids"
    if not isinstance(prompt, EncodedPrompt | Tensor):
        if not any(isinstance(one, str) for one in listed(cast(Batch, prompt))):
            return
        what = 'is a text, which is read as it is; give messages: [{"role": "user", "content": "..."}]'
    raise ValueError(f"template is {template!r}, but the prompt {what}")


def prepare_prompts(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, special: SpecialTokens, template: ChatTemplate
) -> list[PreparedPrompt]:
    """Writes and tokenises prompts.

    Args:
        prompts: Texts and conversations. An empty text has no ids.
        tokenizer: Of the model.
        special: Of the model.
        template: How conversations are written.

    Raises:
        ValueError: for what is no conversation of a prompt, and what the template cannot write.
    """
    return [_prepare(prompt, tokenizer, special, template) for prompt in prompts]


def _prepare(prompt: Prompt, tokenizer: Tokenizer, special: SpecialTokens, template: ChatTemplate) -> PreparedPrompt:
    if not isinstance(prompt, Sequence):
        raise ValueError(f"a prompt is {shown(prompt)}; allowed: a text, and a list of messages")
    if isinstance(prompt, str):
        return PreparedPrompt(special.prompt(tokenizer.encode(prompt)) if prompt else [], "", special, False)
    framed = prompt if isinstance(prompt, FramedPrompt) else template.frame(prompt_turns(prompt))
    ids = framed.prompt_ids(tokenizer, special)
    return PreparedPrompt(ids, template.stop, template.special(special, tokenizer), template.reshapes)


def check_answers(answers: Sequence[str], prompts: int) -> None:
    """Raises ValueError unless there is one answer to each prompt, none of them empty."""
    if len(answers) != prompts:
        raise ValueError(f"there are {len(answers)} answers to {prompts} prompts; give one for each")
    for number, answer in enumerate(answers, 1):
        typed(f"answer {number}", answer, str)
        if not answer:
            raise ValueError(f"answer {number} is empty; it must hold some text")
