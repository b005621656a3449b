"""The synthesis module's options, and the presets: named sets of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["PRESETS", "ProSGConfig"]


@dataclass(frozen=True)
class ProSGConfig:
    """The synthesis module. What is saved beside an adapter's weights; a preset is a set of these values.

    Attributes:
        preset: Name of the preset that it started from: a label, which has to fit `reading`. In Python presets come
            from `ProSGConfig.from_preset`, on the command line from `--recipe`.
        reading: What is read of the prompt: its last token's input ("last", eq. 13-16), every position by softmax
            attention ("attention"), or nothing ("none": a static adapter).
        positions: Which positions attention reads: "all", or "last", the prompt's last token alone, so that nothing is
            left to attend to: what reading every position is worth is told by leaving it out.
        rank: Rank n of the update.
        synthesize: Which factors depend on the prompt: "a" (eq. 20), "both", or "none" (static).
        bottleneck: Width d of the reads; 0 picks a quarter of the model's width, or less, in a backbone of 100 million
            parameters or more, where the module would have more than a tenth of the backbone's. Attention only.
        memory_tap: Also read what the recurrence returned at each position. Attention only.
        state_embedding: Add a learned vector per projection (eq. 13-16), or per read.
        blocks: Residual blocks in the transforming stack (eq. 18).
        hidden: Hidden width of a block; 0 takes the stack's own width.
        share_stack: One stack for all layers instead of one per layer.
        final_norm: LayerNorm after the stack.
        log_length: Scale attention scores by log T / log T0, so that reads stay as sharp in longer prompts.
        reference_length: T0, a typical prompt length in training, tokens.
        alpha: Scale of the update.
        target_modules: Projections of each time-mixing block that get an update, by name; none named: all of them. In
            a model that transformers runs a name is the end of a module's path, like out_proj or attn.c_proj.
    """

    preset: str = "plus"
    reading: Literal["last", "attention", "none"] = "attention"
    positions: Literal["all", "last"] = "all"
    rank: int = 8
    synthesize: Literal["a", "both", "none"] = "both"
    bottleneck: int = 0
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
        # A site's name is part of tensors' names, which dots would cut.
        object.__setattr__(self, "target_modules", tuple(name.replace(".", "_") for name in self.target_modules))
        for name, least in (("rank", 1), ("blocks", 0), ("bottleneck", 0), ("hidden", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"module.{name} is {getattr(self, name)}, must be at least {least}")
        if self.reference_length <= 1:
            raise ValueError(f"module.reference_length is {self.reference_length}, must be above 1")
        readings = {"last": ("a",), "attention": ("a", "both"), "none": ("none",)}
        if self.reading not in readings:
            raise ValueError(f"module.reading is {self.reading!r}; known are {', '.join(readings)}")
        reads = {"paper": "last", "plus": "attention", "static": "none"}.get(self.preset, self.reading)
        if self.reading != reads:
            raise ValueError(
                f"module.preset is {self.preset!r}, which reads {reads!r}, but module.reading is {self.reading!r}; a "
                f"preset is a label: take ProSGConfig.from_preset({self.preset!r}) or --recipe, or set it to ''"
            )
        if self.positions not in ("all", "last"):
            raise ValueError(f"module.positions is {self.positions!r}; allowed: all, last")
        if self.positions == "last" and self.reading != "attention":
            raise ValueError(f"module.positions is 'last', which is for reading 'attention', not {self.reading!r}")
        allowed = readings[self.reading]
        if self.synthesize not in allowed:
            raise ValueError(
                f"module.synthesize is {self.synthesize!r}, but reading {self.reading!r} allows {' or '.join(allowed)}"
            )

    @property
    def looks_at(self) -> Literal["last", "attention", "none"]:
        """What of the prompt is looked at; attention that is left one position has no choice but the last token."""
        return "last" if self.positions == "last" else self.reading

    def resolve(self, width: int, names: tuple[str, ...]) -> ProSGConfig:
        """The same with all that was left open filled in for a model of this width and these projections.

        The bottleneck by width alone: `Synthesizer`, which can count itself, narrows it for large backbones.
        """
        return dataclasses.replace(
            self, bottleneck=self.bottleneck or max(width // 4, 1), target_modules=self.target_modules or names
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ProSGConfig:
        """From JSON; ValueError names unknown keys and what is allowed."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown key {', '.join(unknown)}; known are {', '.join(known)}")
        if "target_modules" in values:  # JSON has lists only
            values = {**values, "target_modules": tuple(values["target_modules"])}
        return cls(**values)

    @classmethod
    def from_preset(cls, preset: str, **changes: Any) -> ProSGConfig:
        """A preset with some options changed."""
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
        return dataclasses.replace(PRESETS[preset], **changes)


PRESETS: dict[str, ProSGConfig] = {
    "paper": ProSGConfig(
        preset="paper",
        reading="last",
        rank=1,
        synthesize="a",
        memory_tap=False,
        blocks=1,
        final_norm=False,
        log_length=False,
    ),
    "plus": ProSGConfig(preset="plus"),
    "static": ProSGConfig(
        preset="static", reading="none", rank=64, synthesize="none", memory_tap=False, state_embedding=False, blocks=0
    ),
}
