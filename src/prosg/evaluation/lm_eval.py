"""A model in the lm-evaluation-harness: `lm_eval.simple_evaluate(model=HarnessModel(model), tasks=[...])`.

A request's context is the prompt: it is read once, without an update, and what comes after it is scored or written
under its update, its anchor or both. As everywhere, the continuation's first token comes from the prompt's own logits,
and the update acts from the second on. A text without a context has no prompt, and so no memory of one: it is read
after the end token, which in these models also begins a text.

Context and continuation are tokenised apart, as in training, where most models of the harness tokenise both together
and then cut. A recurrent model has no longest text: nothing is cut off, and rolling log-likelihoods have one window.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from prosg.checkpoints.load import require_tokenizer
from prosg.core.encoded import EncodedPrompt, Memory
from prosg.core.tensors import pad, valid_mask
from prosg.data.templates import OWN, FramedPrompt, Turn
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts
from prosg.model.prosg import ProSG
from prosg.utils.extras import missing_extra
from prosg.utils.store import hash_json
from prosg.utils.values import typed

try:
    from lm_eval.api.model import LM
except ImportError as error:
    raise missing_extra("the evaluation harness", "harness", error) from None

__all__ = ["HarnessModel"]

MAX_TOKENS = 256
"""Longest text that is written where a task does not say."""
TOKEN_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the longest text, in tokens; the first that is given counts."""
SAMPLING = ("until", "do_sample", "temperature", "top_k", "top_p", *TOKEN_LIMITS)
"""Options of writing that tasks may set."""
NOTHING_ASKED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "n": (1,),
    "best_of": (1,),
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "length_penalty": (0, 1),
    "diversity_penalty": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "no_repeat_ngram_size": (0,),
    "penalty_alpha": (0,),
    "typical_p": (1,),
    "min_p": (0,),
    "top_a": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "min_length": (0,),
    "min_tokens": (0,),
    "min_new_tokens": (0,),
    "early_stopping": (False, True, "never"),
    "use_cache": (False, True),
    "ignore_eos": (False,),
    "skip_special_tokens": (False, True),
    "spaces_between_special_tokens": (False, True),
    "stream": (False,),
}
"""Options that change nothing with these values (early stopping is one of beams); with others they are refused."""

Request = tuple[list[int], list[int]]
"""token ids of a context and of what comes after it"""


def _option(given: Mapping[str, Any], name: str, hint: Any, default: Any) -> Any:
    """An option of writing, or its default. ValueError for a value of another type; 8.0 is as good as 8."""
    value = given.get(name, default)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    return typed(f"generation option {name}", value, hint)


