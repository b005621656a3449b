"""Length-controlled answers: forks of one long story equal separate runs, and distances are tokens really written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from prosg.core.encoded import EncodedPrompt
from prosg.core.tensors import pad
from prosg.data.encode import EncodedRow
from prosg.evaluation.forgetting import (
    LATE_TOKENS,
    TEMPERATURE,
    ControlledAnswer,
    LateStages,
    late_tokens,
    length_controlled,
    read_stories,
)
from prosg.generation.length_control import sentence_ends
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts
from prosg.model.prosg import ProSG
from support.models import WORDS, live_model, word_tokenizer

PROMPTS = ["Tom saw a", "b", "c d red. Tom", "big! a b"]
MARKERS = ["Names: a", "Code:", "Names: a", "then ab"]
STORIES = [
    ["Tom saw a.", "b c red.", "a", "d"],
    ["Tom saw a. d d red. then why?", "b c red. Tom big!", "a b c big!", "d red."],
]
TURNS = ["then Code: b", "a", "Names: d d c", "b"]
SEED = 3


def ids(text: str) -> list[int]:
    return word_tokenizer().encode(text)


def setup() -> tuple[ProSG, EncodedPrompt, list[EncodedRow]]:
    model = live_model("rwkv4", "plus", vocab=len(WORDS))
    with torch.no_grad():
        model.backbone.head.weight *= 0.3  # so that it writes of everything, sentence ends included
    prompts = [ids(prompt) for prompt in PROMPTS]
    # Numbered as a batch of generation numbers its rows, so that both draw the same.
    rows = [EncodedRow(i, f"row-{i}", prompt, [0], 0, True, 0) for i, prompt in enumerate(prompts)]
    return model, model.encode(pad(prompts), torch.tensor([len(prompt) for prompt in prompts])), rows


def late_stages(model: ProSG, rows: Sequence[EncodedRow], chosen: Sequence[int], **options: Any) -> LateStages:
    turns = [TURNS[i] for i in chosen] if options.pop("turns", False) else ()
    here = [rows[i] for i in chosen]
    return LateStages(model.backbone, word_tokenizer(), here, [MARKERS[i] for i in chosen], turns=turns, **options)


def run(
    sentences: tuple[int, ...],
    rows: Sequence[int] = range(4),
    tokens_per_sentence: int = 24,
    tell: Callable[[float], None] | None = None,
    **options: Any,
) -> list[list[ControlledAnswer]]:
    model, encoded, all_rows = setup()
    late = late_stages(model, all_rows, rows, **options)
    here = encoded.take(torch.tensor(list(rows)))
    return length_controlled(late, here, sentences, SEED, tokens_per_sentence=tokens_per_sentence, tell=tell)


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
        answers = generate_texts(model.backbone, encoded, word_tokenizer(), sampling)
        for written, answer in zip(cell, answers, strict=True):
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


def check_late_stage(
    written: ControlledAnswer, row: int, before: list[int], replay: bool, refresh: int | None = None
) -> None:
    """The late stage is greedy after what was read: the story, turns, a prompt that is read again, the marker."""
    model, encoded, rows = setup()
    marker = ids(MARKERS[row])
    answer = ids(written.text)
    assert written.distance_tokens == len(before)  # a prompt that is read again comes on top
    assert answer[: len(before) + len(marker)] == before + marker
    late = answer[len(before) + len(marker) :]
    alone = encoded.take(torch.tensor([row]))
    kept = before if refresh is None else before[max(len(before) - refresh, 0) :]
    read = [*kept, *(rows[row].prompt if replay else []), *marker, *late]
    with torch.no_grad():
        logits = model.backbone(torch.tensor([read]), alone.state, update=alone.update).logits
    likeliest = logits.argmax(2)[0].tolist()
    assert likeliest[len(read) - len(late) - 1 :][: len(late)] == late
    assert len(late) == LATE_TOKENS or likeliest[-1] == 0


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("refresh", [0, 3, 1000])
def test_a_late_stage_is_begun_anew_from_the_prompts_end(turns: bool, refresh: int) -> None:
    plain = run((3,))[0]
    for i, written in enumerate(run((3,), turns=turns, refresh=refresh)[0]):
        story = ids(plain[i].text)[: plain[i].distance_tokens]
        check_late_stage(written, i, story + (ids(TURNS[i]) if turns else []), replay=False, refresh=refresh)


def test_a_story_whose_logits_are_not_finite_has_failed() -> None:
    model, encoded, rows = setup()
    late = late_stages(model, rows, range(4))
    broken = torch.tensor([False, True, False, False])
    state = tuple(
        type(layer)(*(leaf.masked_fill(broken.reshape(-1, *[1] * (leaf.ndim - 1)), torch.nan) for leaf in layer))
        for layer in encoded.state
    )
    (cell,) = length_controlled(late, encoded.replace(state=state), (3,), SEED)
    assert [answer.finite for answer in cell] == [True, False, True, True]
    whole = run((3,))[0]
    assert [cell[i] for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]
    assert cell[1].distance_tokens < 3


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("replay", [False, True])
def test_the_late_stage_after_a_sampled_story_is_greedy(turns: bool, replay: bool) -> None:
    plain = run((3,))[0]
    for i, written in enumerate(run((3,), turns=turns, replay=replay)[0]):
        story = ids(plain[i].text)[: plain[i].distance_tokens]
        check_late_stage(written, i, story + (ids(TURNS[i]) if turns else []), replay)


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("replay", [False, True])
def test_a_story_is_read_under_the_update_and_the_late_stage_is_greedy(turns: bool, replay: bool) -> None:
    model, encoded, rows = setup()
    late = late_stages(model, rows, range(4), turns=turns, replay=replay)
    for texts, cell in zip(STORIES, read_stories(late, encoded, STORIES), strict=True):
        for i, written in enumerate(cell):
            check_late_stage(written, i, ids(texts[i]) + (ids(TURNS[i]) if turns else []), replay)


def test_a_longer_story_has_to_begin_with_the_shorter_one() -> None:
    model, encoded, rows = setup()
    with pytest.raises(ValueError, match="begin with"):
        read_stories(late_stages(model, rows, range(4)), encoded, STORIES[::-1])


def test_a_story_that_does_not_end_its_sentences_is_judged_where_it_stands() -> None:
    ends = sentence_ends(word_tokenizer(), word_tokenizer().vocab_size)
    stuck = 0
    for n, cell in zip((1, 5), run((1, 5), tokens_per_sentence=2), strict=True):
        for written in cell:
            story = ids(written.text)[: written.distance_tokens]
            reached = int(ends[story].sum())
            assert reached == n or written.distance_tokens == 5 * 2
            stuck += reached < n
    assert stuck > 0


def test_a_late_stage_has_room_for_what_is_expected() -> None:
    rows = [EncodedRow(0, "a", [1], [1] * 100, 20, True, 22)]
    assert late_tokens(rows) == 78
    assert late_tokens([rows[0]._replace(answer=[1] * 30)]) == LATE_TOKENS


def test_progress_is_told() -> None:
    shares: list[float] = []
    run((3,), tell=shares.append)
    assert shares[0] == 0.0
