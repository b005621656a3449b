"""Grammars of the kinds beyond the demo: pairs, rule, sentence, steps, list_use, reverse, choose."""

from __future__ import annotations

from random import Random

from prosg.data.checks import Check
from prosg.data.synthetic.demo_grammars import NAME_COUNT, draw_code, draw_names, exact, story_then_late
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
from prosg.data.synthetic.words import COLORS, COUNTS, NAMES, OBJECTS, PLACES

__all__ = ["CHOOSE", "LIST_USE", "PAIRS", "REVERSE", "RULE", "SENTENCE", "STEPS"]

PAIRS_PROMPTS = (
    "{facts}. Tell {story}, then say what {who} has.",
    "Remember this: {facts}. Write {story}. After that, say what {who} has.",
    "Tell {story} and then answer: what does {who} have? {facts}.",
)
PAIRS_ALONE = ("{facts}. What does {who} have?", "Remember this: {facts}. Say what {who} has.")
SENTENCE_PROMPTS = (
    "Tell {story} and end it with this sentence: {last}",
    "Write {story}. Its last sentence must be: {last}",
    "The last sentence is: {last} Tell {story} that ends with it.",
)
SENTENCE_ALONE = ("Repeat this sentence: {last}", "Say only this: {last}")
REVERSE_PROMPTS = (
    "Here are {count} names: {names}. Tell {story}, then say them in reverse order.",
    "Remember {names}. Write {story} and list the names from last to first.",
)
REVERSE_ALONE = (
    "Say these names in reverse order: {names}.",
    "Here are {count} names: {names}. List them from last to first.",
)
STEPS_PROMPTS = (
    "Do {count} steps in order. Step one: tell {story}. {steps}",
    "Follow these {count} steps. Step one: write {story}. {steps}",
)
STEPS_ALONE = ("Do only these steps. {steps}", "Follow these steps. {steps}")
RULE_PROMPTS = (
    "End every part of your answer with this sentence: {rule} Tell {story}, then add a note.",
    "Write {story} and then a note. Both must end with: {rule}",
)
RULE_ALONE = ("Write a note that ends with: {rule}", "Add a note. It must end with this sentence: {rule}")
LIST_PROMPTS = (
    "List {items}. Then tell {story}. At last use the whole list in one sentence.",
    "First list {items}, then write {story}, then say in one sentence who took them all.",
)
LIST_ALONE = (
    "List {items}. Then use the whole list in one sentence.",
    "First list {items}, then say who took them all.",
)
CHOOSE_PROMPTS = (
    "The code is {code}. First choose a name and say it. Then tell {story}, and at last give the code and your name.",
    "Remember the code {code}. Say a name that you like, write {story}, then repeat the code and the name.",
)
CHOOSE_ALONE = (
    "The code is {code}. Choose a name and say it. Then give the code and your name.",
    "Remember the code {code}. Say a name that you like, then repeat the code and the name.",
)
ORDER = ("one", "two", "three", "four", "five")


def pairs_of(rng: Random, count: int) -> Contents:
    # The late stage asks for the first name; the prompt gives the pairs in another order.
    names, things = rng.sample(NAMES, count), rng.sample(OBJECTS, count)
    return tuple(
        text for name, thing in zip(names, things, strict=True) for text in (name, f"{rng.choice(COLORS)} {thing}")
    )


def draw_pairs(rng: Random) -> Contents:
    return pairs_of(rng, rng.randint(2, 4))


