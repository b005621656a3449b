"""Generated rows: the invariants of every kind, splits, lengths and reproducibility."""

from __future__ import annotations

import re
from collections import Counter
from random import Random
from typing import Any

import pytest

from prosg.data.checks import check_stages
from prosg.data.row import Row, row_from_dict, row_to_dict
from prosg.data.synthetic import DEMO_KINDS, KINDS, SPLITS, Difficulty, demo_grammars, iter_rows, make_row, make_rows
from prosg.data.synthetic.story import sentence, story_of_words
from prosg.data.synthetic.words import OBJECTS
from support.texts import has_word

STAGED = [name for name, grammar in KINDS.items() if grammar.staged]


def sample(kind: str, count: int = 150, sentences: tuple[int, int] = (1, 5)) -> list[Row]:
    rng = Random(f"sample {kind}")
    return [make_row(kind, rng, sentences) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sentences", [(1, 5), (0, 0), (20, 20)])
def test_rows_are_valid_and_pass_their_own_checks(kind: str, sentences: tuple[int, int]) -> None:
    for row in sample(kind, 30, sentences):
        assert row_from_dict(row_to_dict(row)) == row
        assert all(check_stages(row, row.answer))
        assert bool(row.stages) == KINDS[kind].staged
        assert row.leaks == KINDS[kind].leaks
        if row.stages:
            assert row.distance_words == len(row.answer[: row.stages[-1].start].split())


@pytest.mark.parametrize("kind", STAGED)
def test_what_the_late_stage_needs_is_in_the_prompt_and_not_before_that_stage(kind: str) -> None:
    leaked = False
    for row in sample(kind):
        early, late = row.answer[: row.stages[-1].start], row.answer[row.stages[-1].start :]
        needed = [value for value in row.extra["contents"] if has_word(late, value)]
        assert needed
        assert all(has_word(row.prompt, value) for value in needed)
        leaked |= any(has_word(early, value) for value in needed)
    assert leaked == KINDS[kind].leaks


@pytest.mark.parametrize("kind", STAGED)
def test_a_late_answer_cannot_be_guessed(kind: str) -> None:
    rows = sample(kind, 600)
    late = Counter(row.answer[row.stages[-1].start :] for row in rows)
    contents = {row.extra["contents"][0] + row.extra["contents"][-1] for row in rows}
    assert len(late) >= 200
    assert len(contents) >= 100
    assert max(late.values()) <= 8


def test_the_demo_has_the_wanted_size() -> None:
    templates = (*demo_grammars.ENDING_PROMPTS, *demo_grammars.NAMES_PROMPTS, *demo_grammars.CODE_PROMPTS)
    assert len(set(templates)) == 16
    vocabulary = {
        word.lower() for row in make_rows(size=600) for word in re.findall(r"[A-Za-z]+", row.prompt + " " + row.answer)
    }
    assert 300 <= len(vocabulary) <= 600
    lengths = [len(sentence(Random(index)).split()) for index in range(500)]
    assert min(lengths) == 7
    assert max(lengths) == 9


@pytest.mark.parametrize("kind", DEMO_KINDS)
def test_without_a_story_the_recall_is_asked_for_at_once(kind: str) -> None:
    for row in sample(kind, 50, (0, 0)):
        assert (row.distance_words, len(row.stages), "\n" in row.answer) == (0, 1, False)
        assert "story of" not in row.prompt


def test_a_story_has_the_wanted_number_of_sentences() -> None:
    for row in sample("story", 50, (3, 3)):
        assert row.answer.count(".") == 3
    assert sample("story", 1, (0, 0))[0].answer.count(".") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_splits_share_no_contents_whatever_the_seed(kind: str) -> None:
    seen = {
        split: {frozenset(row.extra["contents"]) for seed in (0, 1) for row in iter_rows([kind], 40, seed, split)}
        for split in SPLITS
    }
    assert not seen["train"] & seen["validation"]
    assert not (seen["train"] | seen["validation"]) & seen["test"]


def test_rows_are_a_function_of_their_arguments_and_ids_are_unique() -> None:
    size = 16 * len(KINDS)
    rows = make_rows(tuple(KINDS), size, 3)
    assert make_rows(tuple(KINDS), size, 3) == rows
    assert make_rows(tuple(KINDS), 50, 3) == rows[:50]
    others = [*make_rows(tuple(KINDS), size, 4), *make_rows(tuple(KINDS), size, 3, "test")]
    longer = make_rows(tuple(KINDS), size, 3, sentences=(9, 9))
    assert len({row.id for row in [*rows, *others, *longer]}) == 4 * size
    assert [row.extra for row in longer] == [row.extra for row in rows]
    assert Counter(row.kind for row in rows) == dict.fromkeys(KINDS, 16)


def test_generated_data_stays_the_same_between_versions() -> None:
    # Results refer to these rows: a change of the grammar has to be meant.
    assert [row.id for row in make_rows(size=3, split="validation")] == [
        "ending-validation-0-00000-b9bef6",
        "names-validation-0-00001-d192c2",
        "code-validation-0-00002-947f10",
    ]


@pytest.mark.parametrize("kind", STAGED)
def test_a_distance_in_words_is_kept(kind: str) -> None:
    rows = make_rows([kind], 30, distance=(40, 55))
    assert all(40 <= row.distance_words <= 55 for row in rows)
    assert len({row.distance_words for row in rows}) > 5


def test_long_and_exact_distances() -> None:
    assert {row.distance_words for row in make_rows(size=6, distance=(2000, 2000))} == {2000}
    assert {row.distance_words for row in make_rows(size=6, distance=(0, 0))} == {0}
    assert story_of_words(Random(0), 8, 8).sentences == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["poem"]}, "'poem'; allowed: ending, names"),
        ({"kinds": []}, "kinds .* at least one"),
        ({"kinds": ["code", "code"]}, "kinds .* each once"),
        ({"split": "dev"}, "split 'dev'; allowed: train, validation, test"),
        ({"size": 0}, "size .* at least 1"),
        ({"sentences": (3, 2)}, "sentences is 3 to 2"),
        ({"distance": (-1, 2)}, "distance is -1 to 2"),
        ({"distance": (10, 12)}, "10 to 12 words; allow"),
        ({"kinds": ["rule"], "distance": (0, 3)}, "distance .* 'rule' has 6 words .* allowed"),
        ({"kinds": ["story"], "distance": (10, 20)}, "'story' .* distance"),
    ],
)
def test_what_cannot_be_made_is_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rows(**arguments)


@pytest.mark.parametrize("items", [(2, 2), (16, 16)])
def test_a_list_is_used_in_one_sentence_that_names_nothing_else(items: tuple[int, int]) -> None:
    for row in iter_rows(["list_use"], 40, 0, "test", sentences=(0, 3), difficulty=Difficulty(items=items)):
        listed = row.stages[0].check["items"]
        before = row.answer[: row.stages[-1].start] + row.stages[-1].marker + " "
        all_of_them = ", ".join(listed)
        for right in (f"Anna took the {all_of_them}.", f"Who took {all_of_them}, all at once? "):
            assert check_stages(row, before + right)[-1]
        other = next(thing for thing in OBJECTS if thing not in listed)
        wrong = [f"Anna took the {all_of_them} and {other}.", f"Anna took them. {all_of_them}.", " ".join(listed)]
        for text in (
            *wrong,
            f"Anna took the {', '.join(listed[1:])}.",
            f"{all_of_them}. " * 5,
            f"xq7 {all_of_them} " * 3,
        ):
            assert not check_stages(row, before + text)[-1], text
