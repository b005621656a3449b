"""The whole model: a prompt is read, its update synthesized, and the answer written under it (figures 1 and 3).

encode:    prompt -> backbone -> (state, taps, last logits);  taps -> synthesizer -> update      (eq. 1, 13-20)
answer:    token 1 from the prompt's last logits; then (state, update) -> backbone -> logits    (eq. 2, 8-12)
forward:   both passes and the loss                                                              (eq. 22, 23)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prosg.backbones.base import Backbone, Output
from prosg.backbones.native import Native
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import State, choose_rows, take_rows
from prosg.core.tensors import pad, wide
from prosg.core.update import Update
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts, stream_text
from prosg.model.config import ProSGConfig
from prosg.model.initial_state import InitialState
from prosg.model.synthesizer import Reads, Synthesizer
from prosg.training.perturbation import Draws, perturb

__all__ = ["ProSG", "Scored"]

CHUNK = 512
"""Tokens of a prompt that are read in one call, unless another number is asked for."""


class Scored(NamedTuple):
    """What `ProSG.forward` returns; the Trainer takes the first."""

    loss: Tensor
    """() weighted negative log-likelihood per answer token, nats"""
    nll: Tensor
    """(B, T) negative log-likelihood of each answer token, 0 beyond its length"""
    hits: Tensor
    """(B, T) whether the likeliest token was the right one"""
    encoded: EncodedPrompt


class ProSG(nn.Module):
    """A backbone, and the module that turns its prompts into updates (None: the backbone alone)."""

    def __init__(self, backbone: Any, config: ProSGConfig | None = None, seed: int | None = None) -> None:
        """`backbone` is a Backbone and an nn.Module; `seed` fixes the module's initial weights."""
        super().__init__()
        self.backbone: Backbone = backbone
        self.synthesizer = None
        if config is not None:
            size = sum(p.numel() for p in backbone.parameters())
            self.synthesizer = Synthesizer(config, backbone.sites, backbone.tap_widths, seed, size)
        self.initial: InitialState | None = None
        """what the memory holds before the first token; None: what the backbone begins with"""
        self.update_enabled = True
        self.tokenizer: Any = None
        self.base = ""
        """where the backbone came from, for adapters to name"""

    @property
    def prosg_config(self) -> ProSGConfig | None:
        """The module's configuration."""
        return None if self.synthesizer is None else self.synthesizer.config

    def init_state(self, batch: int) -> State:
        """The state before the first token, of a prompt and of a row that is wiped: the learned one, if there is."""
        empty = self.backbone.init_state(batch)
        return empty if self.initial is None else self.initial(empty)

    @contextlib.contextmanager
    def disable_update(self) -> Iterator[None]:
        """Within, prompts are encoded without an update: the backbone alone."""
        before, self.update_enabled = self.update_enabled, False
        try:
            yield
        finally:
            self.update_enabled = before

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Keep the inputs of every n-th block instead of what is in it, which the backward pass computes again.

        The update is an argument of the blocks, so gradients are those of a pass that keeps everything. It is what
        transformers' Trainer calls, with these names, where checkpointing is on.

        Raises:
            ValueError: for a model that transformers runs, whose recomputation would not see the update, and for
                reentrant checkpointing, offloading and other options, which are not supported.
        """
        options = {"use_reentrant": False, "offload": False} | (activation_checkpointing_kwargs or {})
        if options | {"offload": offload} != {"use_reentrant": False, "offload": False}:
            raise ValueError(
                f"checkpointing options {options | {'offload': offload}}: only use_reentrant=False is known"
            )
        if not isinstance(self.backbone, Native):
            raise ValueError(
                f"checkpointing is for native backbones; a {self.backbone.config.model_type} is run by transformers, "
                "and its recomputation would not see the update"
            )
        self.backbone.checkpoint_every = every_n_layers

    @torch.no_grad()
    def encode(
        self,
        prompt: str | Sequence[str] | Tensor,
        lengths: Int[Tensor, " B"] | None = None,
        *,
        chunk: int = CHUNK,
        window: int | None = None,
    ) -> EncodedPrompt:
        """Read prompts, chunk by chunk, without an update; then synthesize theirs.

        Args:
            prompt: A text, several texts, or token ids (B, T), padded on the right.
            lengths: Valid tokens of each row of ids; all of them by default.
            chunk: Tokens read at once: memory needed does not grow beyond it. A backbone that does not continue reads
                every prompt in one call.
            window: Show the module windows of this many tokens, each read from the initial state, instead of one
                reading: for prompts that overfill the state. The state is that of the whole reading (read twice then).

        Raises:
            ValueError: for an empty prompt.
        """
        if not isinstance(prompt, Tensor):
            prompt, lengths = self.tokenise([prompt] if isinstance(prompt, str) else prompt)
        batch, time = prompt.shape
        if lengths is None:
            lengths = torch.full((batch,), time, device=prompt.device)
        if time == 0 or bool((lengths < 1).any()):
            raise ValueError("a prompt is empty; every prompt needs at least one token")
        synthesizer = self.synthesizer if self.update_enabled else None
        reader = synthesizer if window is None else None
        reads = Reads(lengths, ()) if synthesizer is None else synthesizer.init(lengths)
        chunk = chunk if self.backbone.continues else time
        state, reads, logits = self._read_prompt(prompt, lengths, reader, reads, chunk)
        if synthesizer is not None and window is not None:
            if synthesizer.config.looks_at == "last":
                raise ValueError("window: this module reads the last token only; windows are for reading 'attention'")
            for part, here in _pieces(prompt, lengths, window):
                _, reads, _ = self._read_prompt(part, here, synthesizer, reads, chunk)
        update = None if synthesizer is None else synthesizer.finish(reads)
        return EncodedPrompt(state, update, logits)

    def run_backbone(self, *args: Any, **kwargs: Any) -> Output:
        """A call of the backbone alone, with its arguments, as a method of the whole: weights may be shared out."""
        return self.backbone(*args, **kwargs)

    def forward(
        self,
        prompt: Int[Tensor, "B Tp"],
        prompt_lengths: Int[Tensor, " B"],
        answer: Int[Tensor, "B Ta"],
        answer_lengths: Int[Tensor, " B"],
        weights: Float[Tensor, "B Ta"],
        draws: Draws | None = None,
        bank: State | None = None,
        count: Tensor | int | None = None,
    ) -> Scored:
        """Both passes; the loss is sum(weights * nll) / count, count the batch's answer tokens unless given.

        `draws` says what is done to the state between the calls, and where; `bank` holds the states that are loaded.
        """
        if self.backbone.continues:
            encoded, nll, hits = self._in_two_calls(prompt, prompt_lengths, answer, answer_lengths, draws, bank)
        else:
            encoded, nll, hits = self._in_one_call(prompt, prompt_lengths, answer, answer_lengths, draws)
        loss = (weights * nll).sum() / (answer_lengths.sum() if count is None else count)
        return Scored(loss, nll, hits, encoded)

    def _in_two_calls(
        self,
        prompt: Tensor,
        prompt_lengths: Tensor,
        answer: Tensor,
        answer_lengths: Tensor,
        draws: Draws | None,
        bank: State | None,
    ) -> tuple[EncodedPrompt, Tensor, Tensor]:
        """The prompt, and the answer on from the state that it left; nll and hits (B, Ta)."""
        encoded = self._encode_for_training(prompt, prompt_lengths)
        state = encoded.state
        if draws is not None:
            state = choose_rows(draws.swap, take_rows(state, _neighbours(prompt)), state)
            before = state
            state = choose_rows(draws.wipe, self.init_state(prompt.shape[0]), state)
            state = perturb(self.backbone, state, draws.end, bank, before)
        steps = answer_lengths - 1  # tokens that are read to predict the next
        start = torch.zeros_like(steps)
        if draws is None or not bool((draws.story.age | draws.story.load).any()):
            _, nll, hits = self._read(state, encoded.update, answer, start, steps)
        else:
            position = _boundaries(draws, steps)
            state, nll, hits = self._read(state, encoded.update, answer, start, position)
            state = perturb(self.backbone, state, draws.story, bank, state)
            _, rest, rest_hits = self._read(state, encoded.update, answer, position, steps - position)
            nll, hits = nll + rest, hits | rest_hits
        return encoded, *_with_first(encoded.logits, answer, nll, hits)

    def _in_one_call(
        self, prompt: Tensor, prompt_lengths: Tensor, answer: Tensor, answer_lengths: Tensor, draws: Draws | None
    ) -> tuple[EncodedPrompt, Tensor, Tensor]:
        """The same for a backbone that does not continue: prompt and answer in one row, the update acts on the answer.

        Instead of a state its prompt is exchanged: a wiped row reads the answer alone, a swapped one after the next
        row's prompt. The first token is predicted by the row's own prompt in any case.
        """
        encoded = None
        front, lengths = prompt, prompt_lengths
        if draws is not None:
            other = _neighbours(prompt)
            front = torch.where(draws.swap.unsqueeze(1), prompt[other], prompt)
            lengths = torch.where(draws.swap, lengths[other], lengths).masked_fill(draws.wipe, 0)
        if draws is not None or self.synthesizer is not None:
            encoded = self._encode_for_training(prompt, prompt_lengths)
        read = lengths + answer_lengths - 1
        rows = _joined(front, lengths, answer, max(int(read.max()), 1))
        update = None if encoded is None else encoded.update
        output = self.backbone(rows, update=update, update_from=lengths, lengths=read, keep_state=False)
        assert output.logits is not None
        place = torch.arange(answer.shape[1], device=answer.device)
        index = (lengths.unsqueeze(1) - 1 + place).clamp(min=0, max=rows.shape[1] - 1)
        logits = output.logits.gather(1, index.unsqueeze(2).expand(-1, -1, output.logits.shape[2]))
        if encoded is None:
            encoded = EncodedPrompt((), None, logits[:, 0])
        nll, hits = _judge(logits[:, 1:], answer[:, 1:], place[1:] < answer_lengths.unsqueeze(1))
        return encoded, *_with_first(encoded.logits, answer, nll, hits)

    @torch.no_grad()
    def score(
        self, encoded: EncodedPrompt, answer: Int[Tensor, "B Ta"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B Ta"], Tensor]:
        """Each answer token's negative log-likelihood under an encoded prompt, nats, and whether it was the likeliest.

        Both (B, Ta), 0 beyond `lengths`.
        """
        steps = lengths - 1
        _, nll, hits = self._read(encoded.state, encoded.update, answer, torch.zeros_like(steps), steps)
        return _with_first(encoded.logits, answer, nll, hits)

    def _encode_for_training(self, prompt: Tensor, lengths: Tensor) -> EncodedPrompt:
        """As `encode`, with gradients; without any to the backbone where it is frozen (phase 2), none at all before the
        update unless an initial state is learned.

        A long prompt is read chunk by chunk there, and where checkpointing is on: what is kept of a chunk for its
        gradient is the state and the reads before it, and the backward pass reads it again. So memory hardly grows with
        the prompt, and a gradient is what it is in one call. A prompt of one chunk is read once.
        """
        synthesizer = self.synthesizer if self.update_enabled else None
        frozen = not any(p.requires_grad for p in self.backbone.parameters())  # type: ignore[attr-defined]
        if self.initial is not None:
            frozen = frozen and not any(p.requires_grad for p in self.initial.parameters())
        in_chunks = self.backbone.continues and (frozen or getattr(self.backbone, "checkpoint_every", 0) > 0)
        chunk = CHUNK if in_chunks else prompt.shape[1]
        reads = Reads(lengths, ()) if synthesizer is None else synthesizer.init(lengths)
        keep_state = self.backbone.continues  # the answer is read on from it, else together with the prompt
        state, reads, logits = self._read_prompt(prompt, lengths, synthesizer, reads, chunk, frozen, keep_state)
        return EncodedPrompt(state, None if synthesizer is None else synthesizer.finish(reads), logits)

    def _read_prompt(
        self,
        prompt: Tensor,
        lengths: Tensor,
        reader: Synthesizer | None,
        reads: Reads,
        chunk: int,
        frozen: bool = False,
        keep_state: bool = True,
    ) -> tuple[State, Reads, Tensor]:
        """Read a prompt from the initial state, `chunk` tokens at a time: state, what `reader` read, last logits."""
        taps = () if reader is None else reader.taps

        def read(piece: Tensor, left: Tensor, state: State | None, reads: Reads) -> tuple[State, Reads, Tensor]:
            with torch.no_grad() if frozen else contextlib.nullcontext():
                output = self.backbone(piece, state, lengths=left, logits="last", taps=taps, keep_state=keep_state)
            assert output.logits is not None
            if reader is not None:
                reads = reader.read(reads, output.taps, _valid(piece, left))
            return output.state, reads, output.logits

        again = torch.is_grad_enabled() and chunk < prompt.shape[1]
        state = None if self.initial is None else self.init_state(prompt.shape[0])
        logits: Tensor | None = None
        for piece, left in _pieces(prompt, lengths, chunk):
            if again:
                state, reads, last = checkpoint(
                    read, piece, left, state, reads, use_reentrant=False, preserve_rng_state=False
                )
            else:
                state, reads, last = read(piece, left, state, reads)
            logits = last if logits is None else torch.where((left > 0).unsqueeze(1), last, logits)
        assert state is not None and logits is not None
        return state, reads, logits

    def _read(
        self, state: State, update: Update | None, answer: Tensor, start: Tensor, lengths: Tensor
    ) -> tuple[State, Tensor, Tensor]:
        """Read `lengths` (B,) answer tokens from `start` (B,); nll and hits (B, T - 1) of the tokens after each."""
        batch, time = answer.shape
        longest = max(int(lengths.max()), 1)
        index = start.unsqueeze(1) + torch.arange(longest, device=answer.device)
        valid = torch.arange(longest, device=answer.device) < lengths.unsqueeze(1)
        index = index.clamp(max=time - 2) if time > 1 else index * 0
        output = self.backbone(answer.gather(1, index), state, update=update, lengths=lengths)
        assert output.logits is not None
        nll, hits = _judge(output.logits, answer.gather(1, (index + 1).clamp(max=time - 1)), valid)
        width = max(time - 1, 1)
        placed = nll.new_zeros(batch, width).scatter_add(1, index, nll)
        placed_hits = nll.new_zeros(batch, width).scatter_add(1, index, hits.to(nll.dtype)) > 0
        return output.state, placed[:, : time - 1], placed_hits[:, : time - 1]

    def tokenise(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, T) of texts, padded on the right, and their lengths (B,). ValueError without a tokenizer."""
        ids = [self._need_tokenizer().encode(text) for text in texts]
        lengths = torch.tensor([len(row) for row in ids], dtype=torch.int64)
        padded = pad(ids) if ids else torch.zeros(0, 0, dtype=torch.int64)
        device = next(self.parameters()).device
        return padded.to(device), lengths.to(device)

    def _need_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer: set model.tokenizer, or pass token ids")
        return self.tokenizer

    def generate(self, prompt: str | Sequence[str] | EncodedPrompt, **sampling: Any) -> list[str]:
        """One answer per prompt, in one batch; options: `Sampling`."""
        encoded = prompt if isinstance(prompt, EncodedPrompt) else self.encode(prompt)
        answers = generate_texts(self.backbone, encoded, self._need_tokenizer(), Sampling(**sampling))
        return [answer.text for answer in answers]

    def stream(self, prompt: str | EncodedPrompt, **sampling: Any) -> Iterator[str]:
        """Pieces of one answer as they are written; options: `Sampling`."""
        encoded = prompt if isinstance(prompt, EncodedPrompt) else self.encode(prompt)
        yield from stream_text(self.backbone, encoded, self._need_tokenizer(), Sampling(**sampling))

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> ProSG:
        """The model of an adapter folder, a backbone, or "demo"; options as `load_model`'s (base, dtype, device...)."""
        from prosg.checkpoints.load import load_model

        return load_model(path, **options)

    def save_pretrained(self, folder: str | Path, *, base: str | Path | None = None, overwrite: bool = False) -> None:
        """Write the module as an adapter folder that names its base; see `save_adapter`."""
        from prosg.checkpoints.adapter import save_adapter

        save_adapter(self, folder, base=base, overwrite=overwrite)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, of how many, as PEFT does."""
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")


def _pieces(tokens: Tensor, lengths: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    if size < 1:
        raise ValueError(f"chunk or window is {size}, must be at least 1 token")
    for start in range(0, tokens.shape[1], size):
        piece = tokens[:, start : start + size]
        yield piece, (lengths - start).clamp(min=0, max=piece.shape[1])


def _joined(front: Tensor, lengths: Tensor, answer: Tensor, width: int) -> Tensor:
    """(B, width) `lengths` (B,) tokens of each row of `front`, then the row of `answer`."""
    place = torch.arange(width, device=answer.device)
    behind = place - lengths.unsqueeze(1)
    return torch.where(
        behind < 0,
        front.gather(1, place.clamp(max=front.shape[1] - 1).expand(len(front), -1)),
        answer.gather(1, behind.clamp(min=0, max=answer.shape[1] - 1)),
    )


def _boundaries(draws: Draws, steps: Tensor) -> Tensor:
    """(B,) tokens read in the first of two calls: as drawn where a row is touched there.

    The others' boundary may stand anywhere: it is put where neither call grows beyond what the touched rows need.
    """
    touched = draws.story.age | draws.story.load
    position = torch.minimum(draws.position, steps)
    first, second = position[touched].max(), (steps - position)[touched].max()
    return torch.where(touched, position, (steps - second).clamp(min=0).minimum(first))


def _judge(logits: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """nll and hits (B, T) of targets (B, T), nothing where they are not valid."""
    nll = F.cross_entropy(wide(logits.flatten(0, 1)), targets.flatten(), reduction="none").view_as(targets)
    return nll * valid, (logits.argmax(2) == targets) & valid


def _with_first(logits: Tensor, answer: Tensor, nll: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
    """Put the first token, which the prompt's own logits predict, in front."""
    first = F.cross_entropy(wide(logits), answer[:, 0], reduction="none")
    hit = logits.argmax(1) == answer[:, 0]
    return torch.cat([first.unsqueeze(1), nll], 1), torch.cat([hit.unsqueeze(1), hits], 1)


def _valid(tokens: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)


def _neighbours(rows: Tensor) -> Tensor:
    return torch.arange(rows.shape[0], device=rows.device).roll(-1)
