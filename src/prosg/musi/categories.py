"""Categories of instructions, with examples and topics: the package's own and those of a user's files."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prosg.musi.config import PromptsConfig
from prosg.musi.draft import Draft, draft_from_dict
from prosg.musi.packaged import packaged_text, packaged_yaml
from prosg.musi.text import LANGUAGES
from prosg.utils.io import iter_jsonl
from prosg.utils.outside import read_text
from prosg.utils.yaml_text import parse_yaml

__all__ = ["Category", "chosen_categories", "domain_words", "package_categories", "topics"]

FIELDS = ("name", "language", "stages", "description", "examples")


@dataclass(frozen=True)
class Category:
    """A kind of instruction, as a request describes it.

    Attributes:
        name: The name, which becomes the rows' `kind`.
        language: "en" or "zh".
        stages: Least and greatest number of sub-instructions.
        description: One or two sentences.
        examples: Instructions of the kind; a request shows some of them.
    """

    name: str
    language: str
    stages: tuple[int, int]
    description: str
    examples: tuple[Draft, ...]


def _yaml(text: str, name: str) -> Any:
    return parse_yaml(text, name)


def _category(data: object) -> Category:
    if not isinstance(data, Mapping):
        raise ValueError(f"a category is an object, not {type(data).__name__}")
    if wrong := sorted(set(data) ^ set(FIELDS)):
        raise ValueError(f"a category has exactly the fields {', '.join(FIELDS)}; not so: {', '.join(map(str, wrong))}")
    name, stages = data["name"], data["stages"]
    if not (isinstance(name, str) and name and isinstance(data["description"], str)):
        raise ValueError("name and description are text")
    if data["language"] not in LANGUAGES:
        raise ValueError(f"{name}: language is {data['language']!r}; allowed: {', '.join(LANGUAGES)}")
    numbers = isinstance(stages, list) and len(stages) == 2 and all(type(number) is int for number in stages)
    if not numbers or not 2 <= stages[0] <= stages[1]:
        raise ValueError(f"{name}: stages is {stages!r}; it is the least and the greatest number, from 2 on")
    if not isinstance(data["examples"], list) or not data["examples"]:
        raise ValueError(f"{name}: examples is a list of at least one")
    examples = []
    for number, example in enumerate(data["examples"], 1):
        try:
            examples.append(draft_from_dict(example))
        except ValueError as error:
            raise ValueError(f"{name}: example {number}: {error}") from None
    return Category(name, data["language"], (stages[0], stages[1]), data["description"], tuple(examples))


def _categories(text: str, name: str) -> list[Category]:
    content = _yaml(text, name)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{name}: holds no list of categories")
    categories = []
    for number, data in enumerate(content, 1):
        try:
            categories.append(_category(data))
        except ValueError as error:
            raise ValueError(f"{name}: category {number}: {error}") from None
    return categories


@functools.cache
def package_categories() -> Mapping[str, Category]:
    """Returns the categories that come with the package, by name."""
    return {category.name: category for category in _categories(packaged_text("categories.yaml"), "categories.yaml")}


def topics(language: str) -> Sequence[str]:
    """Returns everyday subjects for requests in a language."""
    subjects: list[str] = packaged_yaml("topics.yaml")["topics"][language]
    return subjects


def domain_words(language: str, file: str = "") -> list[str]:
    """Returns words that only experts use, with those of a user's file, if any, of one word per line."""
    return [*packaged_yaml("topics.yaml")["domain_words"].get(language, ()), *(_lines(file) if file else ())]


def _lines(file: str) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def chosen_categories(config: PromptsConfig) -> list[Category]:
    """Returns the categories that a build requests, with the examples of its files added.

    Raises:
        ValueError: for names that do not exist or come twice, and for files that cannot be used.
    """
    known = dict(package_categories())
    from_files: list[str] = []
    for file in config.category_files:
        for category in _categories(read_text(file), file):
            if category.name in known:
                raise ValueError(f"{file}: there is a category {category.name!r} already; give this one another name")
            known[category.name] = category
            from_files.append(category.name)
    if config.examples:
        _add_examples(config.examples, known)
    names = config.categories or from_files or [name for name, category in known.items() if category.language == "en"]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"prompts.categories has {', '.join(unknown)}; known are {', '.join(known)}")
    if len(set(names)) < len(names):
        raise ValueError("prompts.categories names a category twice")
    return [known[name] for name in names]


def _add_examples(file: str, known: dict[str, Category]) -> None:
    empty = True
    for number, data in iter_jsonl(file):
        empty = False
        try:
            if not isinstance(data, Mapping) or data.get("category") not in [*known]:
                raise ValueError(f"an example names its category; known are {', '.join(known)}")
            draft = draft_from_dict({key: value for key, value in data.items() if key != "category"})
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}") from None
        category = known[data["category"]]
        known[category.name] = replace(category, examples=(*category.examples, draft))
    if empty:
        raise ValueError(f"{file}: holds no examples")
