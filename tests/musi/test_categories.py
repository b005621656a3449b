"""Categories of the package and of a user's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prosg.musi.categories import chosen_categories, domain_words, package_categories, topics
from prosg.musi.config import PromptsConfig
from prosg.musi.text import language


def test_the_packages_categories_have_fitting_examples() -> None:
    categories = package_categories()
    assert {"two-stage", "n-stage", "list-then-use", "constraint-at-the-end", "recite"} <= categories.keys()
    assert {name.removesuffix("-zh") for name in categories} == {
        name for name in categories if not name.endswith("-zh")
    }
    for category in categories.values():
        assert len(category.examples) >= 2 and len(topics(category.language)) >= 40
        for example in category.examples:
            assert category.stages[0] <= len(example.sub_instructions) <= category.stages[1]
            assert language(example.prompt) == category.language


GOOD = {"category": "recite", "prompt": "Say a, then b.", "sub_instructions": ["say a", "say b"]}


def test_examples_and_categories_of_a_user(tmp_path: Path) -> None:
    examples, file = tmp_path / "examples.jsonl", tmp_path / "mine.yaml"
    examples.write_text(json.dumps(GOOD | {"category": "mine"}) + "\n")
    mine = {"name": "mine", "language": "en", "stages": [2, 3], "description": "Mine.", "examples": [dict(GOOD)]}
    del mine["examples"][0]["category"]
    file.write_text(json.dumps([mine]))
    (category,) = chosen_categories(PromptsConfig(category_files=[str(file)], examples=str(examples)))
    assert category.name == "mine" and len(category.examples) == 2
    names = [category.name for category in chosen_categories(PromptsConfig(categories=["recite", "two-stage"]))]
    assert names == ["recite", "two-stage"]
    for names, words in ((["recite", "recite"], "twice"), (["poetry"], "poetry; known are two-stage")):
        with pytest.raises(ValueError, match=f"prompts.categories.*{words}"):
            chosen_categories(PromptsConfig(categories=names))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"category": "recite"', "not JSON"),
        (json.dumps(GOOD | {"category": "x"}), "known are two-stage"),
        (json.dumps(GOOD | {"category": ["recite"]}), "known are two-stage"),
        (json.dumps(GOOD | {"sub_instructions": "say a"}), "sub_instructions"),
        (json.dumps(GOOD | {"checks": [{"stage": 3, "type": "words"}]}), "allowed: 1 to 2"),
        (json.dumps(GOOD | {"checks": [{"stage": 2, "type": "magic"}]}), "magic"),
    ],
)
def test_bad_examples_name_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=rf"examples\.jsonl:2.*{words}"):
        chosen_categories(PromptsConfig(examples=str(file)))


@pytest.mark.parametrize(
    ("content", "words"), [("- {name: x}\n", "category 1"), ("[\n", "not YAML"), ("{}\n", "list of categories")]
)
def test_bad_categories_name_the_file(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"mine\.yaml.*{words}"):
        chosen_categories(PromptsConfig(category_files=[str(file)]))


def test_words_of_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\ufeffestoppel\r\n\r\nlien\r\n", newline="")
    assert domain_words("en", str(tmp_path / "words.txt")) == [*domain_words("en"), "estoppel", "lien"]
