"""Grammars of the demo's three kinds, and of the plain story that a base model is pre-trained on."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from prosg.data.checks import Check
from prosg.data.synthetic.grammar import (
    AnswerPart,
    Contents,
    Grammar,
    ItemCount,
    RowDraft,
    listing,
    story_part,
    story_phrase,
)
from prosg.data.synthetic.story import Story, sentence
from prosg.data.synthetic.words import COUNTS, NAMES, OBJECTS, PLACES

__all__ = ["CODE", "ENDING", "NAMES_IN_ORDER", "NAME_COUNT", "STORY", "draw_names", "exact", "story_then_late"]

ENDING_PROMPTS = (
    "Tell {story}. End it in the {place} with the {a} and the {b}.",
    "Write {story} that ends in the {place} with the {a} and the {b}.",
    "Please tell me {story}. At the end, the {a} and the {b} are in the {place}.",
    "The {a} and the {b} are in the {place}. Tell {story} and end it there with both.",
    "I want {story}. It must end in the {place}, with the {a} and the {b}.",
)
ENDING_ALONE = (
    "Write only the end of a story, in the {place} with the {a} and the {b}.",
    "The {a} and the {b} are in the {place}. Tell only the end.",
)
NAMES_PROMPTS = (
    "Here are {count} names: {names}. Tell {story}, then name them all.",
    "Keep these names in mind: {names}. Write {story} and then list the names.",
    "My friends are {names}. First tell {story}, then say their names.",
    "Remember {names}. Now write {story}. After that, list the {count} names.",
    "Please tell {story} and then give me these names: {names}.",
    "{names} are waiting. Tell {story}, then say who is waiting.",
)
NAMES_ALONE = (
    "Here are {count} names: {names}. Name them all.",
    "Keep these names in mind: {names}. Now list the names.",
    "My friends are {names}. Say their names.",
)
CODE_PROMPTS = (
    "The code is {code}. Tell {story}, then give the code.",
    "Remember the code {code}. Write {story} and then repeat the code.",
    "Please keep the code {code} in mind. First tell {story}, then say the code.",
    "Here is a code: {code}. Now write {story}. After that, give me the code.",
    "Tell {story} and at the end repeat the code {code}.",
)
CODE_ALONE = (
    "The code is {code}. Give the code.",
    "Remember the code {code}. Now repeat the code.",
    "Here is a code: {code}. Say the code.",
)
STORY_PROMPTS = ("Tell {story}.", "Write {story}.", "Please tell me {story}.", "I want {story}.")


def story_then_late(
    rng: Random, prompts: Sequence[str], alone: Sequence[str], story: Story | None, late: AnswerPart, **slots: str
) -> RowDraft:
    """Draft of most kinds: a story, then the late part; without a story, the late part alone.

    Args:
        rng: Source of the draws.
        prompts: Patterns of prompts with a {story}, of which one is drawn.
        alone: Patterns of prompts without a story.
        story: The story; None for the single-stage form.
        late: The late part.
        slots: Values of the patterns' other fields.
    """
    if story is None:
        return RowDraft(rng.choice(alone).format(**slots), [late])
    phrase, check = story_phrase(story, rng)
    return RowDraft(rng.choice(prompts).format(story=phrase, **slots), [story_part(story, check), late])


def exact(label: str, body: str) -> Check:
    """Check for exactly this line."""
    return {"type": "exact", "text": f"{label} {body}"}


def draw_ending(rng: Random) -> Contents:
    return (rng.choice(PLACES), *rng.sample(OBJECTS, 2))


def build_ending(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    place, a, b = contents
    body = f"In the {place} lay the {a} and the {b}."
    late = AnswerPart("end the story in the place with both objects", "End:", body, exact("End:", body))
    return story_then_late(rng, ENDING_PROMPTS, ENDING_ALONE, story, late, place=place, a=a, b=b)


def names_of(rng: Random, count: int) -> Contents:
    return tuple(rng.sample(NAMES, count))


def draw_names(rng: Random) -> Contents:
    """Draws four names."""
    return names_of(rng, 4)


def build_names(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    check = {"type": "ordered_items", "items": list(contents), "after": "Names:"}
    count = COUNTS[len(contents) - 1]
    late = AnswerPart(f"name the {count} names", "Names:", f"{listing(contents)}.", check)
    return story_then_late(rng, NAMES_PROMPTS, NAMES_ALONE, story, late, names=listing(contents), count=count)


def code_of(rng: Random, count: int) -> Contents:
    return ("".join(rng.choices("0123456789", k=count)),)


def draw_code(rng: Random) -> Contents:
    return code_of(rng, rng.randint(6, 8))


def build_code(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    late = AnswerPart("give the code", "Code:", contents[0], exact("Code:", contents[0]))
    return story_then_late(rng, CODE_PROMPTS, CODE_ALONE, story, late, code=contents[0])


def draw_story(rng: Random) -> Contents:
    return (sentence(rng),)


def build_story(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    # The drawn sentence replaces the story's first one, so that the stories of each split begin differently.
    text = contents[0] if story is None else " ".join([contents[0], *story.text.split(". ", 1)[1:]])
    whole = Story(text, story.sentences if story else 1, len(text.split()))
    phrase, check = story_phrase(whole, rng)
    return RowDraft(rng.choice(STORY_PROMPTS).format(story=phrase), [story_part(whole, check)])


# Even with the fewest items there are hundreds of late answers, so none can be guessed.
NAME_COUNT = ItemCount("names", 2, len(COUNTS), names_of)

ENDING = Grammar("ending", draw_ending, build_ending)
NAMES_IN_ORDER = Grammar("names", draw_names, build_names, items=NAME_COUNT)
CODE = Grammar("code", draw_code, build_code, items=ItemCount("digits", 4, 64, code_of))
STORY = Grammar("story", draw_story, build_story, staged=False)