class HarnessModel(LM):  # type: ignore[misc]  # lm_eval is not typed
    """A ProSG model as the harness knows models; `memory` and `tau`, as in `ProSG.encode`, hold the prompts."""

    def __init__(
        self,
        model: ProSG,
        *,
        memory: Memory | None = None,
        tau: float | None = None,
        batch_size: int = 16,
        template: str = "none",
        seed: int = 0,
    ) -> None:
        """`template` frames the turns of --apply-chat-template; `seed` is that of texts that are sampled.

        Raises:
            ValueError: for a model without a tokenizer, a memory that it cannot have, a batch size below 1 and a
                template that is unknown or that the model does not have.
        """
        super().__init__()
        if model.tokenizer is None:
            raise ValueError("this model has no tokenizer: set model.tokenizer")
        self.memory = model.check_memory(memory, tau)
        if batch_size < 1:
            raise ValueError(f"batch size is {batch_size}, must be at least 1")
        self.model = model
        self._tokenizer = require_tokenizer(model, "model")
        self.tau = tau
        self.batch_size = batch_size
        self.template = model.own_template.choose(template, model.tokenizer)
        self.seed = seed
        self._applied = False  # whether the harness has it write conversations (--apply-chat-template)
        self._device = next(model.parameters()).device

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each (context, continuation) the log-likelihood of what comes after, nats, and whether it is greedy."""
        texts = [request.args for request in requests]
        return self._scored([(self._prompt(context), self._tokenizer.encode(after)) for context, after in texts])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """For each (text,) its log-likelihood from its first token on, nats."""
        texts = [request.args for request in requests]
        pairs: list[Request] = [([], self._tokenizer.encode(text)) for (text,) in texts]
        return [nats for nats, _ in self._scored(pairs)]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """For each (context, options) the text that is written up to the first of the stop strings `until`.

        Random numbers belong to a request's place among all, so that a text does not depend on the batch size, and a
        question that is asked several times gets several texts.

        Raises:
            ValueError: for options beyond `SAMPLING` that ask for anything, and for values that an option cannot have.
        """
        kinds: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            kinds.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        written = [""] * len(requests)
        for members in kinds.values():
            sampling = self._sampling(requests[members[0]].args[1])
            prompts = [self._prompt(requests[i].args[0]) for i in members]
            for some in self._batches([(prompt, []) for prompt in prompts]):
                encoded = self._encoded([prompts[i] for i in some])
                numbers = np.array([members[i] for i in some], dtype=np.uint64)
                answers = generate_texts(self.model.backbone, encoded, self._tokenizer, sampling, numbers=numbers)
                for i, answer in zip(some, answers, strict=True):
                    written[members[i]] = answer.text
        return written

    def _prompt(self, text: str) -> list[int]:
        """A context's token ids; none for an empty one."""
        # What the model's own template wrote spells special tokens; a task's own text, without it, spells none.
        framed = FramedPrompt(text, () if self.template.name == OWN and self._applied else None)
        return framed.prompt_ids(self._tokenizer, self.model.special) if text else []

    def _sampling(self, options: dict[str, Any]) -> Sampling:
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            if name in SAMPLING:
                continue
            if name not in NOTHING_ASKED:
                raise ValueError(f"generation option {name} is unknown; allowed: {', '.join(SAMPLING)}")
            if value not in NOTHING_ASKED[name]:
                allowed = " or ".join(map(str, NOTHING_ASKED[name]))
                raise ValueError(f"generation option {name} is {value!r}, which is not done here; allowed: {allowed}")
        until = _option(given, "until", str | Sequence[str], [])
        stops = [until] if isinstance(until, str) else list(until)
        stops.append(self.template.stop)
        # As in the harness: without do_sample it is the temperature that says whether to draw.
        draw = _option(given, "do_sample", bool | None, None)
        temperature = _option(given, "temperature", float, 1.0 if draw else 0.0)
        if draw is False:
            temperature = 0.0
        limit = next((name for name in TOKEN_LIMITS if name in given), "max_tokens")
        max_tokens = _option(given, limit, int, MAX_TOKENS)
        top_k, top_p = _option(given, "top_k", int, 0), _option(given, "top_p", float, 1.0)
        try:
            return Sampling(
                max_tokens=max_tokens,
                temperature=temperature,
                # Without sampling they change nothing; a top_k of -1 means all tokens, too.
                top_k=max(0, top_k) if temperature else 0,
                top_p=top_p if temperature else 1.0,
                stop=[stop for stop in stops if stop],
                seed=self.seed,
                end_token=self.template.special(self.model.special, self._tokenizer).end,
            )
        except ValueError as error:
            said = re.sub("^max_tokens ", f"{limit} ", str(error))
            raise ValueError(f"generation option {said}") from None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt that a conversation makes; ValueError where the template cannot write it."""
        if not add_generation_prompt:
            raise ValueError("a template's prompt ends with the assistant's cue: an answer cannot be begun for it")
        self._applied = True
        return self.template.frame([Turn(turn["role"], turn["content"]) for turn in chat_history]).text

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Its name, or a model's own as it is: the harness keeps it with the results."""
        return self.template.jinja() if self.template.name == OWN else self.template.name

    @property
    def tokenizer_name(self) -> str:
        """Of the tokenizer, its special tokens and the template, for caches of requests."""
        template = self.template.name if self.template.name != OWN else hash_json(self.template.jinja())
        return f"{self._tokenizer.fingerprint}-{self.model.special}-{template}"

    def get_model_info(self) -> dict[str, Any]:
        """What the harness puts beside the results."""
        return {
            "model_type": self.model.backbone.config.model_type,
            "memory": self.memory,
            "tau": self.tau,
            "template": self.template.name,
            "model_num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }

    def _scored(self, pairs: Sequence[Request]) -> list[tuple[float, bool]]:
        """Log-likelihoods, and whether they are greedy, in the pairs' order; 0 and yes where nothing comes after."""
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        for some in self._batches(pairs):
            some = [i for i in some if pairs[i][1]]
            # A question is often asked with several answers: its prompt is read once.
            contexts = list(dict.fromkeys(tuple(pairs[i][0]) for i in some))
            if not contexts:
                continue
            rows = torch.tensor([contexts.index(tuple(pairs[i][0])) for i in some], device=self._device)
            encoded = self._encoded([list(context) for context in contexts]).take(rows)
            answer = pad([pairs[i][1] for i in some]).to(self._device)
            lengths = torch.tensor([len(pairs[i][1]) for i in some], device=self._device)
            scores_here = self.model.score(encoded, answer, lengths)
            nats = -scores_here.nll.double().sum(1)
            greedy = (scores_here.hits | ~valid_mask(lengths, answer.shape[1])).all(1)
            for i, value, likeliest in zip(some, nats.tolist(), greedy.tolist(), strict=True):
                scores[i] = (value, likeliest)
        return scores

    def _batches(self, pairs: Sequence[Request]) -> Iterator[list[int]]:
        """Indices, those with the same context side by side and those of like lengths near; without one apart."""
        order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][0]), pairs[i][0], len(pairs[i][1])))
        bare = [i for i in order if not pairs[i][0]]
        for group in (bare, order[len(bare) :]):
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _encoded(self, prompts: list[list[int]]) -> EncodedPrompt:
        """Prompts as they are read; all empty ones are what begins a text, else ends one, without an update."""
        bare = not prompts[0]
        assert all((not prompt) == bare for prompt in prompts)
        if bare:
            special = self.model.special
            prompts = [[special.end[0] if special.begin is None else special.begin]] * len(prompts)
        memory: Memory = "none" if bare else self.memory
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        return self.model.encode(pad(prompts).to(self._device), lengths, memory=memory, tau=None if bare else self.tau)
