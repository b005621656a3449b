"""What every tokenizer promises, for both kinds."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from prosg.data.synthetic import make_rows
from prosg.tokenizers.base import END_OF_TEXT, Tokenizer
from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.files import load_tokenizer
from prosg.tokenizers.json_file import JsonTokenizer, _WindowDecoder

TEXTS = ["Names: Anna, Bob.\n\nCode: 482913", "Grüße 🙂 你好\r\n\tx  y", "", " ", f"a{END_OF_TEXT}b", "\ufffd!"]


@pytest.fixture(scope="module", params=["bpe", "world"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "world":
        return load_tokenizer("world")
    return train_bpe(text for row in make_rows(size=200) for text in (row.prompt, row.answer))


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = tokenizer.stream()
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_end_token_cannot_be_typed(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_id(END_OF_TEXT) == 0
    assert tokenizer.decode([0]) == END_OF_TEXT
    assert 0 not in tokenizer.encode(f"a {END_OF_TEXT} b")


@pytest.mark.parametrize("text", ["a\ud83d", "\udc80"])
def test_lone_surrogates_are_no_text(tokenizer: Tokenizer, text: str) -> None:
    for encode in (tokenizer.encode, tokenizer.encode_offsets):
        with pytest.raises(ValueError, match=rf"character {len(text) - 1} .*surrogate U\+"):
            encode(text)


def test_ids_beyond_the_vocabulary_do_not_stop_decoding(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two")
    beyond = tokenizer.vocab_size + 3
    for text in (tokenizer.decode([*ids, beyond]), "".join(streamed(tokenizer, [*ids, beyond]))):
        assert text.replace("\ufffd", "") == "one two"


def test_offsets_are_characters(tokenizer: Tokenizer) -> None:
    text = "für 🙂\nx"
    ids, offsets = tokenizer.encode_offsets(text)
    assert ids == tokenizer.encode(text)
    assert [offset for token, offset in zip(ids, offsets, strict=True) if tokenizer.decode([token]) == "\n"] == [(5, 6)]
    assert offsets[-1] == (6, 7)


@pytest.mark.parametrize("text", TEXTS)
def test_streaming_never_emits_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    pieces = streamed(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_streaming_equals_decoding_for_any_ids(tokenizer: Tokenizer) -> None:
    rng = Random(0)
    for _ in range(200):
        # Mostly single bytes, so that broken and unfinished characters are frequent.
        ids = [rng.randrange(257) if rng.random() < 0.8 else rng.randrange(tokenizer.vocab_size) for _ in range(30)]
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_streaming_says_early_what_is_certain(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The fox ran.")
    assert streamed(tokenizer, ids) == [*(tokenizer.decode([token]) for token in ids), ""]


def test_streaming_knows_decoders_that_treat_the_first_token_specially() -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({"▁one": 0, "▁two": 1, "s": 2}, unk_token="s"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    assert streamed(JsonTokenizer(inner), [0, 1, 2, 1]) == ["one", " two", "s", " two", ""]


def test_streaming_bytes_that_are_no_characters_takes_a_bounded_window() -> None:
    """Decoding all of them anew at every id would take quadratic time."""
    tokenizer = train_bpe(["abc"], 300)
    lead = tokenizer.encode("é")[0]
    seen: list[int] = []

    class Counting(JsonTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            seen.append(len(ids))
            return super().decode(ids)

    draw = Random(0)
    for ids in (
        [lead] * 600,
        [*[lead] * 300, *tokenizer.encode("é你"), *[lead] * 300],
        [draw.choice([lead, *tokenizer.encode("你😀")]) for _ in range(600)],
    ):
        decoder = _WindowDecoder(Counting(tokenizer._inner))
        pieces = [decoder.push(token) for token in ids]
        assert "".join([*pieces, decoder.flush()]) == tokenizer.decode(ids)
    assert max(seen) < 300


def test_streaming_holds_back_bytes_that_later_ones_can_spoil() -> None:
    """A run of byte tokens that is no UTF-8 becomes U+FFFD as a whole, also what was a character before."""
    pieces = ["<s>", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    inner = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = JsonTokenizer(inner)
    good, bad = [2 + byte for byte in "é\n".encode()], 2 + 0xDC
    assert streamed(tokenizer, [1, *good, 1, *good]) == ["a", "", "", "", "é\na", "", "", "", "é\n"]
    assert "".join(streamed(tokenizer, [1, *good, 999, bad, 1])) == tokenizer.decode([1, *good, 999, bad, 1])
    rng = Random(0)
    for _ in range(300):
        ids = [rng.choice([0, 1, 999, *good, bad]) for _ in range(rng.randrange(100))]
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
