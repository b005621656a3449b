"""What clients send as what the engine is asked for: texts as token ids, and who holds which part of them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from prosg.core.encoded import Memory, with_anchor
from prosg.data.chat import prompt_turns
from prosg.data.templates import FramedPrompt, Turn
from prosg.generation.sampling import SamplingOptions
from prosg.model.prompts import prepare_prompts
from prosg.model.text_model import SAMPLE_BITS
from prosg.model.turns import conversation_text, held_prompt, later_ids
from prosg.serving.api.errors import ApiError
from prosg.serving.api.prompts import PromptRecord, StoredPrompt
from prosg.serving.api.schemas import ChatBody, CompletionBody, GenerationBody, Message, PromptBody, message_text
from prosg.serving.api.service import Service
from prosg.serving.request import Request
from prosg.utils.io import CheckpointError

__all__ = ["Job", "chat_job", "completion_job", "encoded_ids", "messages_of", "wanted_memory"]

log = logging.getLogger("prosg.serve")
COMPLETION_TOKENS = 16
"""Longest answer of POST /v1/completions where a request does not say, as OpenAI's."""


class Job(NamedTuple):
    """The answers to one request."""

    requests: tuple[Request, ...]
    """one per choice"""
    stored: StoredPrompt | None
    """the prompt that they follow"""
    memory: Memory | None
    """what holds it; None for what is in a stored prompt's file"""
    samples: int
    """answers to each prompt: requests that read the same"""

    @property
    def prompt_tokens(self) -> int:
        """Tokens before the answers, each prompt counted once."""
        stored = 0 if self.stored is None else self.stored.record.tokens
        return sum(stored + len(request.ids) for request in self.requests[:: self.samples])

    @property
    def held_tokens(self) -> int:
        """Tokens of the first prompt that memory holds."""
        if self.stored is not None:
            return self.stored.record.tokens
        return self.requests[0].prefix or len(self.requests[0].ids)


def messages_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages with a role and a text each."""
    return [
        {"role": "system" if one.role == "developer" else one.role, "content": message_text(one)} for one in messages
    ]


def wanted_memory(
    service: Service, memory: Memory | None, tau: float | None, record: PromptRecord | None = None
) -> tuple[Memory | None, float | None]:
    """What holds a prompt: what a request says, else the stored prompt, else the server.

    Raises:
        ApiError: 400 for a memory that the model cannot have.
    """
    if memory is None and record is not None:
        memory, tau = record.memory, record.tau if tau is None else tau
        if memory is None and tau is None:  # an upload, as it is
            return None, None
    chosen = service.memory if memory is None else memory
    if tau is None and with_anchor(chosen):
        tau = service.tau
    try:
        return service.model.check_memory(chosen, tau), tau
    except ValueError as error:
        raise ApiError(400, str(error), param="memory" if tau is None else "tau") from None


def chat_job(service: Service, body: ChatBody, owner: str, deadline: float) -> Job:
    """What a chat request asks for. It tokenises, and may read a file: not for the event loop.

    Raises:
        ApiError: 400 and 404 for what cannot be answered.
    """
    stored = _stored(service, body, owner)
    messages = messages_of(body.messages)
    template, tokenizer = service.template, service.tokenizer
    try:
        if stored is None:
            turns = prompt_turns(messages)
            held = held_prompt(turns, template)
            first = held.prompt_ids(tokenizer, service.model.special)
            rest = later_ids(turns, held, template, tokenizer)
            ids, prefix = first + rest, len(first)
        else:
            ids, prefix = _following(service, stored, messages), 0
    except ValueError as error:
        raise ApiError(400, str(error), param="messages") from None
    options = _options(body, service, service.options.default_output_tokens)
    options["end_token"] = template.special(service.model.special, tokenizer).end
    options["stop"] = [*options["stop"], *filter(None, [template.stop])]
    if body.max_completion_tokens is not None:
        options["max_tokens"] = body.max_completion_tokens
    likeliest = (body.top_logprobs or 0) if body.logprobs else None
    return _job(service, body, owner, deadline, stored, [(ids, prefix)], options, likeliest)


def _following(service: Service, stored: StoredPrompt, messages: list[dict[str, str]]) -> list[int]:
    """Ids of the turns after a stored prompt: of its own messages, or of a text or a file, which is read as it is."""
    template, before = service.template, stored.record.turns
    if not messages and (not before or before[-1].role == "user"):
        return []
    said = [{"role": turn.role, "content": turn.text} for turn in before]
    turns = prompt_turns([*said, *messages])
    if before and stored.record.template != template.name:
        raise ValueError(f"the prompt was stored under template {stored.record.template!r}, not {template.name!r}")
    held = _stored_text(service, before) if before else FramedPrompt("")
    return later_ids(turns, held, template, service.tokenizer)


def _stored_text(service: Service, turns: Sequence[Turn]) -> FramedPrompt:
    """The text of a stored prompt's messages."""
    if turns[-1].role == "user":
        return conversation_text(turns, service.template)
    opening, alone = service.template.opening(turns[0]), "the chat template does not write a system turn alone"
    if opening is None:
        raise ValueError(f"{alone}; add the user's first turn")
    whole = conversation_text([*turns, Turn("user", "")], service.template)  # says where there is no system turn
    if not whole.text.startswith(opening):
        raise ValueError(f"{alone} as it does before a user's; add the user's first turn")
    return whole.before(len(opening))


def completion_job(service: Service, body: CompletionBody, owner: str, deadline: float) -> Job:
    """What a completion request asks for; as `chat_job`."""
    stored = _stored(service, body, owner)
    prompt = body.prompt
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    prompts: list[Any] = list(prompt) if several else [prompt]
    read = [(_prompt_ids(service, one, stored is not None), 0) for one in prompts]
    if stored is None and not all(ids for ids, _ in read):
        raise ApiError(400, "a prompt is empty; every prompt needs at least one token", param="prompt")
    options = _options(body, service, COMPLETION_TOKENS)
    options["end_token"] = service.model.special.end
    return _job(service, body, owner, deadline, stored, read, options, body.logprobs)


