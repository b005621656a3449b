"""What clients may send. A field that is not here is an error that names it.

Fields of OpenAI's that cannot be honoured are taken only with the value that asks for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from prosg.core.encoded import Memory
from prosg.serving.request import MOST_LOGPROBS

__all__ = ["ChatBody", "CompletionBody", "GenerationBody", "Message", "PromptBody", "message_text"]

LONGEST_STOP = 256
MOST_STOPS = 16
MOST_MESSAGES = 1024


def _check_zero(value: float) -> float:
    if value:
        raise ValueError("this server cannot do that; leave it out, or 0")
    return value


Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Nothing = Annotated[list[Any], Field(max_length=0)]
Zero = Annotated[float, AfterValidator(_check_zero)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class Body(BaseModel):
    """An object without unknown fields, whose values are of their types as they stand."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown(cls, data: Any, handler: Callable[[Any], Any]) -> Any:
        """Says which fields there are, first of all, where one is unknown."""
        unknown = [name for name in data if name not in cls.model_fields] if isinstance(data, dict) else []
        if unknown:
            error = PydanticCustomError("extra_forbidden", "unknown field", {"known": list(cls.model_fields)})
            details = InitErrorDetails(type=error, loc=(str(unknown[0]),), input=None)
            raise ValidationError.from_exception_data(cls.__name__, [details])
        return handler(data)


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="developer is read as system")
    content: str | list[TextPart]
    refusal: None = None
    annotations: Nothing | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing | None = None


def message_text(message: Message) -> str:
    """What a message says."""
    content = message.content
    return content if isinstance(content, str) else "".join(part.text for part in content)


class StreamOptions(Body):
    """How an answer is streamed."""

    include_usage: bool | None = Field(None, description="a last chunk with the usage of the whole request")
    include_obfuscation: bool | None = Field(None, description="taken, and ignored: nothing is padded")


class TextFormat(BaseModel):
    """The only format of answers. Of another one its type is named, not the fields that only it has."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]


class Held(Body):
    """What holds the prompt."""

    memory: Memory | None = Field(
        None,
        description="what holds the prompt beside the recurrent state: none, anchor, update, both or auto; by default "
        "what the stored prompt says, or the server",
    )
    tau: float | None = Field(None, ge=1, description="window of the anchor, tokens", allow_inf_nan=False)


class GenerationBody(Held):
    """What chat and completion have in common."""

    model: str = Field(max_length=200, description="the model's name, or NAME:PROMPT-ID for a stored prompt")
    prompt_id: str | None = Field(None, max_length=100, description="a stored prompt, which what is sent follows")
    max_tokens: int | None = Field(None, ge=1, lt=1 << 31)
    n: int | None = Field(None, ge=1, le=128, description="answers to each prompt")
    seed: int | None = Field(
        None, ge=-(1 << 63), lt=1 << 63, description="of the random numbers; none: another one each time"
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, description="1 by default; 0 takes the likeliest token")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=1 << 31, description="draw from the k likeliest tokens; 0 from all")
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    user: str | None = Field(None, description="taken, and ignored")

    @model_validator(mode="after")
    def _check_stream_options(self) -> GenerationBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream: true")
        return self


class ChatBody(GenerationBody):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(max_length=MOST_MESSAGES, description="may be empty under a stored prompt")
    max_completion_tokens: int | None = Field(None, ge=1, lt=1 << 31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    response_format: TextFormat | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none"] | None = None
    functions: Nothing | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16, description="taken, and ignored")
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = Field(None, description="taken, and ignored")
    prompt_cache_key: str | None = Field(None, description="taken, and ignored: caches are keyed by content")

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only for logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are the same thing; give one of them")
        return self


Ids = Annotated[list[TokenId], Field(min_length=1)]
MOST_PROMPTS = 64


class CompletionBody(GenerationBody):
    """Body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
    ) = Field(description="a text, which is read as it is, or token ids; or several of one kind")
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    best_of: int | None = Field(None, ge=1, le=128, description="must equal n")
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _check_best_of(self) -> CompletionBody:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError(f"best_of is {self.best_of}; it must equal n, since no answers are left out")
        return self


class PromptBody(Held):
    """Body of POST /v1/prompts: a text, or messages."""

    model: str | None = Field(None, max_length=200)
    name: str | None = Field(None, max_length=200, description="a label of yours")
    text: str | None = Field(None, min_length=1, description="read as it is")
    messages: list[Message] | None = Field(
        None, min_length=1, max_length=MOST_MESSAGES, description="as the chat template writes them"
    )

    @model_validator(mode="after")
    def _check_one(self) -> PromptBody:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        return self
