"""All kinds of instruction, by name."""

from __future__ import annotations

from prosg.data.kinds.base import Kind
from prosg.data.kinds.demo import CODE, ENDING, NAMES_KIND, STORY

__all__ = ["DEMO_KINDS", "KINDS"]

KINDS: dict[str, Kind] = {kind.name: kind for kind in (ENDING, NAMES_KIND, CODE, STORY)}
DEMO_KINDS = ("ending", "names", "code")
