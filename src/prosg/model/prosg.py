"""The whole model: a prompt is read, its update synthesized, and the answer written under it (figures 1 and 3).

encode:    prompt -> backbone -> (state, taps, last logits);  taps -> synthesizer -> update      (eq. 1, 13-20)
answer:    token 1 from the prompt's last logits; then (state, update) -> backbone -> logits    (eq. 2, 8-12)
forward:   both passes and the loss                                                              (eq. 22, 23)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, Unpack, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prosg.backbones import BackboneModule
from prosg.backbones.base import Output
from prosg.core.checks import check_lengths, check_tokens
from prosg.core.encoded import EncodedPrompt, Memory, with_update
from prosg.core.state import State
from prosg.core.tensors import CHUNK, keeping_wide
from prosg.core.update import take_update_rows
from prosg.data.templates import OwnTemplate
from prosg.model.anchor import StateAnchor
from prosg.model.base_synthesizer import BaseSynthesizer
from prosg.model.config import ProSGConfig
from prosg.model.holding import HoldingModel
from prosg.model.initial_state import InitialState
from prosg.model.objective import AnswerScores, Objective
from prosg.model.options import EncodeOptions, check_names
from prosg.model.prompts import Batch, Prompt, check_template_used, listed
from prosg.model.reading import PromptReader, encode_with_gradients
from prosg.model.scoring import Interruption, answer_loss, read_teacher, score_answer, score_in_one_call
from prosg.model.synthesizer import Synthesizer
from prosg.tokenizers.special import RWKV_SPECIAL
from prosg.utils.values import check_whole

__all__ = ["ProSG", "Scored", "StatePerturber"]


class Scored(NamedTuple):
    """What `ProSG.forward` returns; the Trainer takes the first."""

    loss: Tensor
    """() weighted negative log-likelihood per answer token, nats"""
    nll: Tensor
    """(B, T) negative log-likelihood of each answer token, 0 beyond its length; without a gradient"""
    hits: Tensor
    """(B, T) whether the likeliest token was the right one"""
    encoded: EncodedPrompt
    """the prompts; without a state where prompt and answer were read in one call"""


@runtime_checkable
class StatePerturber(Protocol):
    """What training does to recurrent states between the calls of a backbone; see `prosg.training.perturbation`."""

    def at_start(self, model: ProSG) -> State | None:
        """The state from which prompts are read; None for the model's initial one."""
        ...

    def at_prompt_end(self, model: ProSG, state: State) -> State:
        """The state from which an answer is read, given the one after its prompt."""
        ...

    def in_answer(self, model: ProSG, steps: Tensor) -> Interruption | None:
        """Where in answers of `steps` (B,) tokens the state is changed, and how; None for nowhere."""
        ...

    def exchange_prompts(self, prompt: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts and lengths that stand in for a perturbed state, where there is no state between two calls."""
        ...


class ProSG(HoldingModel):
    """A backbone, and the module that turns its prompts into updates.

    Attributes:
        backbone: The recurrent language model.
        synthesizer: The module, of a preset or any `BaseSynthesizer`; None for the backbone alone.
        initial: What the memory holds before the first token; None for what the backbone begins with.
        anchor: The windows of the model's own anchor, learned or trained with; None for a model without.
        tokenizer: Needed for texts; token ids do without.
        special: What ends answers, and what stands before prompts that are given as texts.
        own_template: The chat templates that the model comes with.
        base: Where the backbone came from, for adapters to name.
        chunk: Tokens of a prompt or an answer per call, which bounds the memory needed.
    """

    def __init__(self, backbone: BackboneModule, config: ProSGConfig | None = None, seed: int | None = None) -> None:
        """Builds the module for a backbone; `seed` fixes its initial weights."""
        super().__init__()
        self.backbone = backbone
        self.synthesizer: BaseSynthesizer | None = None
        if config is not None:
            size = sum(p.numel() for p in backbone.parameters())
            self.synthesizer = Synthesizer(config, backbone.sites, backbone.tap_widths, seed, size)
        self.initial: InitialState | None = None
        self.anchor: StateAnchor | None = None
        self.tokenizer = None
        self.special, self.own_template = RWKV_SPECIAL, OwnTemplate()
        self.base, self.chunk = "", CHUNK

    @classmethod
    def from_scratch(cls, model: ProSG, preset: str | ProSGConfig = "plus", *, seed: int | None = None) -> ProSG:
        """Gives a model a fresh module; what it had is left out.

        Args:
            model: A loaded model. The new one shares its backbone, and keeps its tokenizer, special tokens, chat
                template, learned initial state, anchor, and where its backbone came from.
            preset: Name of a preset, or the module's options.
            seed: Fixes the module's initial weights.

        Raises:
            ValueError: for an unknown preset, and options that do not fit the backbone.
        """
        config = ProSGConfig.from_preset(preset) if isinstance(preset, str) else preset
        made = cls(model.backbone, config, seed)
        for name in ("initial", "anchor", "tokenizer", "special", "own_template", "base", "chunk"):
            setattr(made, name, getattr(model, name))
        assert made.synthesizer is not None
        made.synthesizer.to(model.device)
        return made.train(model.training)

    @property
    def prosg_config(self) -> ProSGConfig | None:
        """The module's configuration; None without a module, and for a synthesizer of another class."""
        return self.synthesizer.config if isinstance(self.synthesizer, Synthesizer) else None

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the backbone's weights."""
        return next(self.backbone.parameters()).dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Converts the weights, for `to`, `half`, `bfloat16` and the like, as loading the backbone in a type does.

        What makes updates, initial states and anchors stays fp32, as these do, and the backbone keeps what it must.
        """
        if recurse:
            for name, part in self.named_children():
                kept = () if name == "backbone" else (*part.parameters(), *part.buffers())
                part._apply(keeping_wide(fn, kept))
        return super()._apply(fn, recurse=False)  # type: ignore[no-untyped-call]

    def init_state(self, batch: int) -> State:
        """The state before the first token of a prompt: the learned one, if there is one."""
        empty = self.backbone.init_state(batch)
        return empty if self.initial is None else self.initial(empty)

    @torch.no_grad()
    def encode(
        self,
        prompt: Prompt | Batch,
        lengths: Int[Tensor, " B"] | None = None,
        **options: Unpack[EncodeOptions],
    ) -> EncodedPrompt:
        """Reads prompts with the unmodified backbone, then synthesizes their updates and anchors their states.

        Args:
            prompt: A text, which is read as it is; a conversation of messages {"role", "content"}, which the chat
                template writes; several of either; or token ids (B, T), padded on the right.
            lengths: Valid tokens of each row of ids; all of them by default.
            options: `memory`, `tau`, `template`, `chunk` and `window`, as `EncodeOptions` says.

        Raises:
            ValueError: for no prompt or an empty one, messages that are no conversation or that the template cannot
                write, ids and lengths out of range, lengths beside texts, windows where no module reads, or one that
                does not read every position, an update where there is no module, and an anchor where the backbone
                cannot have one.
            TypeError: for an option that there is not.
        """
        check_names("encode", options, EncodeOptions)
        tau, window, chunk = options.get("tau"), options.get("window"), options.get("chunk")
        for name, tokens in (("window", window), ("chunk", chunk)):
            if tokens is not None and check_whole(name, tokens) < 1:
                raise ValueError(f"{name} is {tokens}, must be at least 1 token")
        memory = self.check_memory(options.get("memory"), tau)
        if isinstance(prompt, EncodedPrompt):
            raise ValueError("the prompt is encoded already; `held_by` changes what holds it")
        check_template_used(prompt, options.get("template", ""))
        if not isinstance(prompt, Tensor):
            if lengths is not None:
                raise ValueError("lengths are those of token ids, but the prompts are texts; leave them out")
            prompt, lengths = self.padded(self.prepare(listed(prompt), options.get("template", "")))
        check_tokens(prompt, self.backbone.config.vocab_size, "prompt")
        batch, time = prompt.shape
        if lengths is None:
            lengths = torch.full((batch,), time, device=prompt.device)
        check_lengths(lengths, batch, time, least=0)
        if time == 0 or bool((lengths == 0).any()):
            raise ValueError("a prompt is empty; every prompt needs at least one token")
        synthesizer = self.synthesizer if with_update(memory) else None
        if window is not None and synthesizer is None:
            raise ValueError(
                f"window is {window}, but no module reads the prompt under memory {memory!r}; a window is for memory "
                "update, both or auto"
            )
        chunk = (self.chunk if chunk is None else chunk) if self.backbone.continues else time
        encoded = self._read(prompt, lengths, chunk, synthesizer is not None, window)
        if synthesizer is not None and synthesizer.is_selective and window not in (None, synthesizer.window):
            # A prompt is known by what the module was trained to read.
            encoded = encoded.replace(known=self._read(prompt, lengths, chunk, update=True).known)
        return self.hold(encoded, memory, tau)

    def _read(
        self, prompt: Tensor, lengths: Tensor, chunk: int, update: bool, window: int | None = None
    ) -> EncodedPrompt:
        reader = self.reader(lengths, update=update, window=window)
        reader.read(prompt, lengths, chunk=chunk)
        return reader.finish()

    def reader(
        self, lengths: Int[Tensor, " B"], *, update: bool, state: State | None = None, window: int | None = None
    ) -> PromptReader:
        """Begins to read prompts piece by piece; `encode` reads them at once.

        Args:
            lengths: Tokens of each whole prompt (B,).
            update: Whether their updates are wanted, of a model with a module.
            state: Where reading begins; the model's initial state by default.
            window: Tokens of the windows in which the module reads; its own by default.
        """
        if state is None and self.initial is not None:
            state = self.init_state(lengths.shape[0])
        return PromptReader(self.backbone, self.synthesizer if update else None, state, lengths, window=window)

    def forward(
        self,
        prompt: Int[Tensor, "B Tp"],
        prompt_lengths: Int[Tensor, " B"],
        answer: Int[Tensor, "B Ta"],
        answer_lengths: Int[Tensor, " B"],
        weights: Float[Tensor, "B Ta"],
        perturber: StatePerturber | None = None,
        count: Tensor | int | None = None,
        distil: Bool[Tensor, " B"] | None = None,
        reader: Callable[..., Output] | None = None,
    ) -> Scored:
        """Both passes and the loss, sum(weights * nll) / count (eq. 22, 23).

        In rows that are distilled the divergence from the unmodified model, which has its prompt in an unperturbed
        state, stands in the place of the negative log-likelihood.

        Args:
            prompt: Token ids, padded on the right.
            prompt_lengths: How many of each row are valid.
            answer: Token ids, padded on the right, the end token included.
            answer_lengths: How many of each row are valid.
            weights: Of the answer tokens in the loss.
            perturber: Changes states between the calls (training).
            count: Answer tokens that the loss is divided by; those of this batch by default.
            distil: Which rows are distilled; none by default.
            reader: Called in the place of a backbone that cannot continue, to read the prompts: a cache of their taps.
        """
        read = partial(encode_with_gradients, self.backbone, self.synthesizer, self.initial, chunk=self.chunk)
        if distil is not None and not bool(distil.any()):
            distil = None

        def taught(state: State) -> Objective:
            if distil is None:
                return Objective(weights)
            teacher = read_teacher(self.backbone, prompt, prompt_lengths, answer, answer_lengths, state, distil)
            return Objective(weights, teacher)

        if self.backbone.continues and not self._is_one_text(perturber, distil):
            encoded = read(prompt, prompt_lengths, start=None if perturber is None else perturber.at_start(self))
            if self.anchor is not None:
                encoded = self.anchored(encoded)
            start, interruption = encoded, None
            if perturber is not None:
                start = encoded.replace(state=perturber.at_prompt_end(self, encoded.state))
                interruption = perturber.in_answer(self, answer_lengths - 1)
            taken = answer_loss(
                self.backbone, start, answer, answer_lengths, taught(encoded.state), interruption=interruption
            )
        else:
            shown, lengths, own = prompt, prompt_lengths, None
            if perturber is not None:
                shown, lengths = perturber.exchange_prompts(prompt, prompt_lengths)
            if perturber is not None or self.synthesizer is not None:
                own = read(prompt, prompt_lengths, reader=reader)
            taken, logits = score_in_one_call(self.backbone, shown, lengths, answer, answer_lengths, own, taught(()))
            encoded = EncodedPrompt((), None, logits) if own is None else own
        loss = taken.loss / (answer_lengths.sum() if count is None else count)
        return Scored(loss, *taken.scores, encoded)

    def _is_one_text(self, perturber: StatePerturber | None, distil: Tensor | None) -> bool:
        """Whether nothing happens between prompt and answer (phase 1), so that one call reads both: each weight is read
        once, and has one gradient instead of two to add up.
        """
        extras = (self.synthesizer, self.initial, self.anchor, perturber, distil)
        return all(extra is None for extra in extras) and not self.backbone.checkpoint_every

    @torch.no_grad()
    def score(self, encoded: EncodedPrompt, answer: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> AnswerScores:
        """Scores answers under encoded prompts, without gradients; see `score_answer`."""
        return score_answer(self.backbone, encoded, answer, lengths, chunk=self.chunk)

    @torch.no_grad()
    def score_after(
        self,
        prompt: Int[Tensor, "B Tp"],
        prompt_lengths: Int[Tensor, " B"],
        answer: Int[Tensor, "B T"],
        lengths: Int[Tensor, " B"],
        *,
        memory: Memory | None = None,
        tau: float | None = None,
    ) -> AnswerScores:
        """Scores answers after prompts as token ids: `encode`, then `score`.

        A backbone that cannot read on in one call reads prompt and answer in one, instead of token by token.

        Args:
            prompt: Token ids, padded on the right.
            prompt_lengths: Tokens of each.
            answer: As in `score`.
            lengths: As in `score`.
            memory: What holds the prompts, as in `encode`.
            tau: Window of an anchor, as in `encode`.
        """
        memory = self.check_memory(memory, tau)
        if self.backbone.continues or self.initial is not None or self.pulls_back(memory):
            encoded = self.encode(prompt, prompt_lengths, memory=memory, tau=tau)
            return self.score(encoded, answer, lengths)
        synthesizer = self.synthesizer if with_update(memory) else None
        encoded = encode_with_gradients(self.backbone, synthesizer, None, prompt, prompt_lengths)
        return score_in_one_call(self.backbone, prompt, prompt_lengths, answer, lengths, encoded)[0].scores

    @torch.no_grad()
    def score_wiped(
        self,
        prompt: Int[Tensor, "B Tp"],
        prompt_lengths: Int[Tensor, " B"],
        answer: Int[Tensor, "B T"],
        lengths: Int[Tensor, " B"],
        partners: Int[Tensor, " B"],
    ) -> tuple[AnswerScores, AnswerScores]:
        """Scores answers from the initial state, so that an update is all that is left of a prompt.

        Args:
            prompt: Token ids, padded on the right.
            prompt_lengths: Tokens of each.
            answer: As in `score`.
            lengths: As in `score`.
            partners: For each row the row whose prompt's update is the other one.

        Returns:
            The scores under the other update, and under the row's own. Its own prompt's logits predict the first token
            of both.

        Raises:
            ValueError: for a model without a module, ids and lengths out of range, and partners that are no rows.
        """
        if self.synthesizer is None:
            raise ValueError("this model has no module, so its prompts have no updates to score")
        backbone, batch = self.backbone, prompt.shape[0]
        for name, tokens, valid in (("prompt", prompt, prompt_lengths), ("answer", answer, lengths)):
            check_tokens(tokens, backbone.config.vocab_size, name)
            check_lengths(valid, *tokens.shape, name=f"{name} lengths")
        check_lengths(partners, batch, batch - 1, least=0, name="partners")
        encoded = encode_with_gradients(backbone, self.synthesizer, self.initial, prompt, prompt_lengths, self.chunk)
        assert encoded.update is not None
        rows = torch.arange(batch, device=prompt.device)
        update = take_update_rows(encoded.update, torch.cat([partners, rows]))
        twice = torch.cat([rows, rows])
        state = self.init_state(2 * batch) if backbone.continues else ()
        start = EncodedPrompt(state, update, encoded.logits[twice])
        if backbone.continues:
            scores = score_answer(backbone, start, answer[twice], lengths[twice], chunk=self.chunk)
        else:
            none = torch.zeros_like(lengths)[twice]
            taken, _ = score_in_one_call(backbone, prompt[twice], none, answer[twice], lengths[twice], start)
            scores = taken.scores
        return (
            AnswerScores(scores.nll[:batch], scores.hits[:batch]),
            AnswerScores(scores.nll[batch:], scores.hits[batch:]),
        )

    def run_backbone(self, *args: Any, **kwargs: Any) -> Output:
        """Calls the backbone through the module, so that FSDP gathers its weights."""
        return self.backbone(*args, **kwargs)  # type: ignore[no-any-return]

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, every_n_layers: int = 1, **options: Any
    ) -> None:
        """Recomputes activations in the backward pass (for transformers' Trainer); ValueError where it cannot."""
        chosen = {**(activation_checkpointing_kwargs or {}), **options}
        if any(chosen.values()):
            raise ValueError(f"checkpointing options {chosen}: only use_reentrant=False is known")
        self.backbone.enable_checkpointing(every_n_layers)