def build_pairs(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    pairs = list(zip(contents[::2], contents[1::2], strict=True))
    who, thing = pairs[0]
    rng.shuffle(pairs)
    facts = listing([f"{name} has the {item}" for name, item in pairs])
    body = f"The {thing}."
    late = AnswerPart(f"say what {who} has", "Answer:", body, exact("Answer:", body))
    return story_then_late(rng, PAIRS_PROMPTS, PAIRS_ALONE, story, late, facts=facts, who=who)


def draw_sentence(rng: Random) -> Contents:
    return rng.choice(NAMES), f"{rng.choice(COLORS)} {rng.choice(OBJECTS)}", rng.choice(PLACES)


def build_sentence(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    name, thing, place = contents
    last = f"{name} left the {thing} in the {place}."
    late = AnswerPart("end with the given sentence", "Last:", last, exact("Last:", last))
    return story_then_late(rng, SENTENCE_PROMPTS, SENTENCE_ALONE, story, late, last=last)


def build_reverse(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    backwards = list(contents[::-1])
    check: Check = {"type": "ordered_items", "items": backwards, "after": "Reverse:"}
    late = AnswerPart("say the names in reverse order", "Reverse:", f"{listing(backwards)}.", check)
    count = COUNTS[len(contents) - 1]
    return story_then_late(rng, REVERSE_PROMPTS, REVERSE_ALONE, story, late, names=listing(contents), count=count)


def draw_steps(rng: Random) -> Contents:
    things = rng.sample(OBJECTS, rng.randint(1, 4))
    return tuple(f"{rng.choice(COLORS)} {thing}" for thing in things)


def build_steps(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    # The story is step one. Without it the other steps keep their numbers, so that labels agree in both forms.
    parts = []
    instructions = []
    for number, thing in zip(ORDER[1:], contents, strict=False):
        body = f"The {thing}."
        parts.append(AnswerPart(f"name the {thing}", f"Step {number}:", body, exact(f"Step {number}:", body)))
        instructions.append(f"Step {number}: name the {thing}.")
    steps = " ".join(instructions)
    if story is None:
        return RowDraft(rng.choice(STEPS_ALONE).format(steps=steps), parts)
    phrase, check = story_phrase(story, rng)
    prompt = rng.choice(STEPS_PROMPTS).format(story=phrase, steps=steps, count=ORDER[len(contents)])
    return RowDraft(prompt, [story_part(story, check), *parts])


def spare_steps(contents: Contents) -> int:
    return 5 * (len(contents) - 1)  # "Step two: The red lamp."


def draw_two(rng: Random) -> Contents:
    return tuple(rng.sample(OBJECTS, 2))


def rule_sentence(contents: Contents) -> str:
    return f"Keep the {contents[0]} and the {contents[1]}."


def build_rule(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    rule = rule_sentence(contents)
    check: Check = {"type": "ends_with", "text": rule}
    note = AnswerPart("add a note that keeps the rule", "Note:", f"{sentence(rng)} {rule}", check)
    if story is None:
        return RowDraft(rng.choice(RULE_ALONE).format(rule=rule), [note])
    # The rule's sentence would count too, so the prompt states no number of sentences.
    phrase, counts = story_phrase(story, rng, counted=False)
    ruled_story = AnswerPart(
        "tell a story that keeps the rule", "", f"{story.text} {rule}", {"type": "all_of", "checks": [counts, check]}
    )
    return RowDraft(rng.choice(RULE_PROMPTS).format(story=phrase, rule=rule), [ruled_story, note])


def spare_rule(contents: Contents) -> int:
    return len(rule_sentence(contents).split())


def list_of(rng: Random, count: int) -> Contents:
    return tuple(rng.sample(OBJECTS, count))


def draw_list(rng: Random) -> Contents:
    return list_of(rng, 3)


def build_list(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    items = list(contents)
    first = AnswerPart(
        "list them", "List:", f"{listing(items)}.", {"type": "ordered_items", "items": items, "after": "List:"}
    )
    body = f"{rng.choice(NAMES)} took the {listing(items)}."
    others = [thing for thing in OBJECTS if thing not in items]
    only = {"type": "only", "items": items, "others": others}
    last = AnswerPart(
        "use the whole list",
        "Use:",
        body,
        {"type": "all_of", "checks": [only, {"type": "sentences", "min": 1, "max": 1}]},
    )
    if story is None:
        return RowDraft(rng.choice(LIST_ALONE).format(items=listing(items)), [first, last])
    phrase, check = story_phrase(story, rng)
    labelled_story = AnswerPart("tell a story", "Story:", story.text, check)
    return RowDraft(rng.choice(LIST_PROMPTS).format(items=listing(items), story=phrase), [first, labelled_story, last])


def build_choose(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    code, name = contents[0], rng.choice(NAMES)
    # The late stage needs the prompt's code, and the name that the answer itself begins with.
    check: Check = {"type": "repeats", "items": [code], "stage": 0, "after": "Choice:"}
    late = AnswerPart("give the code and the name", "Both:", f"{code}, {name}.", check)
    if story is None:
        chosen = AnswerPart("choose a name", "Choice:", f"{name}.", {"type": "sentences", "min": 1})
        return RowDraft(rng.choice(CHOOSE_ALONE).format(code=code), [chosen, late])
    # The name is a sentence, too, so the prompt states no number of sentences.
    phrase, counts = story_phrase(story, rng, counted=False)
    first = AnswerPart("choose a name and tell a story", "Choice:", f"{name}. {story.text}", counts)
    return RowDraft(rng.choice(CHOOSE_PROMPTS).format(code=code, story=phrase), [first, late])


def spare_choose(contents: Contents) -> int:
    return 2  # "Choice: Anna."


def spare_list(contents: Contents) -> int:
    return 1 + len(contents) + 1 + 1  # "List: lamp, rope and cup." and "Story:"


PAIRS = Grammar("pairs", draw_pairs, build_pairs, items=ItemCount("pairs", 1, 16, pairs_of))
SENTENCE = Grammar("sentence", draw_sentence, build_sentence)
REVERSE = Grammar("reverse", draw_names, build_reverse, items=NAME_COUNT)
STEPS = Grammar("steps", draw_steps, build_steps, spare=spare_steps, one_late=False)
LIST_COUNT = ItemCount("objects", 2, 16, list_of)
# These two restate in every part what the last one needs.
RULE = Grammar("rule", draw_two, build_rule, leaks=True, spare=spare_rule)
CHOOSE = Grammar("choose", draw_code, build_choose, spare=spare_choose, one_late=False)
LIST_USE = Grammar("list_use", draw_list, build_list, leaks=True, spare=spare_list, items=LIST_COUNT)
