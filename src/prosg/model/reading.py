"""Reading a prompt chunk by chunk: the backbone without an update, the synthesizer's reads along the way.

Of each chunk only the state and the reads after it are kept, so memory does not grow with the prompt. Where gradients
are wanted, the backward pass reads a chunk once more (non-reentrant checkpointing); the gradient is that of one call.

A synthesizer may read in windows: every so many tokens the backbone begins anew from the state before the prompt, so
that what it shows is never fainter than at the end of one window. The state after the prompt, and the logits, are those
of the whole prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from prosg.backbones import BackboneModule
from prosg.backbones.base import Backbone, Output
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import State
from prosg.core.tensors import CHUNK, chunks, valid_mask
from prosg.model.base_synthesizer import BaseSynthesizer
from prosg.model.initial_state import InitialState
from prosg.model.synthesizer import Synthesizer

__all__ = ["PromptReader", "encode_with_gradients", "read_prompt"]


def read_prompt(
    backbone: Callable[..., Output],
    prompt: Tensor,
    lengths: Tensor,
    state: State | None,
    synthesizer: BaseSynthesizer | None,
    reads: Any,
    *,
    chunk: int,
    frozen: bool = False,
    keep_state: bool = True,
) -> tuple[State, Any, Tensor]:
    """Reads prompts from a state, `chunk` tokens at a time.

    Args:
        backbone: What reads.
        prompt: Token ids (B, T), padded on the right.
        lengths: Valid tokens of each row (B,).
        state: Where reading begins; None for the backbone's initial state.
        synthesizer: Takes in the taps of every chunk; None if nobody does.
        reads: What the synthesizer has read so far.
        chunk: Tokens per call.
        frozen: Whether the backbone's pass needs no gradient.
        keep_state: Whether the state after the prompt is wanted.

    Returns:
        The state after each row's last token, the reads, and the logits (B, V) at that token.
    """
    taps = () if synthesizer is None else synthesizer.taps

    def read(tokens: Tensor, left: Tensor, state: State | None, reads: Any) -> tuple[State, Any, Tensor]:
        with torch.no_grad() if frozen else contextlib.nullcontext():
            output = backbone(tokens, state, lengths=left, logits="last", taps=taps, keep_state=keep_state)
        assert output.logits is not None
        if synthesizer is not None:
            reads = synthesizer.read(reads, output.taps, valid_mask(left, tokens.shape[1]))
        return output.state, reads, output.logits

    recompute = torch.is_grad_enabled() and chunk < prompt.shape[1]
    logits: Tensor | None = None
    for tokens, left in chunks(prompt, lengths, chunk):
        if recompute:
            state, reads, last = checkpoint(
                read, tokens, left, state, reads, use_reentrant=False, preserve_rng_state=False
            )
        else:
            state, reads, last = read(tokens, left, state, reads)
        logits = last if logits is None else torch.where((left > 0).unsqueeze(1), last, logits)
    assert state is not None and logits is not None
    return state, reads, logits


class Progress(NamedTuple):
    """What prompts have left so far, of which the first `place` tokens were read."""

    state: State | None
    """the state after them; None for the backbone's initial one"""
    reads: Any
    """what the synthesizer has read of them"""
    logits: Tensor | None = None
    """the logits (B, V) at each row's last token"""
    place: int = 0
    """tokens read of the longest row"""
    inside: State | None = None
    """the state within the window that has begun"""


def read_on(
    backbone: Backbone,
    prompt: Tensor,
    lengths: Tensor,
    start: State | None,
    synthesizer: BaseSynthesizer | None,
    progress: Progress,
    *,
    chunk: int,
    window: int = 0,
    reader: Callable[..., Output] | None = None,
    frozen: bool = False,
    keep_state: bool = True,
) -> Progress:
    """Reads the prompts' next tokens as `read_prompt` does; a synthesizer with windows reads in these.

    Args:
        backbone: What reads.
        prompt: Token ids (B, T), padded on the right.
        lengths: Valid tokens of each row (B,).
        start: The state before the prompt, where windows begin; None for the backbone's initial state.
        synthesizer: Takes in what is read; None if nobody does.
        progress: What was read before.
        chunk: Tokens per call.
        window: Tokens of a window; 0 for none.
        reader: Called in the backbone's place to read the prompt, windows apart.
        frozen: Whether the backbone's pass needs no gradient.
        keep_state: Whether the state after the prompt is wanted.
    """
    state, reads, logits, place, inside = progress
    whole, time = backbone if reader is None else reader, prompt.shape[1]
    # The first window is read as the prompt itself is, so where a pass can be cut one does for both.
    shared = time if not window else min(max(window - place, 0), time) if backbone.continues else 0
    for part, seen_by in ((slice(0, shared), synthesizer), (slice(shared, time), None)):
        left = (lengths - part.start).clamp(min=0, max=part.stop - part.start)
        if part.stop > part.start:
            before = reads if seen_by is not None else None
            state, read, last = read_prompt(
                whole, prompt[:, part], left, state, seen_by, before, chunk=chunk, frozen=frozen, keep_state=keep_state
            )
            reads = reads if seen_by is None else read
            logits = last if logits is None else torch.where((left > 0).unsqueeze(1), last, logits)
    at = shared
    while at < time:
        room = window - (place + at) % window
        left = (lengths - at).clamp(min=0, max=min(room, time - at))
        inside, reads, _ = read_prompt(
            backbone,
            prompt[:, at : at + room],
            left,
            start if room == window else inside,
            synthesizer,
            reads,
            chunk=chunk,
            frozen=frozen,
            keep_state=keep_state,
        )
        at += room
    return Progress(state, reads, logits, place + time, inside)


