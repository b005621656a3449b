"""How the next tokens of rows are chosen, where each row has options of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prosg.generation.decode import draws, is_finite
from prosg.generation.sampling import pick
from prosg.serving.request import Request

__all__ = ["RowSampling"]


class RowSampling:
    """Options of sampling of B rows as tensors, made anew only where rows join or leave."""

    def __init__(self, requests: Sequence[Request], steps: Sequence[int], device: torch.device) -> None:
        """Sets the rows up.

        Args:
            requests: What the rows are answers to.
            steps: Tokens that each has chosen already.
            device: Where the logits are.
        """
        options = [request.sampling for request in requests]
        self.seeds = np.array([option.seed & (2**64 - 1) for option in options], np.uint64)
        self.numbers = np.array([request.number for request in requests], np.uint64)
        self.steps = np.array(steps, np.uint64)
        self.temperature = torch.tensor([option.temperature for option in options], device=device)
        self.ends = torch.tensor([option.ends[0] for option in options], device=device)
        self.top_k = torch.tensor([option.top_k for option in options], device=device)
        self.top_p = torch.tensor([float(option.top_p) for option in options], device=device)
        self.greedy = not any(option.temperature for option in options)

    def choose(self, logits: Tensor) -> tuple[Tensor, list[bool]]:
        """Chooses the rows' next tokens, as `decode` does.

        Args:
            logits: (B, V) after the tokens before.

        Returns:
            The tokens (B,), and in which rows the logits are finite; in others the token is an end token.
        """
        logits = logits.float() if logits.dtype.itemsize < 4 else logits  # once: PyTorch is slow at comparing bf16
        finite = is_finite(logits)
        random = logits.new_zeros(0) if self.greedy else draws(self.seeds, self.steps, self.numbers, logits.device)
        self.steps += np.uint64(1)
        chosen = pick(
            logits if all(finite) else logits.masked_fill(~self._rows(finite).unsqueeze(1), 0.0),
            self.temperature,
            self.temperature if self.greedy else random,
            self.top_k,
            self.top_p,
        )
        return chosen if all(finite) else torch.where(self._rows(finite), chosen, self.ends), finite

    def _rows(self, flags: Sequence[bool]) -> Tensor:
        return torch.tensor(flags, device=self.ends.device)
