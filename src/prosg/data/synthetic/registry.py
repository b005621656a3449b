"""All kinds of instruction, by name."""

from __future__ import annotations

from prosg.data.synthetic.base import Kind
from prosg.data.synthetic.demo import CODE, ENDING, NAMES_KIND, STORY
from prosg.data.synthetic.more import LIST_USE, PAIRS, REVERSE, RULE, SENTENCE, STEPS

__all__ = ["DEMO_KINDS", "KINDS"]

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (ENDING, NAMES_KIND, CODE, PAIRS, RULE, SENTENCE, STEPS, LIST_USE, REVERSE, STORY)
}
DEMO_KINDS = ("ending", "names", "code")
