"""Writing answers: what may be drawn, when a text ends, how long it is held, and that streaming changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.generation.decode import STEPS, _Draws, decode, draws
from prosg.generation.length_control import sentence_ends
from prosg.generation.sampling import Sampling, pick
from prosg.generation.text import Generation, generate_texts, stream_text, stream_texts
from prosg.model.prosg import ProSG
from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.json_file import JsonTokenizer
from support.models import WORDS, live_model, tokens, word_tokenizer
from support.scripted import Script, ids

GREEDY = Sampling(temperature=0.0)


def greedy(**options: Any) -> Sampling:
    return Sampling(temperature=0.0, **options)


def write(texts: Sequence[str], sampling: Sampling) -> list[Generation]:
    script = Script([ids(text) for text in texts], len(WORDS))
    return generate_texts(script, script.encoded(), word_tokenizer(), sampling)


def write_streamed(text: str, sampling: Sampling) -> list[str]:
    script = Script([ids(text)], len(WORDS))
    return list(stream_text(script, script.encoded(), word_tokenizer(), sampling))


# -- a real model


def real(module: str | None = "plus") -> tuple[ProSG, EncodedPrompt]:
    model = live_model("rwkv4", module, torch.float64, vocab=len(WORDS))
    model.tokenizer = word_tokenizer()
    return model, model.encode(tokens(4, 6, vocab=len(WORDS)), torch.tensor([6, 2, 4, 5]))


def by_hand(model: ProSG, alone: EncodedPrompt, every: int = 0, keep: int = 1) -> list[int]:
    """Nine tokens at most, up to 15; every so often the state is begun anew, and the last `keep` tokens are read."""
    logits, state, expected = alone.logits, alone.state, []
    with torch.no_grad():
        while len(expected) < 9 and (not expected or expected[-1] != 15):
            expected.append(int(logits.argmax()))
            read = expected[-1:]
            if every and len(expected) % every == 0:
                state, read = alone.state, expected[-keep:]
            output = model.backbone(torch.tensor([read]), state, update=alone.update)
            logits, state = output.logits[:, -1], output.state
    return [token for token in expected if token != 15]


def test_the_first_token_is_the_prompts_and_the_update_acts_from_the_second_on() -> None:
    model, encoded = real()
    written = generate_texts(model.backbone, encoded, model.tokenizer, greedy(max_tokens=9, end_token=15))
    none = generate_texts(
        model.backbone, encoded.replace(update=None), model.tokenizer, greedy(max_tokens=9, end_token=15)
    )
    for row in range(4):
        assert written[row].ids == by_hand(model, encoded.take(torch.tensor([row])))
        assert written[row].ids[:1] == none[row].ids[:1]
    assert [g.ids for g in written] != [g.ids for g in none]


@pytest.mark.parametrize("module", ["plus", "paper", "static", None])
def test_greedy_answers_in_a_batch_are_those_one_by_one(module: str | None) -> None:
    model, encoded = real(module)
    options = greedy(max_tokens=12)
    together = generate_texts(model.backbone, encoded, model.tokenizer, options)
    for row in range(4):
        alone = encoded.take(torch.tensor([row]))
        assert generate_texts(model.backbone, alone, model.tokenizer, options) == [together[row]]


def test_what_is_sampled_for_a_row_does_not_depend_on_its_neighbours() -> None:
    model, encoded = real()
    options = Sampling(max_tokens=12, temperature=1.5, seed=3)

    def sampled(rows: list[int]) -> list[list[int]]:
        steps = decode(model.backbone, encoded.take(torch.tensor(rows)), options, numbers=np.array(rows))
        with torch.no_grad():
            return [[*row] for row in zip(*(step.tokens for step in steps), strict=True)]

    whole = sampled([0, 1, 2, 3])
    for few in ([2, 0], [3]):
        # A batch ends when its last row does.
        for row, written in zip(few, sampled(few), strict=True):
            assert whole[row][: len(written)] == written[: len(whole[row])]
    same = encoded.take(torch.tensor([1, 1]))
    twins = generate_texts(model.backbone, same, model.tokenizer, options)
    assert twins[0].ids != twins[1].ids  # the same prompt twice gives two answers


def test_numbers_made_for_many_steps_at_once_are_those_of_each_step() -> None:
    numbers, cpu = np.array([7, 2**63, 0], np.uint64), torch.device("cpu")
    many = _Draws(5, numbers, cpu)
    for step in range(2 * STEPS + 3):
        assert torch.equal(many(step), draws(5, step, numbers, cpu))


def test_a_seed_fixes_an_answer() -> None:
    model, _ = real()

    def answer(seed: int) -> list[str]:
        return model.generate(["Tom saw a", "b c"], max_tokens=10, temperature=1.5, seed=seed)

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_texts_token_ids_and_encoded_prompts_are_generated_from_alike() -> None:
    model, _ = real()
    texts = ["Tom saw a", "b c"]
    assert model.generate(texts, max_tokens=5) == model.generate(model.encode(texts), max_tokens=5)
    assert model.generate(texts[:1], max_tokens=5) == [model.generate("Tom saw a", max_tokens=5)]
    assert "".join(model.stream("Tom saw a", max_tokens=5)) == model.generate("Tom saw a", max_tokens=5)


# -- the end of an answer


def test_answers_end_at_the_end_token_at_a_stop_or_at_the_limit() -> None:
    written = write(["Tom saw a <end> b", "a b c d red.", "Tom ab then c"], greedy(max_tokens=4, stop=("then",)))
    assert written == [
        Generation("Tom saw a", ids("Tom saw a"), "end"),
        Generation("a b c d", ids("a b c d"), "length"),
        Generation("Tom ab ", ids("Tom ab then"), "stop"),
    ]


def test_another_end_token() -> None:
    written = write(["Tom <end> then a"], greedy(max_tokens=4, end_token=13))
    assert written == [Generation("Tom <end>", ids("Tom <end>"), "end")]


def test_a_row_ends_at_its_own_end_tokens_alone() -> None:
    texts, ends = ["Tom saw a b c <end>"] * 3, [(3,), (13, 4), (0,)]
    script = Script([ids(text) for text in texts], len(WORDS))
    options: Any = {"ends": ends, "stops": ["", "", "c"]}
    written = generate_texts(script, script.encoded(), word_tokenizer(), GREEDY, **options)
    assert [one.text for one in written] == ["Tom saw", "Tom saw a", "Tom saw a b "]
    assert [one.reason for one in written] == ["end", "end", "stop"]
    pieces = ["", "", ""]
    for row, piece in stream_texts(script, script.encoded(), word_tokenizer(), GREEDY, **options):
        pieces[row] += piece
    assert pieces == [one.text for one in written]
    held = Sampling(temperature=0.0, hold_until=1, force_marker=NAMES)
    script = Script([ids("Tom red. saw")] * 2, len(WORDS))
    first = next(decode(script, script.encoded(), held, markers=[[11]] * 2, ends=[(1,), (2,)], ends_sentence=None))
    assert first.tokens == [2, 1]  # held rows write none of their own


def test_nothing_is_read_after_the_last_row_has_ended() -> None:
    script = Script([ids("a <end> b b"), ids("a b <end>")], len(WORDS))
    generate_texts(script, script.encoded(), word_tokenizer(), GREEDY)
    assert script.fed == [ids("a a"), ids("<end> b")]
    script = Script([ids("a b c d")], len(WORDS))
    generate_texts(script, script.encoded(), word_tokenizer(), greedy(max_tokens=2))
    assert script.fed == [ids("a")]


STOPS = [
    (("red.",), "Tom saw a "),
    (("a red",), "Tom saw "),
    (("saw a red. b",), "Tom "),
    (("b c", "c"), "Tom saw a red. "),
    (("d", "b c d"), "Tom saw a re"),
    (("nothing", "Tom saw a red. b d"), "Tom saw a red. b c d blue."),
    (("Tom",), ""),
]


@pytest.mark.parametrize(("stop", "expected"), STOPS)
def test_stop_strings_may_lie_across_tokens(stop: tuple[str, ...], expected: str) -> None:
    text = "Tom saw a red. b c d blue. <end>"
    assert write([text], greedy(stop=stop))[0].text == expected
    pieces = write_streamed(text, greedy(stop=stop))
    assert "".join(pieces) == expected


def test_a_stop_given_as_a_string_is_one_stop() -> None:
    assert write(["Tom saw a red. <end>"], greedy(stop="saw a"))[0].text == "Tom "
    with pytest.raises(ValueError, match="a stop string is empty"):
        Sampling(stop=("a", ""))


def test_a_stream_holds_back_no_more_than_a_stop_string_needs() -> None:
    pieces = write_streamed("Tom saw a red. b <end>", greedy(stop=("zz",)))
    assert "".join(pieces) == "Tom saw a red. b"
    assert len(pieces) >= 4
    assert pieces[0] == "To"
    assert write_streamed("Tom saw <end>", GREEDY) == ["Tom", " saw"]


# -- length control

NAMES = "Names: a"


def test_held_answers_reach_their_length_then_the_marker_is_forced() -> None:
    # The model wants to end, and to open the late stage early; instead its second choice is written.
    text = "Tom <end> red. Names: blue. a b c <end>"
    written = write([text], Sampling(temperature=0.0, hold_until=2, force_marker=NAMES))[0]
    # <end> -> Tom, its follower in the vocabulary; after two sentences the marker; then what the model wants
    assert written.text == "Tom Tom red. Code: blue. Names: a c"
    assert written.reason == "end"


def test_the_marker_comes_once_and_where_it_should() -> None:
    model, encoded = real()
    ends = sentence_ends(model.tokenizer, model.tokenizer.vocab_size)
    for seed in range(3):
        options = Sampling(
            max_tokens=80, temperature=1.5, late_temperature=0.0, seed=seed, hold_until=3, force_marker=NAMES
        )
        written = generate_texts(model.backbone, encoded, model.tokenizer, options)
        for row, answer in enumerate(written):
            at = next(i for i in range(len(answer.ids)) if answer.ids[i : i + 2] == ids(NAMES))
            story, late = answer.ids[:at], answer.ids[at + 2 :]
            assert int(ends[torch.tensor(story)].sum()) == 3
            assert ends[story[-1]]
            assert ids("Names:")[0] not in story
            # From the marker on the likeliest tokens are written.
            alone = encoded.take(torch.tensor([row]))
            with torch.no_grad():
                read = model.backbone(torch.tensor([answer.ids]), alone.state, update=alone.update)
            likeliest = read.logits.argmax(2)[0].tolist()
            assert likeliest[at + 1 :][: len(late)] == late
            assert answer.reason == "length" or likeliest[-1] == 0


def test_rows_are_held_each_until_its_own_length() -> None:
    texts = ["red. blue. Tom a <end>", "a b c d red. then blue. Tom ab <end>"]
    for markers in (NAMES, [NAMES, "Code: b c"]):
        options = Sampling(temperature=0.0, hold_until=2, force_marker=markers)
        one, two = write(texts, options)
        assert one.text == f"red. blue. {NAMES}"
        second = NAMES if isinstance(markers, str) else "Code: b c"
        assert two.text == f"a b c d red. then blue. {second}"
        for i, marker in enumerate([NAMES, second]):
            alone = write([texts[i]], Sampling(temperature=0.0, hold_until=2, force_marker=marker))
            assert alone[0].text == (one, two)[i].text


def test_a_marker_written_freely_opens_the_late_stage_too() -> None:
    """Without holding: the temperature changes after the marker's last token, not before it."""
    script = Script([ids("Tom Names: a b c d")] * 2, len(WORDS))
    temperatures = []
    options = Sampling(temperature=1e-4, late_temperature=0.0, max_tokens=6, force_marker=NAMES)

    def noting(logits: Tensor, temperature: Tensor, *rest: Any) -> Tensor:
        temperatures.append(temperature.tolist())
        return pick(logits, temperature, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prosg.generation.decode.pick", noting)
        generate_texts(script, script.encoded(), word_tokenizer(), options)
    assert temperatures == [pytest.approx([t, t]) for t in (1e-4, 1e-4, 1e-4, 0, 0, 0)]


def test_a_held_answer_is_streamed_alike() -> None:
    model, encoded = real()
    options = Sampling(max_tokens=60, temperature=1.5, hold_until=2, force_marker=NAMES, stop=("why? a",))
    alone = encoded.take(torch.tensor([0]))
    whole = generate_texts(model.backbone, alone, model.tokenizer, options)[0].text
    assert "".join(stream_text(model.backbone, alone, model.tokenizer, options)) == whole


def test_sentences_end_with_a_full_stop_a_question_or_an_exclamation_mark() -> None:
    size = word_tokenizer().vocab_size
    ends = sentence_ends(word_tokenizer(), size + 3)
    assert not bool(ends[size:].any())  # ids that only the model has
    ends = ends[:size]
    assert [word for word, end in zip(WORDS, ends.tolist(), strict=True) if end] == ["red.", "blue.", "big!", "why?"]


# -- bytes


def byte_tokenizer() -> JsonTokenizer:
    return train_bpe(["Käse für später, größer"] * 3, 270)


@pytest.mark.parametrize("text", ["Käse → 日本語 🧀 für 2", "ä", "🧀🧀"])
@pytest.mark.parametrize("stop", [(), ("本語 ",), ("\ufffd",)])
def test_a_stream_never_breaks_a_character(text: str, stop: tuple[str, ...]) -> None:
    tokenizer = byte_tokenizer()
    script = Script([[*tokenizer.encode(text), 0]], tokenizer.vocab_size)
    pieces = list(stream_text(script, script.encoded(), tokenizer, greedy(stop=stop)))
    expected = text.partition("本語 ")[0] if stop == ("本語 ",) else text
    assert "".join(pieces) == expected
    assert not any("\ufffd" in piece for piece in pieces)
    whole = generate_texts(script, script.encoded(), tokenizer, greedy(stop=stop))[0].text
    assert whole == expected


def test_an_answer_cut_within_a_character_says_so_at_its_end_only() -> None:
    tokenizer = byte_tokenizer()
    cut = tokenizer.encode("a🧀")[:-1]
    script = Script([cut], tokenizer.vocab_size)
    options = greedy(max_tokens=len(cut))
    pieces = list(stream_text(script, script.encoded(), tokenizer, options))
    whole = generate_texts(script, script.encoded(), tokenizer, options)[0].text
    assert "".join(pieces) == whole
    assert whole.startswith("a")
    assert "\ufffd" in whole
    assert "\ufffd" not in "".join(pieces[:-1])


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_are_streamed_as_they_are_decoded(seed: int) -> None:
    """A random model writes bytes that are no text at all."""
    tokenizer = byte_tokenizer()
    model = live_model("rwkv4", "plus", vocab=tokenizer.vocab_size)
    encoded = model.encode(tokens(1, 4))
    for stop in ((), ("s", "ä"), ("\ufffd\ufffd",)):
        options = Sampling(max_tokens=40, temperature=2.0, seed=seed, stop=stop)
        whole = generate_texts(model.backbone, encoded, tokenizer, options)[0].text
        assert "".join(stream_text(model.backbone, encoded, tokenizer, options)) == whole


# -- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0, must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1, must not be negative"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0, must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"hold_until": 3}, "hold_until needs force_marker"),
        ({"hold_until": 3, "force_marker": ["Names:", ""]}, "hold_until needs force_marker"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_what_does_not_fit_the_prompts_is_refused() -> None:
    model, encoded = real()
    with pytest.raises(ValueError, match="force_marker has 2 texts for 4 prompts; give one, or one per prompt"):
        model.generate(encoded, force_marker=["Names:", "Code:"])
    with pytest.raises(ValueError, match="force_marker is ' ', of no tokens"):
        model.generate(encoded, hold_until=1, force_marker=" ")
    with pytest.raises(ValueError, match="there are 4 prompts"):
        list(stream_text(model.backbone, encoded, model.tokenizer, Sampling()))
    with pytest.raises(ValueError, match="this model has no tokenizer"):
        ProSG(model.backbone).generate(encoded)


# -- a state that is begun anew


@pytest.mark.parametrize(("every", "keep"), [(3, 1), (3, 2), (2, 5)])
def test_a_refresh_reads_the_answers_last_tokens_from_the_prompts_end(every: int, keep: int) -> None:
    model, encoded = real()
    sampling = greedy(max_tokens=9, end_token=15, refresh_every=every, refresh_keep=keep)
    written = generate_texts(model.backbone, encoded, model.tokenizer, sampling)
    for row in range(4):
        assert written[row].ids == by_hand(model, encoded.take(torch.tensor([row])), every, keep)


def test_a_refresh_has_to_read_at_least_the_last_token() -> None:
    with pytest.raises(ValueError, match="refresh_keep is 0"):
        Sampling(refresh_every=10, refresh_keep=0)
    assert Sampling(refresh_keep=0).refresh_every == 0
