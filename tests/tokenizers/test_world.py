import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from prosg.tokenizers.base import END_OF_TEXT
from prosg.tokenizers.files import load_tokenizer
from prosg.tokenizers.world import VOCABULARY_NAME, WORLD_FINGERPRINT, WorldTokenizer, read_vocabulary, world_file

SCRIPTS = [
    (0x20, 0x7E),  # ASCII
    (0x00, 0x1F),  # control characters
    (0x09, 0x0D),  # line ends and tabs, more often than by chance
    (0xA0, 0x17F),  # Latin with accents
    (0x370, 0x3FF),  # Greek
    (0x400, 0x4FF),  # Cyrillic
    (0x5D0, 0x5EA),  # Hebrew
    (0x600, 0x6FF),  # Arabic
    (0x900, 0x97F),  # Devanagari
    (0xE00, 0xE4F),  # Thai
    (0x1100, 0x11FF),  # Hangul letters
    (0x2000, 0x206F),  # spaces, joiners, directions
    (0x2200, 0x22FF),  # mathematics
    (0x3040, 0x30FF),  # Japanese
    (0x4E00, 0x9FFF),  # Chinese
    (0xAC00, 0xD7A3),  # Korean
    (0xE000, 0xFFFF),  # private use, presentation forms, the replacement character
    (0x1F1E6, 0x1F9FF),  # flags, emoji, skin tones
    (0x10000, 0x10FFFF),
]
CUT = "\U0001faa9"  # an emoji that the vocabulary has not as one token


@pytest.fixture(scope="module")
def world() -> WorldTokenizer:
    return read_vocabulary(world_file())


@pytest.fixture(scope="module")
def oracle() -> Any:
    return TRIE_TOKENIZER(str(world_file()))


def mixed_text(rng: Random, words: list[str]) -> str:
    """Runs of scripts, of one character, and of the vocabulary's own words, whole and cut."""
    text = ""
    for _ in range(rng.randrange(1, 9)):
        what = rng.randrange(4)
        if what == 0:
            word = rng.choice(words)
            text += word[: rng.randint(1, len(word))]
        elif what == 1:
            text += rng.choice(" \n-=#/a0é你") * int(200 ** rng.random())
        else:
            low, high = rng.choice(SCRIPTS)
            text += "".join(map(chr, (rng.randint(low, high) for _ in range(rng.randrange(1, 12)))))
    return text


def test_ids_of_mixed_scripts_are_the_rwkv_packages(world: WorldTokenizer, oracle: Any) -> None:
    rng = Random(0)
    words = [token.decode() for token in oracle.token2idx if token == token.decode("utf-8", "ignore").encode()]
    for _ in range(10_000):
        text = mixed_text(rng, words)
        ids = world.encode(text)
        assert ids == oracle.encode(text)
        assert world.decode(ids) == text


def test_ids_of_wikitext_are_the_rwkv_packages(world: WorldTokenizer, oracle: Any, shared_data: Path) -> None:
    for name in ("valid", "test"):
        text = (shared_data / "wikitext-2" / f"{name}.txt").read_text("utf-8")
        ids = world.encode(text)
        assert ids == oracle.encode(text)
        assert world.decode(ids) == text


def test_known_ids(world: WorldTokenizer) -> None:
    known = {"\n": [11], "\n\n": [261], "User:": [24281, 59], "Assistant:": [5585, 41693, 59], "": []}
    assert {text: world.encode(text) for text in known} == known


def test_loading_takes_less_than_a_second() -> None:
    # In a process without checked types, and in its own time: tests run side by side.
    code = """if True:
        import time
        from prosg.tokenizers.files import load_tokenizer
        start = time.process_time()
        load_tokenizer("world").encode("Hello.")
        print(time.process_time() - start)
    """
    assert float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) < 1


def test_the_end_token_and_ids_without_a_token(world: WorldTokenizer) -> None:
    assert world.vocab_size == 65530
    assert world.token_id(END_OF_TEXT) == 0
    assert world.token_id("User") == 24281
    assert world.token_id("no such token") is None
    assert world.decode([24281, 0, 65530, 59, 65535]) == f"User{END_OF_TEXT}\ufffd:\ufffd"
    cut = world.encode(CUT)[:-1]
    assert world.decode([*cut, 65535, *cut]) == "\ufffd" * 3


def test_an_emoji_cut_over_several_tokens_comes_once_and_whole(world: WorldTokenizer) -> None:
    ids = world.encode(f"a{CUT}b")
    assert len(ids) >= 5  # three for the emoji at least
    stream = world.stream()
    pieces = [stream.push(token) for token in ids]
    assert pieces == ["a", *[""] * (len(ids) - 3), CUT, "b"]
    assert stream.flush() == ""


