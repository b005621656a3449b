"""Options of the gradient synthesis module, and the presets: named sets of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prosg.utils.options import build
from prosg.utils.values import check_fields

__all__ = ["PRESETS", "ProSGConfig", "Reads"]

Reads = Literal["nothing", "last_input", "last_position", "all_positions"]

FACTORS: dict[Reads, tuple[str, ...]] = {
    "nothing": ("none",),
    "last_input": ("a",),
    "last_position": ("a", "both"),
    "all_positions": ("a", "both"),
}
"""What a module reads -> which factors of the update it can synthesize from that."""


SIZES = {
    "rank": (1, 1 << 16),
    "blocks": (0, 1000),
    "bottleneck": (0, 1 << 20),
    "hidden": (0, 1 << 20),
    "window": (0, 1 << 30),
}
"""Least and greatest of a size; more is a slip that would fill the memory before anything is said."""

LONGEST_REFERENCE, GREATEST_ALPHA = 1e9, 1e6


@dataclass(frozen=True)
class ProSGConfig:
    """The module: what it reads of a prompt, and how it makes an update of that.

    It is saved beside an adapter's weights.

    Attributes:
        reads: What is read of the prompt: "all_positions", by attention, what goes into each projection and comes out
            of the memory at every token; "last_position", the same at the last token alone; "last_input", what goes in
            at the last token (the paper's way, its equations 13 to 16); or "nothing" (a static adapter).
        rank: Rank of the update, a product of two thin matrices, B and A.
        synthesize: Which of the two are made from the prompt, the other one being learned once: "a" (the paper's
            equation 20), "both", or "none" (a static adapter).
        bottleneck: Numbers that are kept of what is read at a position; 0 picks a quarter of the model's width, or
            less, in a backbone of 100 million parameters or more, where the module would have more than a tenth of
            the backbone's. Not for "last_input".
        window: Read a prompt in windows of so many tokens, each from the state before it: for prompts so long that the
            state no longer holds what they begin with. 0 reads it whole. For "all_positions" only.
        memory_tap: Also read what the recurrence returned at each position. Not for "last_input".
        state_embedding: Add a learned vector to what is read, one per projection or read, to tell them apart.
        blocks: Residual blocks in the stack, the network that turns what was read into the update (the paper's
            equation 18).
        hidden: Hidden width of a block; 0 takes the stack's own width.
        share_stack: One stack for all layers instead of one per layer.
        final_norm: LayerNorm after the stack.
        log_length: Scale attention scores by log T / log T0, so that reads stay as sharp in longer prompts.
        reference_length: T0, a typical prompt length in training, tokens.
        alpha: Scale of the update.
        target_modules: Projections of each time-mixing block that get an update, by name; none named: all of them. In
            a model that transformers runs a name is the end of a module's path, like out_proj or attn.c_proj.
    """

    reads: Reads = "all_positions"
    rank: int = 8
    synthesize: Literal["a", "both", "none"] = "both"
    bottleneck: int = 0
    window: int = 0
    memory_tap: bool = True
    state_embedding: bool = True
    blocks: int = 2
    hidden: int = 0
    share_stack: bool = False
    final_norm: bool = True
    log_length: bool = True
    reference_length: float = 20.0
    alpha: float = 1.0
    target_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "module.")
        # A site's name is part of tensors' names, which dots would cut.
        names = dict.fromkeys(name.replace(".", "_") for name in self.target_modules)
        object.__setattr__(self, "target_modules", tuple(names))
        for name, (least, most) in SIZES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"module.{name} is {getattr(self, name)}, must be {least} to {most}")
        if not 1 < self.reference_length <= LONGEST_REFERENCE:
            raise ValueError(
                f"module.reference_length is {self.reference_length}, must be above 1, at most {LONGEST_REFERENCE:g}"
            )
        if abs(self.alpha) > GREATEST_ALPHA:
            raise ValueError(f"module.alpha is {self.alpha}, must be at most {GREATEST_ALPHA:g}")
        if self.reads not in FACTORS:
            raise ValueError(f"module.reads is {self.reads!r}; allowed: {', '.join(FACTORS)}")
        if self.synthesize not in FACTORS[self.reads]:
            raise ValueError(
                f"module.synthesize is {self.synthesize!r}, but module.reads {self.reads!r} allows "
                f"{' or '.join(FACTORS[self.reads])}"
            )

        if self.window and not self.reads_windows:
            raise ValueError(
                f"module.window is {self.window}, but module.reads is {self.reads!r}; windows are for 'all_positions'"
            )

    @property
    def reads_windows(self) -> bool:
        """Whether a prompt may be read in windows: what is read at each position, not at the last one."""
        return self.reads == "all_positions"

    @property
    def reads_positions(self) -> bool:
        """Whether positions are read through the bottleneck, all of them or the last one."""
        return self.reads in ("all_positions", "last_position")

    @property
    def preset(self) -> str:
        """The preset that reads as this module does: "paper", "plus" or "static"."""
        return {"last_input": "paper", "nothing": "static"}.get(self.reads, "plus")

    def resolve(self, width: int, names: tuple[str, ...]) -> ProSGConfig:
        """Fills in what was left open for a model of this width with these projections.

        The bottleneck follows from the width alone: `Synthesizer`, which can count its parameters, narrows it for large
        backbones.
        """
        return dataclasses.replace(
            self, bottleneck=self.bottleneck or max(width // 4, 1), target_modules=self.target_modules or names
        )

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProSGConfig:
        """Reads `to_dict`'s values, also those of version 0.1.0.

        Raises:
            ValueError: for unknown keys, naming them and what is allowed, and for values out of range.
        """
        return build(cls, _from_first_version(values), "module.")

    @classmethod
    def from_preset(cls, preset: str, **changes: Any) -> ProSGConfig:
        """A preset with some options changed. Raises ValueError for an unknown preset."""
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
        return dataclasses.replace(PRESETS[preset], **changes)


def _from_first_version(values: Mapping[str, Any]) -> dict[str, Any]:
    """Version 0.1.0 spread `reads` over three keys: preset, reading and positions."""
    values = dict(values)
    old = {key: values.pop(key) for key in ("preset", "reading", "positions") if key in values}
    if "reading" in old and "reads" not in values:
        positions = {"all": "all_positions", "last": "last_position"}.get(old.get("positions", "all"))
        values["reads"] = {"last": "last_input", "none": "nothing", "attention": positions}.get(old["reading"])
    return values


PRESETS: dict[str, ProSGConfig] = {
    "paper": ProSGConfig(
        reads="last_input", rank=1, synthesize="a", memory_tap=False, blocks=1, final_norm=False, log_length=False
    ),
    "plus": ProSGConfig(),
    "static": ProSGConfig(
        reads="nothing", rank=64, synthesize="none", memory_tap=False, state_embedding=False, blocks=0
    ),
}
