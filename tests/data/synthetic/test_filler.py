"""Running text as a source of stories."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prosg.data.synthetic import SPLITS, Difficulty, Filler, make_rows
from support.texts import running_text


@pytest.fixture(scope="module")
def filler() -> Filler:
    return Filler("prose", running_text())


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
        short, long = (
            [
                row.answer.partition("\n")[0]
                for row in make_rows(
                    ["code"], 40, 1, split, sentences=(count, count), difficulty=Difficulty(filler=filler)
                )
            ]
            for count in (3, 9)
        )
        assert all(text.startswith(begin) for begin, text in zip(short, long, strict=True))
        stories[split] = {number for text in long for number in re.findall(r"Paragraph (\d+)", text)}
        assert stories[split]
    assert not stories["train"] & (stories["validation"] | stories["test"])
    assert not stories["validation"] & stories["test"]


def test_a_file_that_cannot_be_a_filler_is_an_error(tmp_path: Path) -> None:
    poor, latin = tmp_path / "poor.txt", tmp_path / "latin.txt"
    poor.write_text("= Only =\n\n= Headings =\n")
    latin.write_bytes("Stra\xdfe".encode("latin-1"))
    for file, message in {tmp_path / "none.txt": "none", poor: "poor.* 4 to 60 words", latin: "latin.* UTF-8"}.items():
        with pytest.raises(ValueError, match=message):
            Filler.read(file)


@pytest.mark.parametrize(("sentences", "message"), [((40, 40), "prose: .* longer file"), ((0, 0), "filler: .* 0 sent")])
def test_a_story_that_the_text_cannot_give_is_an_error(sentences: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rows(size=3, sentences=sentences, difficulty=Difficulty(filler=Filler("prose", running_text(3))))
