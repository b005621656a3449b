"""The small BPE: its vocabulary, and how it cuts texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.data.row import Row
from prosg.data.synthetic import make_rows
from prosg.tokenizers.base import END_OF_TEXT
from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.files import load_tokenizer
from prosg.tokenizers.json_file import JsonTokenizer


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows(size=1500)


@pytest.fixture(scope="module")
def tokenizer(rows: list[Row]) -> JsonTokenizer:
    return train_bpe(text for row in rows for text in (row.prompt, row.answer))


def test_the_vocabulary_is_as_promised(tokenizer: JsonTokenizer) -> None:
    assert tokenizer.vocab_size == 1024
    assert tokenizer.token_id(END_OF_TEXT) == 0
    assert tokenizer.token_id("no such token") is None
    assert tokenizer.decode([0]) == END_OF_TEXT
    assert len(tokenizer.encode("0123456789")) == 10
    assert all(len(tokenizer.encode("\n" * count)) == count for count in range(4))


def test_text_cut_at_newlines_and_behind_markers_gives_the_ids_of_the_whole(
    tokenizer: JsonTokenizer, rows: list[Row]
) -> None:
    for row in rows:
        late = row.stages[-1]
        pieces = row.answer[: late.start], late.marker, row.answer[late.start + len(late.marker) :]
        assert [token for piece in pieces for token in tokenizer.encode(piece)] == tokenizer.encode(row.answer)
        assert tokenizer.encode(row.prompt) + tokenizer.encode("\n" + row.answer) == tokenizer.encode(
            f"{row.prompt}\n{row.answer}"
        )


def test_stories_take_about_nine_tokens_a_sentence(tokenizer: JsonTokenizer, rows: list[Row]) -> None:
    stories = [row.answer[: row.stages[-1].start] for row in rows]
    tokens = sum(len(tokenizer.encode(story)) for story in stories)
    assert 8.5 < tokens / sum(story.count(".") for story in stories) < 10


def test_training_is_deterministic_and_saving_keeps_the_fingerprint(
    tokenizer: JsonTokenizer, rows: list[Row], tmp_path: Path
) -> None:
    again = train_bpe(text for row in rows for text in (row.prompt, row.answer))
    assert again.fingerprint == tokenizer.fingerprint
    assert train_bpe(["abc abc"], 300).fingerprint != tokenizer.fingerprint
    file = tokenizer.save(tmp_path / "folder")
    for path in (file, file.parent):
        assert load_tokenizer(path).fingerprint == tokenizer.fingerprint
        assert load_tokenizer(path).encode("Grüße 🙂 你好\r\n\tx  y") == tokenizer.encode("Grüße 🙂 你好\r\n\tx  y")
    assert list(file.parent.iterdir()) == [file]


def test_a_vocabulary_needs_every_byte() -> None:
    with pytest.raises(ValueError, match=r"vocab_size.*257"):
        train_bpe(["a"], 256)
