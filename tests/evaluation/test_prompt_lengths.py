"""Curves of harder instructions: stories that are read, turns in between, long prompts, numbers of items, windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from prosg.evaluation.curve import CurveResult, forgetting_curve

from prosg.cli import main
from prosg.core.encoded import EncodedPrompt
from prosg.data.encode import EncodedRow
from prosg.data.synthetic import Difficulty, Filler, make_rows
from prosg.evaluation.controls import Condition, encode_prompts
from prosg.evaluation.forgetting import LATE_TOKENS, Written, late_tokens, length_controlled, read_stories
from prosg.model.prosg import ProSG
from prosg.tokenizers.bpe import Tokenizer, train_bpe
from support.models import WORDS, live_model, word_tokenizer

MARKERS = ["Names: a", "Code:", "then ab"]
STORIES = [["Tom saw a.", "b c red.", "a"], ["Tom saw a. d d red. then why?", "b c red. Tom big!", "a b c big!"]]
TURNS = ["then Code: b", "a", "Names: d d c"]


def ids(text: str) -> list[int]:
    return word_tokenizer().encode(text)


def setup() -> tuple[ProSG, EncodedPrompt, list[EncodedRow]]:
    model = live_model("rwkv4", "plus", vocab=len(WORDS))
    prompts = [ids("Tom saw a"), ids("b"), ids("c d red. Tom")]
    rows = [EncodedRow(i, f"row-{i}", prompt, [0], 0, True, 0) for i, prompt in enumerate(prompts)]
    return model, encode_prompts(model, prompts), rows


@pytest.mark.parametrize("chunk", [2, 512])
@pytest.mark.parametrize("turns", [[], TURNS])
@pytest.mark.parametrize("replay", [False, True])
def test_a_story_is_read_under_the_update_and_the_late_stage_is_greedy(
    chunk: int, turns: list[str], replay: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prosg.evaluation.forgetting.CHUNK", chunk)
    model, encoded, rows = setup()
    cells = read_stories(model.backbone, encoded, word_tokenizer(), rows, MARKERS, STORIES, turns=turns, replay=replay)
    for texts, cell in zip(STORIES, cells, strict=True):
        for i, written in enumerate(cell):
            before = ids(texts[i]) + (ids(turns[i]) if turns else [])
            marker = ids(MARKERS[i])
            answer = ids(written.text)
            assert written.distance_tokens == len(before)
            assert answer[: len(before) + len(marker)] == before + marker
            late = answer[len(before) + len(marker) :]
            read = [*before, *(rows[i].prompt if replay else []), *marker, *late]
            alone = encoded.take(torch.tensor([i]))
            with torch.no_grad():
                logits = model.backbone(torch.tensor([read]), alone.state, update=alone.update).logits
            likeliest = logits.argmax(2)[0].tolist()
            assert likeliest[len(read) - len(late) - 1 :][: len(late)] == late
            assert len(late) == LATE_TOKENS or likeliest[-1] == 0


def test_a_longer_story_has_to_begin_with_the_shorter_one() -> None:
    model, encoded, rows = setup()
    with pytest.raises(ValueError, match="has to begin with its shorter one"):
        read_stories(model.backbone, encoded, word_tokenizer(), rows, MARKERS, STORIES[::-1])


def test_turns_are_read_after_a_sampled_story() -> None:
    model, encoded, rows = setup()

    def run(turns: list[str]) -> list[Written]:
        return length_controlled(model.backbone, encoded, word_tokenizer(), rows, MARKERS, (2,), 3, turns=turns)[0]

    for i, (plain, written) in enumerate(zip(run([]), run(TURNS), strict=True)):
        story = ids(plain.text)[: plain.distance_tokens]
        assert written.distance_tokens == plain.distance_tokens + len(ids(TURNS[i]))
        expected = story + ids(TURNS[i]) + ids(MARKERS[i])
        assert ids(written.text)[: len(expected)] == expected


def test_a_late_stage_has_room_for_what_is_expected() -> None:
    rows = [EncodedRow(0, "a", [1], [1] * 100, 20, True, 22)]
    assert late_tokens(rows) == 78
    assert late_tokens([rows[0]._replace(answer=[1] * 30)]) == LATE_TOKENS


# -- whole curves


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([text for row in make_rows(size=60) for text in (row.prompt, row.answer)], 300)


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prose") / "prose.txt"
    file.write_text("\n\n".join(f"Number {n} was not here. It went to number {n + 1} at once." for n in range(90)))
    return file


def curve(tokenizer: Tokenizer, setting: Difficulty, **options: object) -> CurveResult:
    model = live_model("rwkv4", "plus", torch.float32, vocab=300)
    model.tokenizer = tokenizer
    return forgetting_curve(
        model,
        labels={"system": "x"},
        conditions=[Condition("own"), Condition("other")],
        size=4,
        **{"kinds": ("code", "names"), "sentences": (2, 1), "setting": setting, **options},  # type: ignore[arg-type]
    )


def test_a_filler_is_read_from_the_file_at_every_distance(tokenizer: Tokenizer, prose: Path) -> None:
    result = curve(tokenizer, Difficulty(filler=Filler.read(prose)))
    assert {row["length"] for row in result.rows} == {"filler"}
    assert {row["filler"] for row in result.rows} == {"prose.txt"}
    assert {(row["sentences"], row["in_range"]) for row in result.rows} == {(2, True), (1, False)}
    told = {(a["sentences"], a["id"]): a["text"].partition("\n")[0] for a in result.answers if a["update"] == "own"}
    parts = Filler.read(prose).parts["test"]
    for (n, row), text in told.items():
        assert text.count(".") == n
        assert all(f"{sentence.strip('.')}." in parts for sentence in text.split(". "))
        assert told[2, row].startswith(told[1, row])
    cells = {(row["sentences"], row["distance_tokens"]) for row in result.rows if row["kind"] == "all"}
    assert len(cells) == 2


def test_rows_say_their_setting_and_only_what_is_set(tokenizer: Tokenizer) -> None:
    result = curve(tokenizer, Difficulty(distractors=(20, 30), turns=(2, 2), items=(5, 6)), window=7)
    assert {row["length"] for row in result.rows} == {"controlled"}  # nobody could wait for turns to be given
    for row in result.rows:
        assert (row["distractors"], row["turns"], row["items"], row["window"]) == ([20, 30], 2, [5, 6], 7)
        assert row["prompt_tokens"] > 40
    for answer in result.answers:
        assert answer["text"].count("Turn:") == 2
        assert answer["expected"].startswith("First ")
    plain = curve(tokenizer, Difficulty())
    assert not {"distractors", "turns", "items", "filler", "window", "prompt_tokens"} & set(plain.rows[0])
    assert {row["length"] for row in plain.rows} == {"controlled", "free"}


def test_a_window_changes_what_the_module_sees(tokenizer: Tokenizer, prose: Path) -> None:
    def perplexities(window: int | None) -> list[float]:
        rows = curve(tokenizer, Difficulty(filler=Filler.read(prose)), window=window, sentences=(1,)).rows
        return [row["perplexity"] for row in rows if row["perplexity"]]

    whole = perplexities(None)
    assert whole == pytest.approx(perplexities(4000), rel=1e-4)
    assert whole != pytest.approx(perplexities(5), rel=1e-4)


def test_the_command_measures_them(prose: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "curve.json"
    few = ["curve", "demo", "--out", str(out), "--rows", "2", "--kinds", "code", "--sentences", "1"]
    assert main([*few, "--updates", "own", "--turns", "0", "1", "--items", "6", "--filler", str(prose)]) == 0
    cells = [row for row in json.loads(out.read_text())["rows"] if row["kind"] == "all"]
    assert [(row["turns"], row["items"], row["length"]) for row in cells] == [(0, 6, "filler"), (1, 6, "filler")]
    assert "turns 1  items 6" in capsys.readouterr().out
    assert main([*few, "--items", "2"]) == 2
    assert "allowed for kind 'code': 4 to 64 digits" in capsys.readouterr().err
