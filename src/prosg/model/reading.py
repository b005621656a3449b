"""Reading a prompt chunk by chunk: the backbone without an update, the synthesizer's reads along the way.

Of each chunk only the state and the reads after it are kept, so memory does not grow with the prompt. Where gradients
are wanted, the backward pass reads a chunk once more (non-reentrant checkpointing); the gradient is that of one call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

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

__all__ = ["PromptReader", "encode_with_gradients", "read_prompt", "read_windows"]


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


class PromptReader:
    """Reads prompts in as many calls as one likes, and then has what they left: all that `ProSG.encode` reads.

    Attributes:
        state: The state (B rows) after what was read; None before the first token for the backbone's initial one.
    """

    def __init__(
        self, backbone: Backbone, synthesizer: BaseSynthesizer | None, state: State | None, lengths: Tensor
    ) -> None:
        """Begins to read.

        Args:
            backbone: What reads.
            synthesizer: Is shown the prompts, and makes their updates; None for none.
            state: Where reading begins; None for the backbone's initial state.
            lengths: Tokens of each whole prompt (B,).
        """
        self.backbone, self.synthesizer, self.state = backbone, synthesizer, state
        self._reads = None if synthesizer is None else synthesizer.init(lengths)
        self._logits: Tensor | None = None

    @torch.no_grad()
    def read(self, tokens: Tensor, lengths: Tensor, *, chunk: int) -> None:
        """Reads the prompts' next tokens.

        Args:
            tokens: Token ids (B, T), padded on the right.
            lengths: Valid tokens of each row (B,); 0 for a prompt that has ended.
            chunk: Tokens per call of the backbone.
        """
        self.state, self._reads, logits = read_prompt(
            self.backbone, tokens, lengths, self.state, self.synthesizer, self._reads, chunk=chunk
        )
        before = logits if self._logits is None else self._logits
        self._logits = torch.where((lengths > 0).unsqueeze(1), logits, before)

    @torch.no_grad()
    def finish(self) -> EncodedPrompt:
        """The prompts after their last tokens: state, update, last logits, and which of them the module knows."""
        assert self.state is not None and self._logits is not None
        encoded = EncodedPrompt(self.state, None, self._logits)
        if self.synthesizer is None:
            return encoded
        return encoded.replace(update=self.synthesizer.finish(self._reads), known=self.synthesizer.knows(self._reads))


def read_windows(
    backbone: Backbone,
    prompt: Tensor,
    lengths: Tensor,
    state: State | None,
    synthesizer: BaseSynthesizer,
    reads: Any,
    window: int,
    *,
    chunk: int,
) -> Any:
    """Shows a synthesizer windows of `window` tokens, each read from `state`; arguments as in `read_prompt`.

    Raises:
        ValueError: for a module that reads the last token only.
    """
    if isinstance(synthesizer, Synthesizer) and synthesizer.config.reads.startswith("last"):
        raise ValueError(f"window: module.reads is {synthesizer.config.reads!r}; windows are for 'all_positions'")
    for part, left in chunks(prompt, lengths, window):
        _, reads, _ = read_prompt(backbone, part, left, state, synthesizer, reads, chunk=chunk)
    return reads


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
    state, reads, logits = read_prompt(
        backbone if reader is None else reader,
        prompt,
        lengths,
        start,
        synthesizer,
        None if synthesizer is None else synthesizer.init(lengths),
        chunk=chunk if in_chunks else prompt.shape[1],
        frozen=frozen,
        keep_state=backbone.continues,  # else the answer is read together with the prompt
    )
    return EncodedPrompt(state, None if synthesizer is None else synthesizer.finish(reads), logits)