class PromptReader:
    """Reads prompts in as many calls as one likes, and then has what they left: all that `ProSG.encode` reads."""

    def __init__(
        self,
        backbone: Backbone,
        synthesizer: BaseSynthesizer | None,
        state: State | None,
        lengths: Tensor,
        *,
        window: int | None = None,
    ) -> None:
        """Begins to read.

        Args:
            backbone: What reads.
            synthesizer: Is shown the prompts, and makes their updates; None for none.
            state: Where reading begins; None for the backbone's initial state.
            lengths: Tokens of each whole prompt (B,).
            window: Tokens of the windows in which the synthesizer reads; its own by default.

        Raises:
            ValueError: for windows of a module that reads the last token only.
        """
        self.backbone, self.synthesizer, self.start = backbone, synthesizer, state
        self.window = 0 if synthesizer is None else synthesizer.window if window is None else window
        if self.window and isinstance(synthesizer, Synthesizer) and not synthesizer.config.reads_windows:
            raise ValueError(f"window: module.reads is {synthesizer.config.reads!r}; windows are for 'all_positions'")
        self._progress = Progress(state, None if synthesizer is None else synthesizer.init(lengths))

    @property
    def state(self) -> State | None:
        """The state (B rows) after what was read; None before the first token for the backbone's initial one."""
        return self._progress.state

    @torch.no_grad()
    def read(self, tokens: Tensor, lengths: Tensor, *, chunk: int) -> None:
        """Reads the prompts' next tokens.

        Args:
            tokens: Token ids (B, T), padded on the right.
            lengths: Valid tokens of each row (B,); 0 for a prompt that has ended.
            chunk: Tokens per call of the backbone.
        """
        self._progress = read_on(
            self.backbone,
            tokens,
            lengths,
            self.start,
            self.synthesizer,
            self._progress,
            chunk=chunk,
            window=self.window,
        )

    @torch.no_grad()
    def finish(self) -> EncodedPrompt:
        """The prompts after their last tokens: state, update, last logits, and which of them the module knows."""
        state, reads, logits, *_ = self._progress
        assert state is not None and logits is not None
        encoded = EncodedPrompt(state, None, logits)
        if self.synthesizer is None:
            return encoded
        return encoded.replace(update=self.synthesizer.finish(reads), known=self.synthesizer.knows(reads))


def encode_with_gradients(
    backbone: BackboneModule,
    synthesizer: BaseSynthesizer | None,
    initial: InitialState | None,
    prompt: Tensor,
    lengths: Tensor,
    chunk: int = CHUNK,
    start: State | None = None,
    reader: Callable[..., Output] | None = None,
) -> EncodedPrompt:
    """Encodes prompts for training (eq. 1, 13-20).

    No gradient goes through a frozen backbone, unless an initial state is learned (phase 2). A prompt of several chunks
    is read chunk by chunk where the backbone is frozen or recomputes its activations.

    Args:
        backbone: What reads.
        synthesizer: What makes the update; None for none.
        initial: A learned initial state; None for the backbone's own.
        prompt: Token ids (B, T), padded on the right.
        lengths: Valid tokens of each row (B,).
        chunk: Tokens per call, where it is read chunk by chunk.
        start: The state from which prompts are read; by default the learned one, or the backbone's own.
        reader: Called in the backbone's place to read the prompts (a cache of what it left of them).
    """
    learned = [*backbone.parameters(), *([] if initial is None else initial.parameters())]
    frozen = not any(parameter.requires_grad for parameter in learned)
    in_chunks = backbone.continues and (frozen or backbone.checkpoint_every > 0)
    if start is None and initial is not None:
        start = initial(backbone.init_state(prompt.shape[0]))
    progress = read_on(
        backbone,
        prompt,
        lengths,
        start,
        synthesizer,
        Progress(start, None if synthesizer is None else synthesizer.init(lengths)),
        chunk=chunk if in_chunks else prompt.shape[1],
        window=0 if synthesizer is None else synthesizer.window,
        reader=reader,
        frozen=frozen,
        keep_state=backbone.continues,  # else the answer is read together with the prompt
    )
    assert progress.state is not None and progress.logits is not None
    update = None if synthesizer is None else synthesizer.finish(progress.reads)
    return EncodedPrompt(progress.state, update, progress.logits)
