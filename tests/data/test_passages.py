"""Rows of running text, and mixtures of kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from prosg.data.encode import EncodedRow, encode_rows
from prosg.data.mixture import mix_rows, parse_mix
from prosg.data.passages import PASSAGE, iter_passages
from prosg.data.row import read_rows, row_from_dict, write_rows
from prosg.data.templates import NONE
from prosg.tokenizers.bpe import train_bpe


def write_text(path: Path, paragraphs: int = 60, words: int = 50) -> Path:
    lines = ["= Heading ="]
    for number in range(paragraphs):
        lines += [" ".join(f"w{number}x{i}" for i in range(words)) + " .", ""]
    path.write_text("\n".join(lines))
    return path


def test_a_paragraph_is_cut_into_passages_that_go_on(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt")
    rows = list(iter_passages(text, "train", prompt_words=(5, 9), answer_words=(4, 8)))
    assert len(rows) > 100 and rows == list(iter_passages(text, "train", prompt_words=(5, 9), answer_words=(4, 8)))
    for row in rows:
        assert row.kind == PASSAGE and row.open and row.answer.startswith(" ")
        assert 5 <= len(row.prompt.split()) <= 9 and 4 <= len(row.answer.split()) <= 8
        assert len({word.partition("x")[0] for word in (row.prompt + row.answer).split() if word != "."}) == 1
    first = (rows[0].prompt + rows[0].answer + " " + rows[1].prompt).split()
    assert [int(word.partition("x")[2]) for word in first] == list(range(len(first)))
    assert "Heading" not in rows[0].prompt
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows


def test_splits_share_no_paragraph(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt")
    words = [
        {w for row in iter_passages(text, split, prompt_words=(5, 9)) for w in (row.prompt + row.answer).split()}
        for split in ("train", "validation", "test")
    ]
    assert not any((a & b) - {"."} for i, a in enumerate(words) for b in words[:i])


def test_what_is_refused(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", 3)
    with pytest.raises(ValueError, match="split is 'all'; allowed: train, validation, test"):
        list(iter_passages(text, "all"))
    with pytest.raises(ValueError, match="prompt_words is 5 to 4"):
        list(iter_passages(text, "train", prompt_words=(5, 4)))
    with pytest.raises(ValueError, match=r"text.txt: 0 passages for train, 1 wanted.*90 words"):
        list(iter_passages(text, "train", prompt_words=(45, 60), answer_words=(45, 60)))
    with pytest.raises(ValueError, match=r"passages for train, 1000 wanted"):
        list(iter_passages(text, "train", prompt_words=(5, 9), size=1000))


def test_an_open_row_has_no_end_and_no_template() -> None:
    tokenizer = train_bpe(["one two three four"], 300, min_frequency=1)
    row = row_from_dict({"prompt": "one two", "answer": " three four", "open": True, "kind": "passage"})
    closed = row_from_dict({"prompt": "one two", "answer": " three four"})
    (encoded, plain), _ = encode_rows([row, closed], tokenizer, template="world")
    assert encoded.answer == tokenizer.encode(" three four") and encoded.template == NONE.name
    assert encoded.prompt == tokenizer.encode("one two") and (encoded.kind, encoded.open) == ("passage", True)
    assert plain.template == "world" and not plain.open
    with pytest.raises(ValueError, match="'open' must be of type bool"):
        row_from_dict({"prompt": "one", "answer": "two", "open": 1})


def encoded(kind: str, number: int) -> EncodedRow:
    return EncodedRow(number, f"{kind}{number}", [1], [2, 0], 1, False, 1, kind=kind)


def test_kinds_are_mixed_by_weight() -> None:
    rows = [encoded("code", i) for i in range(40)] + [encoded("passage", i) for i in range(8)] + [encoded("", 0)]
    mixed = mix_rows(rows, parse_mix(["passage=3", "code=1"]), seed=1)
    assert Counter(row.kind for row in mixed) == {"passage": 36, "code": 12}
    times = Counter(row.id for row in mixed if row.kind == "passage")
    assert len(times) == 8 and set(times.values()) <= {4, 5}
    assert len({row.id for row in mixed if row.kind == "code"}) == 12
    assert mixed == mix_rows(rows, {"passage": 3.0, "code": 1.0}, seed=1) != mix_rows(rows, {"passage": 3.0}, seed=1)
    with pytest.raises(
        ValueError, match="mix names story, of which there are no rows; kinds of the rows: code, passage"
    ):
        mix_rows(rows, {"story": 1.0}, seed=1)
    parts = [encoded("composed-1", i) for i in range(6)] + [encoded("composed-2", i) for i in range(2)] + rows
    mixed = mix_rows(parts, {"composed-*": 1.0, "passage": 1.0}, seed=1)
    assert Counter(row.kind for row in mixed) == {"composed-1": 6, "composed-2": 2, "passage": 8}
    with pytest.raises(ValueError, match=r"composed-1 by composed-\* and composed-1; allowed: each kind once"):
        mix_rows(parts, {"composed-*": 1.0, "composed-1": 1.0}, seed=1)


@pytest.mark.parametrize(
    "entry", ["passage", "passage=", "=2", "passage=0", "passage=-1", "passage=inf", "passage=nan"]
)
def test_what_is_no_weight(entry: str) -> None:
    with pytest.raises(ValueError, match="allowed: kind=weight"):
        parse_mix([entry])
    with pytest.raises(ValueError, match="names 'a' twice"):
        parse_mix(["a=1", "a=2"])


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from prosg.cli import main

    main_: Callable[[list[str]], int] = main
    text = write_text(tmp_path / "text.txt")
    out = str(tmp_path / "rows.jsonl")
    command = ["data", "passages", str(text), "--out", out, "--size", "12", "--prompt-words", "5", "9"]
    assert main_([*command, "--answer-words", "4", "8"]) == 0
    assert "12 passages, split train" in capsys.readouterr().out
    assert len(read_rows(out)) == 12
    assert main_(command) == 2 and "--overwrite" in capsys.readouterr().err
    marked = [encoded("a[b]", 1), encoded("what?", 2), encoded("whatx", 3)]
    assert {row.kind for row in mix_rows(marked, {"a[b]": 1.0, "what?": 1.0}, seed=1)} == {"a[b]", "what?"}
    assert {row.kind for row in mix_rows(marked, {"*[b]": 1.0}, seed=1)} == {"a[b]"}
