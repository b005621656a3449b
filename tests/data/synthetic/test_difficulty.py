"""Difficulty options: rows keep the invariants of their kinds under every option and all combinations."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from prosg.data.checks import check_stages, find_stages
from prosg.data.row import Row, row_from_dict, row_to_dict
from prosg.data.synthetic import KINDS, SPLITS, Difficulty, Filler, make_rows, split_of, words
from prosg.data.synthetic.difficulty import NOTE, among_distractors, share_no_word
from support.texts import has_word, running_text

STAGED = [name for name, grammar in KINDS.items() if grammar.staged]
TURNING = [name for name, grammar in KINDS.items() if grammar.takes_turns]
COUNTED = [name for name, grammar in KINDS.items() if grammar.items]


@pytest.fixture(scope="module")
def filler() -> Filler:
    return Filler("prose", running_text())


def rows_of(kind: str, difficulty: Difficulty, count: int = 15, **options: object) -> list[Row]:
    return make_rows([kind], count, 1, **options, difficulty=difficulty)  # type: ignore[arg-type]


def difficulties(kind: str, filler: Filler) -> list[Difficulty]:
    """Every option that the kind supports alone, and all of them together."""
    items = KINDS[kind].items
    alone = [Difficulty(distractors=(20, 90)), Difficulty(filler=filler)]
    together = Difficulty(distractors=(20, 90), filler=filler)
    if KINDS[kind].takes_turns:
        alone.append(Difficulty(turns=(0, 3)))
        together = replace(together, turns=(0, 3))
    if items:
        alone.append(Difficulty(items=(items.least, items.least + 5)))
        together = replace(together, items=(items.least, items.least + 5))
    return [*alone, together]


@pytest.mark.parametrize("kind", STAGED)
def test_every_difficulty_keeps_what_kinds_promise(kind: str, filler: Filler) -> None:
    for difficulty in difficulties(kind, filler):
        for row in rows_of(kind, difficulty):
            assert row_from_dict(row_to_dict(row)) == row
            assert all(check_stages(row, row.answer))
            last = row.stages[-1]
            early, late = row.answer[: last.start], row.answer[last.start :]
            assert row.distance_words == len(early.split())
            contents = row.extra["contents"]
            needed = [value for value in contents if has_word(late, value)]
            assert needed
            assert all(has_word(row.prompt, value) for value in needed)
            if not KINDS[kind].leaks:
                assert not any(has_word(early, value) for value in (needed if kind == "steps" else contents))
                story = row.answer[: row.stages[1].start] if len(row.stages) > 1 else ""
                turns = [value for values in row.extra.get("turns", ()) for value in values]
                assert not any(has_word(story, w) for value in [*contents, *turns] for w in value.split())


@pytest.mark.parametrize("kind", TURNING)
def test_difficulties_are_functions_of_their_arguments_and_splits_share_no_contents(kind: str, filler: Filler) -> None:
    difficulty = difficulties(kind, filler)[-1]
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        rows = rows_of(kind, difficulty, split=split)
        assert rows_of(kind, difficulty, split=split) == rows
        assert rows_of(kind, difficulty, 5, split=split) == rows[:5]
        longer = rows_of(kind, difficulty, split=split, sentences=(7, 7))
        assert [row.extra for row in longer] == [row.extra for row in rows]
        groups = [contents for row in rows for contents in (row.extra["contents"], *row.extra.get("turns", ()))]
        assert all(split_of(kind, contents) == split for contents in groups)
        seen[split] = {"\0".join(sorted(contents)) for contents in groups}
    assert not seen["train"] & seen["validation"]
    assert not (seen["train"] | seen["validation"]) & seen["test"]


def test_distractors_are_counted_and_stand_on_both_sides() -> None:
    places = set()
    for index in range(60):
        prompt = among_distractors("Keep 12345.", (40, 60), Random(index))
        before, instruction, after = prompt.partition("Keep 12345.")
        assert instruction
        assert 40 <= len(before.split()) + len(after.split()) <= 60
        places.add((bool(before), bool(after)))
    assert places == {(True, True), (True, False), (False, True)}
    assert among_distractors("Keep 12345.", (0, 0), Random(0)) == "Keep 12345."
    assert all(42 <= len(row.prompt.split()) <= 90 for row in rows_of("code", Difficulty(distractors=(40, 60)), 60))


def test_turns_come_between_story_and_question_with_contents_of_their_own() -> None:
    for kind in TURNING:
        for row in rows_of(kind, Difficulty(turns=(1, 3)), 10):
            turns = row.extra["turns"]
            assert 1 <= len(turns) <= 3
            assert row.prompt.endswith(NOTE)
            given = [stage.given for stage in row.stages]
            assert given == [False, *[True, False] * len(turns), False]
            assert all(share_no_word(tuple(row.extra["contents"]), contents) for contents in turns)
            assert row.stages[-1].marker.startswith("\nFirst ")
            pieces = find_stages(row, row.answer)
            for question, answer, contents in zip(pieces[1:-1:2], pieces[2:-1:2], turns, strict=True):
                assert question is not None and answer is not None
                assert any(has_word(question, value) and has_word(answer, value) for value in contents)


def test_turns_count_in_a_distance() -> None:
    rows = rows_of("code", Difficulty(turns=(2, 2)), 10, distance=(60, 70))
    assert all(60 <= row.distance_words <= 70 for row in rows)
    with pytest.raises(ValueError, match="distance .* 'code'"):
        rows_of("code", Difficulty(turns=(4, 4)), 1, distance=(2, 9))


def test_without_a_story_the_turns_come_first() -> None:
    for row in rows_of("names", Difficulty(turns=(1, 1)), 10, sentences=(0, 0)):
        assert row.stages[0].given
        assert all(check_stages(row, row.answer))


@pytest.mark.parametrize("kind", COUNTED)
def test_items_are_as_many_as_asked_for_and_cannot_be_guessed(kind: str) -> None:
    items = KINDS[kind].items
    assert items is not None
    for count in (items.least, items.most):
        rows = rows_of(kind, Difficulty(items=(count, count)), 150, sentences=(1, 1))
        sizes = {len(row.extra["contents"][0] if kind == "code" else row.extra["contents"]) for row in rows}
        assert sizes == {count * (2 if kind == "pairs" else 1)}
        assert len({row.answer[row.stages[-1].start :] for row in rows}) >= 100
        assert all(check_stages(row, row.answer)[-1] for row in rows)


def test_the_prompt_says_how_many_names() -> None:
    for row in rows_of("names", Difficulty(items=(2, 16)), 60):
        count = words.COUNTS[len(row.extra["contents"]) - 1]
        numbers = {word for word in words.COUNTS[1:] if has_word(row.prompt, f"{word} names")}
        assert numbers <= {count}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"items": (8, 4)}, "code", ["items", "8 to 4", "0 or more"]),
        ({"turns": (-1, 4)}, "code", ["turns", "-1 to 4", "0 or more"]),
        ({"distractors": (9, 4)}, "code", ["distractors", "9 to 4"]),
        ({"distractors": (1, 4)}, "code", ["distractors", "1 to 4 words", "allow"]),
        ({"items": (2, 4)}, "code", ["items", "2 to 4", "'code'", "4 to 64 digits"]),
        ({"items": (4, 17)}, "names", ["items", "4 to 17", "'names'", "2 to 16 names"]),
        ({"items": (4, 4)}, "ending", ["items", "'ending'", "allowed: names, code, pairs"]),
        ({"turns": (1, 1)}, "rule", ["turns", "'rule'", "allowed: ending, names"]),
        ({"distractors": (20, 30)}, "story", ["distractors", "'story'", "allowed: ending"]),
        ({"turns": (1, 1), "items": (16, 16)}, "pairs", ["turns", "'pairs'", "fewer items"]),
    ],
)
def test_what_cannot_be_made_is_an_error(options: dict[str, tuple[int, int]], kind: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as error:
        make_rows([kind], 1, difficulty=Difficulty(**options))
    assert all(word in str(error.value) for word in words)
