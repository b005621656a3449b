"""Length-controlled answers: forks of one long story equal separate runs, and distances are tokens really written."""

from __future__ import annotations

import pytest
import torch

from prosg.core.encoded import EncodedPrompt
from prosg.data.encode import EncodedRow
from prosg.evaluation.controls import encode_prompts
from prosg.evaluation.forgetting import LATE_TOKENS, TEMPERATURE, Written, free_running, length_controlled
from prosg.generation.decode import sentence_ends
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts
from prosg.model.prosg import ProSG
from support.models import WORDS, live_model, word_tokenizer

MARKERS = ["Names: a", "Code:", "Names: a", "then ab"]
SEED = 3


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def setup() -> tuple[ProSG, EncodedPrompt, list[EncodedRow]]:
    model = live_model("rwkv4", "plus", vocab=len(WORDS))
    with torch.no_grad():
        model.backbone.head.weight *= 0.3  # so that it writes of everything, sentence ends included
    prompts = [ids("Tom saw a"), ids("b"), ids("c d red. Tom"), ids("big! a b")]
    # Numbered as a batch of generation numbers its rows, so that both draw the same.
    rows = [EncodedRow(i, f"row-{i}", prompt, [0], 0, True, 0) for i, prompt in enumerate(prompts)]
    return model, encode_prompts(model, prompts), rows


def run(sentences: tuple[int, ...], rows: list[int] | None = None, **options: bool) -> list[list[Written]]:
    model, encoded, all_rows = setup()
    chosen = list(range(4)) if rows is None else rows
    return length_controlled(
        model.backbone,
        encoded.take(torch.tensor(chosen)),
        word_tokenizer(),
        [all_rows[i] for i in chosen],
        [MARKERS[i] for i in chosen],
        sentences,
        SEED,
        **options,
    )


def test_a_fork_equals_a_separate_run_stopped_there() -> None:
    forks = run((1, 3, 6))
    for n, cell in zip((1, 3, 6), forks, strict=True):
        assert run((n,)) == [cell]
    assert run((6, 1, 3)) == [forks[2], forks[0], forks[1]]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    forks = run((1, 3))
    for some in ([2, 0], [3]):
        for whole, few in zip(forks, run((1, 3), some), strict=True):
            assert few == [whole[i] for i in some]


def test_a_fork_equals_generation_held_until_there() -> None:
    """Two ways to the same answer: `hold_until` and `force_marker` of generation are the public form of it."""
    model, encoded, _ = setup()
    for n, cell in zip((2, 4), run((2, 4)), strict=True):
        sampling = Sampling(
            max_tokens=300, temperature=TEMPERATURE, seed=SEED, hold_until=n, force_marker=MARKERS, late_temperature=0.0
        )
        for written, answer in zip(
            cell, generate_texts(model.backbone, encoded, word_tokenizer(), sampling), strict=True
        ):
            assert (answer.text + " ").startswith(written.text + " ")
            if len(answer.ids) - written.distance_tokens < LATE_TOKENS:
                assert answer.text == written.text


def test_stories_have_their_length_and_distances_are_tokens_written() -> None:
    ends = sentence_ends(word_tokenizer(), word_tokenizer().vocab_size)
    for n, cell in zip((1, 3, 6), run((1, 3, 6)), strict=True):
        for written, marker in zip(cell, MARKERS, strict=True):
            answer = ids(written.text)
            story, rest = answer[: written.distance_tokens], answer[written.distance_tokens :]
            assert int(ends[story].sum()) == n
            assert ends[story[-1]]
            assert 0 not in story
            assert ids(marker)[0] not in story
            assert rest[: len(ids(marker))] == ids(marker)
            assert len(rest) <= len(ids(marker)) + LATE_TOKENS


@pytest.mark.parametrize("replay", [False, True])
def test_the_late_stage_is_greedy_and_a_replayed_prompt_is_read_before_its_marker(replay: bool) -> None:
    model, encoded, rows = setup()
    plain = run((3,))[0]
    for i, written in enumerate(run((3,), replay=replay)[0]):
        extra = rows[i].prompt if replay else []
        answer = ids(written.text)
        before = plain[i].distance_tokens
        assert written.distance_tokens == before  # what was written; the prompt that is read again comes on top
        marker, late = ids(MARKERS[i]), answer[before + len(ids(MARKERS[i])) :]
        alone = encoded.take(torch.tensor([i]))
        read = [*answer[:before], *extra, *marker, *late]
        with torch.no_grad():
            logits = model.backbone(torch.tensor([read]), alone.state, update=alone.update).logits
        likeliest = logits.argmax(2)[0].tolist()
        at = before + len(extra) + len(marker)
        assert likeliest[at - 1 :][: len(late)] == late
        assert len(late) == LATE_TOKENS or likeliest[-1] == 0


def test_a_story_that_does_not_end_its_sentences_is_judged_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prosg.evaluation.forgetting.TOKENS_PER_SENTENCE", 2)
    ends = sentence_ends(word_tokenizer(), word_tokenizer().vocab_size)
    stuck = 0
    for n, cell in zip((1, 5), run((1, 5)), strict=True):
        for written in cell:
            story = ids(written.text)[: written.distance_tokens]
            reached = int(ends[story].sum())
            assert reached == n or written.distance_tokens == 5 * 2
            stuck += reached < n
    assert stuck > 0


def test_progress_is_told() -> None:
    model, encoded, rows = setup()
    told: list[float] = []
    length_controlled(model.backbone, encoded, word_tokenizer(), rows, MARKERS, (3,), SEED, tell=told.append)
    assert told[0] == 0.0


def test_free_answers_decide_for_themselves_when_the_late_stage_begins() -> None:
    model, encoded, rows = setup()
    markers = ["b", "c d", "then", "red."]
    written = free_running(model.backbone, encoded, word_tokenizer(), rows, markers, SEED, max_tokens=40)
    sampling = Sampling(max_tokens=40, temperature=TEMPERATURE, seed=SEED, force_marker=markers)
    expected = generate_texts(model.backbone, encoded, word_tokenizer(), sampling)
    assert [w.text for w in written] == [g.text for g in expected]
    for answer, marker in zip(written, markers, strict=True):
        before = answer.text.partition(marker)[0]
        assert answer.distance_tokens == len(ids(before))
