"""What a model needs of a module that makes updates, whatever it computes."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn

from prosg.backbones.base import Taps
from prosg.core.update import Update

__all__ = ["BaseSynthesizer"]


class BaseSynthesizer(nn.Module):
    """Turns a prompt's taps into its update. A synthesizer of one's own is a subclass, set as `ProSG.synthesizer`.

    A prompt is read chunk by chunk: `init`, `read` once per chunk, `finish`. What they pass on is the subclass's own
    (a tensor, or a tuple of them); it must not grow with the prompt if memory is not to.
    """

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the backbone's taps that it reads: fields of `Taps`."""
        raise NotImplementedError

    @property
    def window(self) -> int:
        """Tokens of the windows in which it reads prompts, each from the state before the prompt; 0 for none."""
        return 0

    @property
    def is_selective(self) -> bool:
        """Whether it tells prompts like those of its training from others."""
        return False

    def knows(self, reads: Any) -> Bool[Tensor, " B"] | None:
        """Returns which prompts are like those of its training, once they are read; None where it cannot tell."""
        return None

    def init(self, lengths: Int[Tensor, " B"]) -> Any:
        """Starts reading prompts of these whole lengths (B,)."""
        raise NotImplementedError

    def read(self, reads: Any, taps: Taps, valid: Bool[Tensor, "B T"]) -> Any:
        """Takes in the taps of one chunk, of which `valid` (B, T) positions belong to the prompt."""
        raise NotImplementedError

    def finish(self, reads: Any) -> Update:
        """Makes the update: per site of the backbone, of shape (O, I), a (B, r, I) and b (O, r) or (B, O, r)."""
        raise NotImplementedError

    def forward(self, taps: Taps, valid: Bool[Tensor, "B T"]) -> Update:
        """Makes the update of a prompt in one chunk."""
        return self.finish(self.read(self.init(valid.sum(1)), taps, valid))