def test_offsets_are_the_characters_that_a_token_has_a_part_of(world: WorldTokenizer) -> None:
    text = f"für {CUT}\n\nUser"
    ids, offsets = world.encode_offsets(text)
    assert ids == world.encode(text)
    cut = len(world.encode(CUT))
    assert offsets == [(0, 3), (3, 4), *[(4, 5)] * cut, (5, 7), (7, 11)]
    assert all(type(place) is int for offset in offsets for place in offset)


@pytest.mark.parametrize("text", ["x", "é", "", f"{CUT}é汉 \r\n a"])
def test_offsets_cover_the_text(world: WorldTokenizer, text: str) -> None:
    ids, offsets = world.encode_offsets(text)
    assert len(ids) == len(offsets)
    assert {place for start, end in offsets for place in range(start, end)} == set(range(len(text)))


BYTES = [f"{byte + 1} {bytes([byte])!r} 1" for byte in range(256)]


def changed(place: int, line: str) -> Callable[[], str]:
    return lambda: "\n".join([*BYTES[: place - 1], line, *BYTES[place:]]) + "\n"


DAMAGED: dict[str, tuple[Callable[[], str], str]] = {
    "no id": (changed(5, "'a' 1"), "line 5: .*an id"),
    "no length": (changed(6, "70 'ab'"), "line 6: .*a length"),
    "blank": (changed(7, ""), "line 7: .*an id"),
    "wrong length": (changed(8, "70 'é' 1"), "line 8: .*2 bytes.* 1 expected"),
    "empty token": (changed(9, "70 '' 0"), "line 9: .*0 bytes"),
    "open quote": (changed(10, "70 'ab 3"), "line 10: .*'ab "),
    "code": (changed(11, "70 open('x') 3"), r"line 11: .*open\('x'\)"),
    "no text": (changed(12, "70 (1,2) 3"), r"line 12: .*\(1,2\)"),
    "half a character": (changed(13, r"70 '\ud83d' 3"), "line 13: .*ud83d"),
    "id of the end": (changed(14, "0 'ab' 2"), "line 14: .*id 0"),
    "id twice": (changed(15, "3 'ab' 2"), "line 15: .*3 .*twice"),
    "token twice": (changed(16, r"700 b'\x02' 1"), r"line 16: .*x02.*twice"),
    "cut": (lambda: "\n".join(BYTES)[:1500], "line 136: "),
    "cut at a line's end": (lambda: "\n".join(BYTES[:200]), r"56 of the 256 .*xc8"),
    "empty": (lambda: "", "256 of the 256 "),
    "another file": (lambda: "# Notes\n\nBuy milk.\n", "line 1: "),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_vocabulary_is_refused_by_line(name: str, tmp_path: Path) -> None:
    make, message = DAMAGED[name]
    file = tmp_path / "vocabulary.txt"
    file.write_text(make(), "utf-8")
    with pytest.raises(ValueError, match=message) as refusal:
        load_tokenizer(file)
    assert str(refusal.value).startswith(str(file))
    assert "\n" not in str(refusal.value)


def test_a_vocabulary_of_ones_own_is_taken(tmp_path: Path) -> None:
    file = tmp_path / VOCABULARY_NAME
    file.write_text("\n".join([*BYTES, '300 "it\'s" 4', "301 'a\\'\"' 3", "302 'éé' 4"]) + "\n", "utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("it'sa'\"éé") == [300, 301, 302]
    assert tokenizer.vocab_size == 303
    assert load_tokenizer(tokenizer.save(tmp_path / "copy")).fingerprint == tokenizer.fingerprint != WORLD_FINGERPRINT


def test_what_is_no_text_is_no_vocabulary(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(b"PK\x03\x04\xff\xfe\x80")
    with pytest.raises(ValueError, match=r"model.pth: .*UTF-8"):
        load_tokenizer(file)


def test_the_compiled_tokenizer_takes_over_with_the_same_ids(
    world: WorldTokenizer, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyrwkv_tokenizer")
    text = (shared_data / "wikitext-2" / "test.txt").read_text("utf-8")[:200_000] + CUT
    monkeypatch.setattr(world, "_encoded", 0)
    plain = world.encode_offsets(text)
    monkeypatch.setattr(world, "_encoded", 1 << 30)
    assert world.encode_offsets(text) == plain
    assert world.encode(text) == plain[0]
    assert world._compiled is not None
