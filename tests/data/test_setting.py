"""Harder instructions: the invariants of the kinds hold under every setting and their combinations."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from prosg.cli import main
from prosg.data.checks import find_stages, score
from prosg.data.collate import collate
from prosg.data.commands import make
from prosg.data.encode import encode_row
from prosg.data.row import Row, read_rows, row_from_dict, row_to_dict
from prosg.data.synthetic import KINDS, PLAIN, SPLITS, Filler, Setting, make_rows, split_of, words
from prosg.data.synthetic.setting import NOTE, among_distractors, are_apart
from prosg.data.synthetic.story import made_here

STAGED = [name for name, kind in KINDS.items() if kind.staged]
TURNING = [name for name, kind in KINDS.items() if kind.takes_turns]
COUNTED = [name for name, kind in KINDS.items() if kind.items]
CONTENTS = [*words.NAMES, *words.OBJECTS, *words.PLACES, *words.COLORS]


def running_text(paragraphs: int = 120) -> str:
    """Prose as files have it: wrapped lines, headings, words of contents, ends inside sentences."""
    rng = Random(5)
    lines = ["= A heading ="]
    for number in range(paragraphs):
        some = [f"Paragraph {number + 1} is told by {rng.choice(CONTENTS)} , as it was ."]
        some += [f"The {number} sheep and {rng.choice(('9', 'many'))} others saw {k} clouds." for k in range(4)]
        some += ["Dr. Smith paid 3.5 pounds.", "The <unk> went there and back.", "Too short.", "it began small here."]
        lines += ["\n".join(some), ""]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def filler() -> Filler:
    return Filler("prose", running_text())


def rows_of(kind: str, setting: Setting, count: int = 15, **options: object) -> list[Row]:
    return make_rows([kind], count, 1, **options, setting=setting)  # type: ignore[arg-type]


def settings(kind: str, filler: Filler) -> list[Setting]:
    """Each alone, and all that the kind can have together."""
    items = KINDS[kind].items
    alone = [Setting(distractors=(20, 90)), Setting(filler=filler)]
    together = Setting(distractors=(20, 90), filler=filler)
    if KINDS[kind].takes_turns:
        alone.append(Setting(turns=(0, 3)))
        together = replace(together, turns=(0, 3))
    if items:
        alone.append(Setting(items=(items.least, items.least + 5)))
        together = replace(together, items=(items.least, items.least + 5))
    return [*alone, together]


def found(needle: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(needle)}\b", text, re.IGNORECASE) is not None


@pytest.mark.parametrize("kind", STAGED)
def test_every_setting_keeps_what_kinds_promise(kind: str, filler: Filler) -> None:
    for setting in settings(kind, filler):
        for row in rows_of(kind, setting):
            assert row_from_dict(row_to_dict(row)) == row
            assert all(score(row, row.answer))
            last = row.stages[-1]
            early, late = row.answer[: last.start], row.answer[last.start :]
            assert row.distance_words == len(early.split())
            contents = row.extra["contents"]
            needed = [value for value in contents if found(value, late)]
            assert needed
            assert all(found(value, row.prompt) for value in needed)
            if not KINDS[kind].leaks:
                assert not any(found(value, early) for value in (needed if kind == "steps" else contents))
                story = row.answer[: row.stages[1].start] if len(row.stages) > 1 else ""
                turns = [value for values in row.extra.get("turns", ()) for value in values]
                assert not any(found(w, story) for value in [*contents, *turns] for w in value.split())


@pytest.mark.parametrize("kind", TURNING)
def test_settings_are_functions_of_their_arguments_and_splits_share_no_contents(kind: str, filler: Filler) -> None:
    setting = settings(kind, filler)[-1]
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        rows = rows_of(kind, setting, split=split)
        assert rows_of(kind, setting, split=split) == rows
        assert rows_of(kind, setting, 5, split=split) == rows[:5]
        longer = rows_of(kind, setting, split=split, sentences=(7, 7))
        assert [row.extra for row in longer] == [row.extra for row in rows]
        groups = [contents for row in rows for contents in (row.extra["contents"], *row.extra.get("turns", ()))]
        assert all(split_of(kind, contents) == split for contents in groups)
        seen[split] = {"\0".join(sorted(contents)) for contents in groups}
    assert not seen["train"] & seen["validation"]
    assert not (seen["train"] | seen["validation"]) & seen["test"]


def test_rows_without_a_setting_are_what_they_were() -> None:
    assert make_rows(list(KINDS), 30, setting=PLAIN) == make_rows(list(KINDS), 30)


# -- distractors


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
    assert all(42 <= len(row.prompt.split()) <= 90 for row in rows_of("code", Setting(distractors=(40, 60)), 60))


def test_distractors_hold_no_word_of_contents() -> None:
    text = " ".join(sentence for sentence, _ in zip(made_here(Random(0)), range(3000), strict=False)).lower()
    assert not set(re.findall(r"\w+", text)) & {word.lower() for word in CONTENTS}


# -- turns


def test_turns_come_between_story_and_question_with_contents_of_their_own() -> None:
    for kind in TURNING:
        for row in rows_of(kind, Setting(turns=(1, 3)), 10):
            turns = row.extra["turns"]
            assert 1 <= len(turns) <= 3
            assert row.prompt.endswith(NOTE)
            given = [stage.given for stage in row.stages]
            assert given == [False, *[True, False] * len(turns), False]
            assert all(are_apart(tuple(row.extra["contents"]), contents) for contents in turns)
            assert row.stages[-1].marker.startswith("\nFirst ")
            pieces = find_stages(row, row.answer)
            for question, answer, contents in zip(pieces[1:-1:2], pieces[2:-1:2], turns, strict=True):
                assert question is not None and answer is not None
                assert any(found(value, question) and found(value, answer) for value in contents)


def test_turns_count_in_a_distance() -> None:
    rows = rows_of("code", Setting(turns=(2, 2)), 10, distance=(60, 70))
    assert all(60 <= row.distance_words <= 70 for row in rows)
    with pytest.raises(ValueError, match="words before its last stage already"):
        rows_of("code", Setting(turns=(4, 4)), 1, distance=(2, 9))


def test_without_a_story_the_turns_come_first() -> None:
    for row in rows_of("names", Setting(turns=(1, 1)), 10, sentences=(0, 0)):
        assert row.stages[0].given
        assert all(score(row, row.answer))


def test_another_turns_words_carry_no_weight_and_its_state_is_left_alone() -> None:
    class Letters:
        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

        def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
            return self.encode(text), [(i, i + 1) for i in range(len(text))]

    rows = [*rows_of("code", Setting(turns=(2, 2)), 3), *rows_of("code", PLAIN, 3)]
    encoded = [encode_row(row, Letters()) for row in rows]
    batch = collate(encoded, 3.0)
    for i, (row, one) in enumerate(zip(rows, encoded, strict=True)):
        starts = [*(stage.start for stage in row.stages), len(row.answer)]
        for stage, (start, end) in zip(row.stages, pairwise(starts), strict=True):
            weight = 0.0 if stage.given else 3.0 if stage is row.stages[-1] else 1.0
            assert batch["weights"][i, start:end].unique().tolist() == [weight]
        assert int(batch["story_end"][i]) == (0 if one.has_turns else one.late_start)


def test_given_is_a_flag_of_a_stage() -> None:
    data = row_to_dict(rows_of("code", Setting(turns=(1, 1)), 1)[0])
    assert [stage.get("given") for stage in data["stages"]] == [None, True, None, None]
    data["stages"][1]["given"] = 1
    with pytest.raises(ValueError, match="'given' must be of type bool"):
        row_from_dict(data)


# -- items


@pytest.mark.parametrize("kind", COUNTED)
def test_items_are_as_many_as_asked_for_and_cannot_be_guessed(kind: str) -> None:
    items = KINDS[kind].items
    assert items is not None
    for count in (items.least, items.most):
        rows = rows_of(kind, Setting(items=(count, count)), 150, sentences=(1, 1))
        sizes = {len(row.extra["contents"][0] if kind == "code" else row.extra["contents"]) for row in rows}
        assert sizes == {count * (2 if kind == "pairs" else 1)}
        assert len({row.answer[row.stages[-1].start :] for row in rows}) >= 100
        assert all(score(row, row.answer)[-1] for row in rows)


def test_the_prompt_says_how_many_names() -> None:
    for row in rows_of("names", Setting(items=(2, 16)), 60):
        count = words.COUNTS[len(row.extra["contents"]) - 1]
        said = {word for word in words.COUNTS[1:] if found(f"{word} names", row.prompt)}
        assert said <= {count}


# -- filler


def test_a_filler_is_cleaned_and_cut_at_sentence_ends(filler: Filler) -> None:
    everything = [sentence for part in filler.parts.values() for sentence in part]
    assert len(everything) == 120 * 6
    assert any("<unk>" in s for s in everything)
    assert not any("Dr." in s or "heading" in s or "\n" in s for s in everything)
    assert all(s[-1] == "." and s.count(".") == 1 for s in everything)
    assert any(s.endswith(", as it was.") for s in everything)
    cleaned = Filler("one", 'He paid 1 @,@ 000 ( or more ) , as " Ann \'s man " said .')
    assert [s for part in cleaned.parts.values() for s in part] == ['He paid 1,000 (or more), as "Ann\'s man" said.']


def test_the_parts_of_a_file_do_not_overlap_and_a_longer_story_begins_with_the_shorter(filler: Filler) -> None:
    stories = {}
    for split in SPLITS:
        rows = rows_of("code", Setting(filler=filler), 40, split=split, sentences=(9, 9))
        short = rows_of("code", Setting(filler=filler), 40, split=split, sentences=(3, 3))
        told = [row.answer.partition("\n")[0] for row in rows]
        assert all(long.startswith(row.answer.partition("\n")[0]) for long, row in zip(told, short, strict=True))
        stories[split] = {number for text in told for number in re.findall(r"Paragraph (\d+)", text)}
        assert stories[split]
    assert not stories["train"] & (stories["validation"] | stories["test"])
    assert not stories["validation"] & stories["test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": (8, 4)}, "items is 8 to 4; it must be 0 or more, the smaller number first"),
        ({"turns": (-1, 4)}, "turns is -1 to 4"),
        ({"distractors": (9, 4)}, "distractors is 9 to 4"),
        ({"distractors": (1, 4)}, "distractors: no story of whole sentences has 1 to 4 words"),
        ({"items": (2, 4), "kinds": ["code"]}, "items is 2 to 4; allowed for kind 'code': 4 to 64 digits"),
        ({"items": (4, 17), "kinds": ["names"]}, "allowed for kind 'names': 2 to 16 names"),
        ({"items": (4, 4), "kinds": ["ending"]}, "kind 'ending' cannot have them; allowed: names, code, pairs"),
        ({"turns": (1, 1), "kinds": ["rule"]}, "turns: kind 'rule' cannot have them; allowed: ending, names"),
        ({"distractors": (20, 30), "kinds": ["story"]}, "distractors: kind 'story' cannot have them; allowed: ending"),
        ({"turns": (1, 1), "items": (16, 16), "kinds": ["pairs"]}, "found no contents of kind 'pairs'"),
    ],
)
def test_what_cannot_be_made_is_an_error(
    arguments: dict[str, object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prosg.data.synthetic.make.TRIES", 100)
    assert make(tmp_path / "rows.jsonl", size=3, **arguments) == 2  # type: ignore[arg-type]
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_a_filler_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.jsonl"
    poor, latin, short = tmp_path / "poor.txt", tmp_path / "latin.txt", tmp_path / "short.txt"
    poor.write_text("= Only =\n\n= Headings =\n")
    latin.write_bytes("Stra\xdfe".encode("latin-1"))
    short.write_text(running_text(3))
    cases = {
        str(tmp_path / "none.txt"): "none.txt: cannot be read: No such file",
        str(poor): "poor.txt: has no running text; needed are sentences of 4 to 60 words",
        str(latin): "latin.txt: not UTF-8 text",
        str(short): "short.txt: too short: its",
    }
    for file, message in cases.items():
        assert make(out, size=3, filler=file, sentences=(40, 40)) == 2
        assert message in capsys.readouterr().err
    assert make(out, size=3, filler=short, sentences=(0, 0)) == 2
    assert "filler: with 0 sentences there is no story" in capsys.readouterr().err
    assert not out.exists()


def test_the_command_takes_them_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "rows.jsonl"
    text.write_text(running_text())
    command = ["data", "make", str(out), "--size", "9", "--kinds", "code,names,pairs", "--filler", str(text)]
    options = ["--distractors", "30", "60", "--turns", "0", "1", "--items", "4", "6"]
    assert main([*command, *options]) == 0
    setting = Setting(distractors=(30, 60), filler=Filler.read(text), turns=(0, 1), items=(4, 6))
    assert read_rows(out) == make_rows(["code", "names", "pairs"], 9, setting=setting)
    assert main(["data", "check", str(out)]) == 0
