"""What the columns of a forgetting curve's table are, in the words of its help and of the lines under it."""

from __future__ import annotations

__all__ = ["COLUMNS", "HOW_TO_READ"]

COLUMNS = {
    "memory": "what holds the prompt: none, anchor, update, both or auto",
    "whose": "own: made of the prompt itself; other: of another prompt of its kind; mean: of many prompts; none",
    "state": "kept: as the prompt left it; wiped: empty, so that the memory alone knows the prompt",
    "written": "tokens before the last thing that was asked for; free length: the model ends its story itself; "
    "rows' answers: these are scored, none is written",
    "late": "share of the prompts whose last request is met exactly, and its 95 % interval",
    "all stages": "share of the prompts of which every request is met",
    "perplexity": "of the rows' own answers",
    "sentences": "of the story; prompt_tokens, turns and items where they were asked for",
}
"""By the column's name, from the left."""
HOW_TO_READ = "A memory holds its prompt where late is high for own, and low for other and mean."