def _prompt_ids(service: Service, prompt: str | list[int], follows: bool) -> list[int]:
    """Ids of a prompt that is read as it is."""
    if isinstance(prompt, str):
        if follows:
            return service.tokenizer.encode(prompt)
        return prepare_prompts([prompt], service.tokenizer, service.model.special, service.template)[0].ids
    vocabulary = service.model.backbone.config.vocab_size
    if max(prompt) >= vocabulary:
        raise ApiError(400, f"an id is {max(prompt)}; the vocabulary has the ids 0 to {vocabulary - 1}", param="prompt")
    return prompt


def encoded_ids(service: Service, body: PromptBody) -> tuple[list[int], tuple[Turn, ...]]:
    """The ids of a prompt that is to be stored, and its turns, if it is of messages.

    Raises:
        ApiError: 400 for messages that are no conversation, or that the template cannot write, and a long prompt.
    """
    try:
        turns = () if body.messages is None else _stored_turns(messages_of(body.messages))
        if body.text is not None:
            ids = _prompt_ids(service, body.text, follows=False)
        else:
            ids = _stored_text(service, turns).prompt_ids(service.tokenizer, service.model.special)
    except ValueError as error:
        raise ApiError(400, str(error), param="messages" if body.text is None else "text") from None
    _check_length(service, len(ids), "messages" if body.text is None else "text")
    return ids, turns


def _stored_turns(messages: list[dict[str, str]]) -> tuple[Turn, ...]:
    """Turns that end with the user's, or the system's turn alone."""
    if len(messages) > 1 or messages[0]["role"] != "system":
        return prompt_turns(messages)
    if not messages[0]["content"].strip():
        raise ValueError("message 1 (system) is empty; it must hold some text")
    return (Turn("system", messages[0]["content"]),)


def _stored(service: Service, body: GenerationBody, owner: str) -> StoredPrompt | None:
    """The stored prompt that a request names, by `prompt_id` or in the model's name."""
    name, _, inner = body.model.partition(":")
    if name != service.name:
        raise ApiError(
            404, f"there is no model {name!r}; this server has {service.name!r}", code="model_not_found", param="model"
        )
    if body.prompt_id and inner and body.prompt_id != inner:
        raise ApiError(400, "prompt_id and model name two stored prompts; give one", param="prompt_id")
    if (wanted := body.prompt_id or inner) in (None, ""):
        return None
    record = service.prompts.find(owner, wanted)
    try:
        if record is not None:
            stored = service.prompts.load(owner, record)
            service.metrics.used.labels("memory" if stored.was_cached else "storage").inc()
            return stored
    except FileNotFoundError:  # deleted meanwhile
        pass
    except CheckpointError as error:
        log.error("a stored prompt cannot be read: %s", error)
        raise ApiError(409, "the stored prompt cannot be read; store it again", param="prompt_id") from None
    raise ApiError(404, "there is no such stored prompt", code="prompt_not_found", param="prompt_id")


def _options(body: GenerationBody, service: Service, tokens: int) -> SamplingOptions:
    """Options of writing, with OpenAI's defaults; `tokens` where nothing is said, or what the server writes at most."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return {
        "max_tokens": min(tokens, service.options.max_output_tokens) if body.max_tokens is None else body.max_tokens,
        "temperature": 1.0 if body.temperature is None else float(body.temperature),
        "top_p": 1.0 if body.top_p is None else float(body.top_p),
        "top_k": body.top_k or 0,
        "stop": stop,
        "seed": secrets.randbits(63) if body.seed is None else body.seed,
    }


def _check_length(service: Service, tokens: int, param: str) -> None:
    if tokens > (most := service.options.max_prompt_tokens):
        message = f"the prompt has {tokens} tokens; this server reads at most {most}"
        raise ApiError(400, message, param=param, code="context_length_exceeded")


def _job(
    service: Service,
    body: GenerationBody,
    owner: str,
    deadline: float,
    stored: StoredPrompt | None,
    prompts: list[tuple[list[int], int]],
    options: SamplingOptions,
    likeliest: int | None,
) -> Job:
    """One request to the engine for each choice; all checks that are left."""
    samples, limits = body.n or 1, service.options
    if len(prompts) * samples > limits.max_choices:
        message = f"{len(prompts) * samples} answers are asked for; this server writes at most {limits.max_choices}"
        raise ApiError(400, message, param="n")
    for ids, _ in prompts:
        _check_length(service, len(ids), "messages" if isinstance(body, ChatBody) else "prompt")
    if options["max_tokens"] > limits.max_output_tokens:
        message = f"{options['max_tokens']} tokens are asked for; this server writes at most {limits.max_output_tokens}"
        param = "max_tokens" if getattr(body, "max_completion_tokens", None) is None else "max_completion_tokens"
        raise ApiError(400, message, param=param)
    memory, tau = wanted_memory(service, body.memory, body.tau, None if stored is None else stored.record)
    try:
        sampling = service.model.sampling(**options)
        requests = tuple(
            Request(
                tuple(ids),
                sampling,
                encoded=None if stored is None else stored.encoded,
                prefix=prefix,
                memory=memory,
                tau=tau,
                number=row | sample << SAMPLE_BITS,
                logprobs=likeliest,
                owner=owner,
                deadline=deadline,
            )
            for row, (ids, prefix) in enumerate(prompts)
            for sample in range(samples)
        )
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    return Job(requests, stored, memory, samples)
