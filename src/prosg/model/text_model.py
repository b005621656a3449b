"""What a model does with texts: prompts are tokenised, answers written and scored. `ProSG` is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack, overload

import numpy as np
import torch
from torch import Tensor, nn

from prosg.backbones import BackboneModule
from prosg.core.encoded import EncodedPrompt, Memory
from prosg.core.tensors import pad
from prosg.data.templates import ChatTemplate, OwnTemplate, without_blank_lines
from prosg.generation.sampling import Sampling, SamplingOptions
from prosg.generation.text import generate_texts, stream_texts
from prosg.model.fitting import check_fits
from prosg.model.objective import AnswerScores
from prosg.model.options import EncodeOptions, GenerateOptions, HoldOptions, check_names
from prosg.model.prompts import (
    Batch,
    PreparedPrompt,
    Prompt,
    check_answers,
    check_template_used,
    is_single,
    listed,
    prepare_prompts,
)
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.special import SpecialTokens
from prosg.utils.values import check_whole, exponential

__all__ = ["TextModel"]

HOLD = HoldOptions.__annotations__
"""Options of `GenerateOptions` that are not those of writing."""
SAMPLE_BITS = 32
"""Sample i of row b draws the random numbers of row i << SAMPLE_BITS | b."""


class TextModel(nn.Module):
    """A model that encodes prompts and scores answers, as a subclass says, and so writes texts.

    Attributes:
        backbone: The recurrent language model.
        tokenizer: Needed for texts; token ids do without.
        special: What ends answers, and what stands before prompts that are given as texts.
        own_template: The chat templates that the model comes with.
    """

    backbone: BackboneModule
    tokenizer: Tokenizer | None
    special: SpecialTokens
    own_template: OwnTemplate

    def encode(
        self, prompt: Prompt | Batch, lengths: Tensor | None = None, **options: Unpack[EncodeOptions]
    ) -> EncodedPrompt:
        """Reads prompts."""
        raise NotImplementedError

    def check_memory(self, memory: Memory | None, tau: float | None = None, age: float | None = None) -> Memory:
        """Returns `memory`, or the model's own for None; raises ValueError for one that cannot be had."""
        raise NotImplementedError

    def held_by(self, encoded: EncodedPrompt, memory: Memory, tau: float | None = None) -> EncodedPrompt:
        """Returns encoded prompts as `memory` holds them."""
        raise NotImplementedError

    def score(self, encoded: EncodedPrompt, answer: Tensor, lengths: Tensor) -> AnswerScores:
        """Scores answers (B, T) under encoded prompts."""
        raise NotImplementedError

    @property
    def template(self) -> ChatTemplate:
        """How conversations are written: as in the model's training here, else as its files say, World's, or none."""
        return self.own_template.choose("", self.tokenizer)

    def prepare(self, prompts: Sequence[Prompt], template: str = "") -> list[PreparedPrompt]:
        """Writes and tokenises prompts; the backbone does not read them.

        Args:
            prompts: Texts, and conversations of messages.
            template: Name of a template for messages; the model's own by default.

        Raises:
            ValueError: without a tokenizer, for a template where a prompt is a text, and as `encode`.
        """
        check_template_used(prompts, template)
        chosen = self.own_template.choose(template, self.tokenizer)
        return prepare_prompts(prompts, self._tokenizer(), self.special, chosen)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer: set model.tokenizer, or pass token ids")
        return self.tokenizer

    def tokenise(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Token ids (B, T) of prompts, padded on the right, and their lengths (B,). ValueError without a tokenizer."""
        return self.padded(self.prepare(prompts))

    def padded(self, prompts: Sequence[PreparedPrompt]) -> tuple[Tensor, Tensor]:
        """Token ids (B, T) of prompts, padded on the right, and their lengths (B,), on the model's device."""
        ids = [prompt.ids for prompt in prompts]
        lengths = torch.tensor([len(row) for row in ids], dtype=torch.int64)
        device = next(self.parameters()).device
        return (pad(ids) if ids else torch.zeros(0, 0, dtype=torch.int64)).to(device), lengths.to(device)

    def _encoded(
        self, prompt: Prompt | Batch, options: HoldOptions | GenerateOptions
    ) -> tuple[EncodedPrompt, list[PreparedPrompt]]:
        """Encodes prompts that are not encoded; also what was read, () of what came as ids or encoded."""
        memory, tau = options.get("memory"), options.get("tau")
        check_template_used(prompt, options.get("template", ""))
        if isinstance(prompt, EncodedPrompt):
            if memory is not None or tau is not None:
                return self._held(prompt, memory, tau), []  # which checks them, too
            check_fits(prompt, self.backbone)
            return prompt, []
        if isinstance(prompt, Tensor):
            return self.encode(prompt, memory=memory, tau=tau), []
        self.check_memory(memory, tau)
        read = self.prepare(listed(prompt), options.get("template", ""))
        return self.encode(*self.padded(read), memory=memory, tau=tau), read

    def _held(self, encoded: EncodedPrompt, memory: Memory | None, tau: float | None) -> EncodedPrompt:
        return self.held_by(encoded, self.check_memory(encoded.memory if memory is None else memory, tau), tau)

    @overload
    def generate(self, prompt: Prompt, n: None = None, **options: Unpack[GenerateOptions]) -> str: ...
    @overload
    def generate(self, prompt: Prompt, n: int, **options: Unpack[GenerateOptions]) -> list[str]: ...
    @overload
    def generate(self, prompt: Batch, n: None = None, **options: Unpack[GenerateOptions]) -> list[str]: ...
    @overload
    def generate(self, prompt: Batch, n: int, **options: Unpack[GenerateOptions]) -> list[list[str]]: ...
    def generate(
        self, prompt: Prompt | Batch, n: int | None = None, **options: Unpack[GenerateOptions]
    ) -> str | list[str] | list[list[str]]:
        """Writes answers, all in one batch.

        What is drawn for sample i of row b follows from the seed, i and b alone: not from `n`, nor from other rows.

        Args:
            prompt: As in `encode`, or encoded prompts. An answer to messages ends where the template's next turn would
                begin.
            n: Samples of each prompt.
            options: `memory`, `tau` and `template` as in `encode`, and the fields of `Sampling`.

        Returns:
            A text for one prompt (a text, or messages); a list of texts for several, encoded ones and token ids among
            them. With `n` a list of n texts in the place of each text.

        Raises:
            ValueError: as `encode` and `Sampling`.
            TypeError: for an option that there is not.
        """
        check_names("generate", options, GenerateOptions)
        if n is not None and check_whole("n", n) < 1:
            raise ValueError(f"n is {n}, must be at least 1 sample")
        encoded, read = self._encoded(prompt, options)
        sampling, ends = self._sampling_of(options, 1 if n is None else n), self._ends_of(read, options)
        rows, samples = np.repeat(np.arange(encoded.batch), n or 1), np.tile(np.arange(n or 1), encoded.batch)
        answers = generate_texts(
            self.backbone,
            encoded if n is None else encoded.take(rows.tolist()),
            self._tokenizer(),
            sampling,
            numbers=rows + (samples << SAMPLE_BITS),
            stops=[read[row].stop for row in rows] if read else None,
            ends=[ends[row] for row in rows] if ends else None,
        )
        texts = [answer.text for answer in answers]
        if n is not None:
            grouped = [texts[start : start + n] for start in range(0, len(texts), n)]
            return grouped[0] if is_single(prompt) else grouped
        return texts[0] if is_single(prompt) else texts

    @overload
    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Iterator[str]: ...
    @overload
    def stream(self, prompt: Batch, **options: Unpack[GenerateOptions]) -> Iterator[tuple[int, str]]: ...
    def stream(
        self, prompt: Prompt | Batch, **options: Unpack[GenerateOptions]
    ) -> Iterator[str] | Iterator[tuple[int, str]]:
        """Writes the answers of `generate`, and yields their pieces as they come.

        Args:
            prompt: As in `generate`.
            options: As in `generate`.

        Returns:
            The pieces of one prompt's answer; of several prompts pairs (row, piece), where prompts that were encoded
            count as several.

        Raises:
            ValueError, TypeError: as `generate`.
        """
        check_names("stream", options, GenerateOptions)
        encoded, read = self._encoded(prompt, options)
        sampling, ends = self._sampling_of(options), self._ends_of(read, options)
        stops = [one.stop for one in read] or None
        pieces = stream_texts(self.backbone, encoded, self._tokenizer(), sampling, stops=stops, ends=ends)
        return (piece for _, piece in pieces) if is_single(prompt) else pieces

    def _ends_of(self, read: Sequence[PreparedPrompt], options: GenerateOptions) -> list[tuple[int, ...]] | None:
        """What ends an answer under each prompt's template; None where it is the same for all, as `Sampling` says."""
        if "end_token" in options or not read:
            return None
        return [one.special.check(self.backbone.config.vocab_size, "end_token").end for one in read]

    def _sampling_of(self, options: GenerateOptions, n: int = 1) -> Sampling:
        """Options of writing; markers for n samples each."""
        given: SamplingOptions = {name: value for name, value in options.items() if name not in HOLD}  # type: ignore[assignment]
        marker = given.get("force_marker", "")
        if n > 1 and not isinstance(marker, str):
            given["force_marker"] = [text for text in marker for _ in range(n)]
        return self.sampling(**given)

    def sampling(self, **options: Unpack[SamplingOptions]) -> Sampling:
        """Options of writing, ended by the model's own end tokens unless `end_token` says otherwise.

        Raises:
            ValueError: as `Sampling`.
            TypeError: for an option that there is not.
        """
        check_names("sampling", options, SamplingOptions)
        options.setdefault("end_token", self.special.end)
        sampling = Sampling(**options)
        SpecialTokens(sampling.ends).check(self.backbone.config.vocab_size, "end_token")
        return sampling

    @overload
    def perplexity(self, prompt: Prompt, answer: str, **options: Unpack[HoldOptions]) -> float: ...
    @overload
    def perplexity(
        self, prompt: Batch, answer: list[str] | tuple[str, ...], **options: Unpack[HoldOptions]
    ) -> list[float]: ...
    def perplexity(
        self, prompt: Prompt | Batch, answer: str | list[str] | tuple[str, ...], **options: Unpack[HoldOptions]
    ) -> float | list[float]:
        """How unlikely an answer is: exp of the mean negative log-likelihood of its tokens, the end token included.

        Args:
            prompt: As in `generate`.
            answer: What is scored; a list of answers where there are several prompts. After messages it is written as
                the template does.
            options: As in `encode`.

        Returns:
            A number for one prompt, a list of numbers for several.

        Raises:
            ValueError: as `encode`; for an empty answer, and where there is not one answer to each prompt.
            TypeError: for an option that there is not.
        """
        check_names("perplexity", options, HoldOptions)
        single = is_single(prompt)
        if single != isinstance(answer, str) or not isinstance(answer, Sequence):
            raise ValueError("give one answer to one prompt, or a list of answers to a list of prompts")
        encoded, read = self._encoded(prompt, options)
        texts = [answer] if isinstance(answer, str) else [*answer]
        check_answers(texts, encoded.batch)
        ids = []
        for row, text in enumerate(texts):
            spaced, special = (read[row].spaced, read[row].special) if read else (False, self.special)
            shaped = f" {without_blank_lines(text).strip()}" if spaced else text
            ids.append([*self._tokenizer().encode(shaped), special.end[0]])
        lengths = torch.tensor([len(row) for row in ids], device=encoded.logits.device)
        nll = self.score(encoded, pad(ids).to(encoded.logits.device), lengths).nll.double().sum(1) / lengths
        values = [exponential(value) for value in nll.tolist()]
        return values[0] if single else values
