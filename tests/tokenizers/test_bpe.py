import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

import tokenizers
from prosg.data.row import Row
from prosg.data.synthetic import make_rows
from prosg.tokenizers.bpe import END_OF_TEXT, AnyTokenizer, Tokenizer, load_tokenizer, train_bpe
from tokenizers import decoders, models, pre_tokenizers

TEXTS = ["Names: Anna, Bob.\n\nCode: 482913", "Grüße 🙂 你好\r\n\tx  y", "", " ", f"a{END_OF_TEXT}b", "\ufffd!"]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows(size=1500)


@pytest.fixture(scope="module")
def tokenizer(rows: list[Row]) -> Tokenizer:
    return train_bpe(text for row in rows for text in (row.prompt, row.answer))


@pytest.fixture(scope="module")
def world() -> AnyTokenizer:
    return load_tokenizer("world")


@pytest.fixture(params=["tokenizer", "world"])
def either(request: pytest.FixtureRequest) -> AnyTokenizer:
    """What is promised of every tokenizer."""
    found: AnyTokenizer = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives(either: AnyTokenizer, text: str) -> None:
    assert either.decode(either.encode(text)) == text


def test_the_vocabulary_is_as_promised(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 1024
    assert tokenizer.token_id(END_OF_TEXT) == 0
    assert tokenizer.token_id("no such token") is None
    assert tokenizer.decode([0]) == END_OF_TEXT
    assert len(tokenizer.encode("0123456789")) == 10
    assert all(len(tokenizer.encode("\n" * count)) == count for count in range(4))


def test_the_end_token_cannot_be_typed(either: AnyTokenizer) -> None:
    assert either.token_id(END_OF_TEXT) == 0
    assert either.decode([0]) == END_OF_TEXT
    assert 0 not in either.encode(f"a {END_OF_TEXT} b")


@pytest.mark.parametrize("text", ["a\ud83d", "\udc80"])
def test_lone_surrogates_are_no_text(either: AnyTokenizer, text: str) -> None:
    for encode in (either.encode, either.encode_offsets):
        with pytest.raises(ValueError, match=f"character {len(text) - 1} of the text is the lone surrogate U"):
            encode(text)


def test_ids_beyond_the_vocabulary_do_not_stop_decoding(either: AnyTokenizer) -> None:
    ids = either.encode("one two")
    beyond = either.vocab_size + 3
    for text in (either.decode([*ids, beyond]), "".join(streamed(either, [*ids, beyond]))):
        assert text.replace("\ufffd", "") == "one two"


def test_text_cut_at_newlines_and_behind_markers_gives_the_ids_of_the_whole(
    tokenizer: Tokenizer, rows: list[Row]
) -> None:
    for row in rows:
        late = row.stages[-1]
        pieces = row.answer[: late.start], late.marker, row.answer[late.start + len(late.marker) :]
        assert [token for piece in pieces for token in tokenizer.encode(piece)] == tokenizer.encode(row.answer)
        assert tokenizer.encode(row.prompt) + tokenizer.encode("\n" + row.answer) == tokenizer.encode(
            f"{row.prompt}\n{row.answer}"
        )


def test_stories_take_about_nine_tokens_a_sentence(tokenizer: Tokenizer, rows: list[Row]) -> None:
    stories = [row.answer[: row.stages[-1].start] for row in rows]
    tokens = sum(len(tokenizer.encode(story)) for story in stories)
    assert 8.5 < tokens / sum(story.count(".") for story in stories) < 10


def test_offsets_are_characters(either: AnyTokenizer) -> None:
    text = "für 🙂\nx"
    ids, offsets = either.encode_offsets(text)
    assert ids == either.encode(text)
    assert [offset for token, offset in zip(ids, offsets, strict=True) if either.decode([token]) == "\n"] == [(5, 6)]
    assert offsets[-1] == (6, 7)


def test_training_is_deterministic_and_saving_keeps_the_fingerprint(
    tokenizer: Tokenizer, rows: list[Row], tmp_path: Path
) -> None:
    again = train_bpe(text for row in rows for text in (row.prompt, row.answer))
    assert again.fingerprint == tokenizer.fingerprint
    assert train_bpe(["abc abc"], 300).fingerprint != tokenizer.fingerprint
    file = tokenizer.save(tmp_path / "folder")
    for path in (file, file.parent):
        assert load_tokenizer(path).fingerprint == tokenizer.fingerprint
        assert load_tokenizer(path).encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
    assert list(file.parent.iterdir()) == [file]


def test_settings_of_a_file_that_would_cut_or_pad_are_dropped(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tokenizer.save(tmp_path)
    inner = tokenizers.Tokenizer.from_file(str(file))
    inner.enable_truncation(3)
    inner.enable_padding(length=9)
    inner.save(str(file))
    assert load_tokenizer(file).encode("one two three four") == tokenizer.encode("one two three four")
    assert load_tokenizer(file).fingerprint == tokenizer.fingerprint


def test_no_tokenizer_no_loading(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json there"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"missing: no tokenizer\.json there, nor rwkv_vocab.*, or: world"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(ValueError, match="at least 257"):
        train_bpe(["a"], 256)


def streamed(tokenizer: AnyTokenizer, ids: list[int]) -> list[str]:
    decoder = tokenizer.stream()
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_streaming_never_emits_half_a_character(either: AnyTokenizer, text: str) -> None:
    pieces = streamed(either, either.encode(text))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_streaming_equals_decoding_for_any_ids(either: AnyTokenizer) -> None:
    rng = Random(0)
    for _ in range(200):
        # Mostly single bytes, so that broken and unfinished characters are frequent.
        ids = [rng.randrange(257) if rng.random() < 0.8 else rng.randrange(either.vocab_size) for _ in range(30)]
        assert "".join(streamed(either, ids)) == either.decode(ids)


def test_streaming_says_early_what_is_certain(either: AnyTokenizer) -> None:
    ids = either.encode("The fox ran.")
    assert streamed(either, ids) == [*(either.decode([token]) for token in ids), ""]


def test_streaming_knows_decoders_that_treat_the_first_token_specially() -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({"▁one": 0, "▁two": 1, "s": 2}, unk_token="s"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    assert streamed(Tokenizer(inner), [0, 1, 2, 1]) == ["one", " two", "s", " two", ""]


def test_importing_it_does_not_import_transformers() -> None:
    code = "import sys, prosg.tokenizer, prosg.data.commands; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
