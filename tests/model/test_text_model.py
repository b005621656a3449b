"""Texts and conversations in, texts out: one or several, sampled, streamed and scored."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.checkpoints.load import load_model
from prosg.core.checks import check_lengths
from prosg.data.templates import TEMPLATES, OwnTemplate, Turn
from prosg.generation.text import generate_texts
from prosg.model.conversation import Conversation
from prosg.model.prompts import is_single
from prosg.model.prosg import ProSG
from prosg.tokenizers.special import SpecialTokens
from support import first_calls
from support.chat_models import CHATML, chat_model
from support.hf_models import hf_backbone
from support.models import WORDS, assert_near, live_model, word_tokenizer

TEXTS = ["Tom saw a", "b c"]
USER, ANSWER = {"role": "user", "content": "Tom saw a"}, {"role": "assistant", "content": "why? b"}
DRAWN: dict[str, Any] = {"max_tokens": 8, "temperature": 1.5, "end_token": len(WORDS) - 1}


@pytest.fixture(scope="module")
def model() -> ProSG:
    made = live_model("rwkv4", "plus", torch.float64, vocab=len(WORDS))
    made.tokenizer = word_tokenizer()
    made.own_template = OwnTemplate(trained=TEMPLATES["pile"])
    return made


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ProSG:
    return load_model(chat_model(tmp_path_factory.mktemp("chat") / "model"), dtype="fp64")


def test_a_text_for_a_text_and_a_list_for_a_list(model: ProSG) -> None:
    one = model.generate(TEXTS[0], **DRAWN)
    assert isinstance(one, str)
    both = model.generate(TEXTS, **DRAWN)
    assert both[0] == one and model.generate(tuple(TEXTS), **DRAWN) == both
    assert model.generate(model.encode(TEXTS), **DRAWN) == both
    assert model.generate(model.tokenise(TEXTS[:1])[0], **DRAWN) == [one]


def test_a_sample_depends_on_its_number_and_its_row_alone(model: ProSG) -> None:
    few, many = (model.generate(TEXTS, n, **DRAWN) for n in (2, 4))
    assert [len(some) for some in many] == [4, 4] and few == [some[:2] for some in many]
    assert len({*many[0]}) > 1
    assert [some[0] for some in many] == model.generate(TEXTS, **DRAWN)
    assert model.generate(TEXTS[0], 4, **DRAWN) == many[0]
    assert model.generate(TEXTS[0], 1, **DRAWN) == many[0][:1]
    marked = model.generate(TEXTS, 2, hold_until=1, force_marker=["Names:", "Code:"], **DRAWN)
    assert all("Names:" in text for text in marked[0]) and all("Code:" in text for text in marked[1])
    with pytest.raises(ValueError, match="n is 0"):
        model.generate(TEXTS, 0)


@pytest.mark.parametrize("stop", [[], ["c", "saw a"]])
def test_the_pieces_of_each_row_are_its_answer(model: ProSG, stop: list[str]) -> None:
    written = ["", ""]
    for row, piece in model.stream(TEXTS, stop=stop, **DRAWN):
        assert piece
        written[row] += piece
    assert written == model.generate(TEXTS, stop=stop, **DRAWN)
    assert "".join(model.stream(TEXTS[0], stop=stop, **DRAWN)) == written[0]
    assert {row for row, _ in model.stream(model.encode(TEXTS[:1]), **DRAWN)} == {0}


def test_messages_are_written_by_the_models_template(model: ProSG) -> None:
    written = "Question: Tom saw a\n\nAnswer:"
    assert model.template == TEMPLATES["pile"]
    assert_near(model.encode([USER]).logits, model.encode(written).logits, 0.0)
    assert_near(
        model.encode([USER], template="world").logits, model.encode("User: Tom saw a\n\nAssistant:").logits, 0.0
    )
    assert model.generate([USER], **DRAWN) == model.generate(written, stop="\n\nQuestion:", **DRAWN)
    mixed = model.generate([[USER], [USER, ANSWER, USER]], **DRAWN)
    assert len(mixed) == 2 and mixed[0] == model.generate([USER], **DRAWN)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([USER, ANSWER], "the last message is the assistant's"),
        ([USER, USER], "message 2 is the user's"),
        ([{"role": "user"}], "message 1 .*'content'"),
        ([{"role": "tool", "content": "x"}], "message 1 has the role 'tool'"),
        ([{"role": "system", "content": "x"}, USER], "'pile' has no system turn"),
    ],
)
def test_what_is_no_prompt_is_refused(model: ProSG, messages: Any, words: str) -> None:
    for use in (model.encode, model.generate, model.stream, lambda prompt: model.perplexity(prompt, "a")):
        with pytest.raises(ValueError, match=words):
            use(messages)


def test_a_template_is_for_messages(model: ProSG) -> None:
    """For a text, ids and encoded prompts it would do nothing."""
    encoded = model.encode("Tom saw")
    for prompt in ("Tom saw", ["Tom saw", "a b"], encoded):
        with pytest.raises(ValueError, match="template is 'world', but the prompt (is a text.*messages|was encoded)"):
            model.generate(prompt, template="world", max_tokens=2)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="template is 'world', but the prompt is token ids"):
        model.encode(torch.tensor([[1, 2]]), template="world")
    assert model.generate("Tom saw", template="none", max_tokens=2, seed=1) == model.generate(
        "Tom saw", max_tokens=2, seed=1
    )


def by_hand(model: ProSG, prompt: Any, ids: list[int]) -> float:
    encoded = model.encode(prompt)
    nll = model.score(encoded, torch.tensor([ids]), torch.tensor([len(ids)])).nll
    return math.exp(float(nll.sum()) / len(ids))


def test_perplexity_is_of_texts(model: ProSG) -> None:
    assert model.tokenizer is not None
    end = model.special.end[0]
    values = [by_hand(model, text, [*model.tokenizer.encode("saw a big!"), end]) for text in TEXTS]
    assert model.perplexity(TEXTS[0], "saw a big!") == pytest.approx(values[0], rel=1e-9)
    assert model.perplexity(TEXTS, ["saw a big!"] * 2) == pytest.approx(values, rel=1e-9)
    assert model.perplexity(model.encode(TEXTS), ["saw a big!"] * 2) == pytest.approx(values, rel=1e-9)
    assert model.perplexity(TEXTS[0], "a", memory="none") != model.perplexity(TEXTS[0], "a")
    with pytest.raises(ValueError, match="1 answers to 2 prompts"):
        model.perplexity(TEXTS, ["a"])
    with pytest.raises(ValueError, match="answer 2 is empty"):
        model.perplexity(TEXTS, ["a", ""])
    with pytest.raises(ValueError, match="one answer to one prompt"):
        model.perplexity(TEXTS, "a")


def test_a_models_own_template_has_its_special_tokens(chat: ProSG) -> None:
    assert chat.tokenizer is not None
    end = chat.tokenizer.token_id("<|im_end|>")
    (read,) = chat.prepare([[USER]])
    assert read.special.end[0] == end and read.special.begin is None and not read.spaced
    ids = torch.tensor([read.ids])
    assert_near(chat.encode([USER]).logits, chat.encode(ids).logits, 0.0)
    expected = by_hand(chat, ids, [*chat.tokenizer.encode("say"), end])
    assert chat.perplexity([USER], "say") == pytest.approx(expected, rel=1e-9)
    assert chat.encode(chat.tokenizer.decode(read.ids)).logits.shape == (1, chat.backbone.config.vocab_size)
    assert chat.encode("<|im_end|>").state[0].den.sum() != chat.encode(torch.tensor([[end]])).state[0].den.sum()


def test_a_row_does_not_end_at_what_ends_anothers(chat: ProSG, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat.tokenizer is not None
    monkeypatch.setattr(chat, "special", SpecialTokens((0,)))
    batch: list[Any] = ["say", [USER]]
    turn = chat.prepare([[USER]])[0].special.end[0]
    logits = torch.zeros(2, chat.backbone.config.vocab_size)
    logits[:, turn] = 9.0
    encoded = chat.encode(batch).replace(logits=logits)  # both write what ends a turn
    sampling, ends = chat._sampling_of({"max_tokens": 1}), chat._ends_of(chat.prepare(batch), {})
    answers = generate_texts(chat.backbone, encoded, chat.tokenizer, sampling, ends=ends)
    assert [one.reason for one in answers] == ["length", "end"]
    alone = chat.generate("say", max_tokens=20, seed=3, temperature=2.0)
    assert chat.generate(batch, max_tokens=20, seed=3, temperature=2.0)[0] == alone


@pytest.mark.parametrize("system", ["", "be kind"])
@pytest.mark.parametrize("source", [CHATML, "{{ messages | length }}" + CHATML], ids=["grows", "changes"])
def test_a_conversation_is_in_the_state_of_what_its_template_writes(source: str, system: str, tmp_path: Path) -> None:
    model = load_model(chat_model(tmp_path / "model", source), dtype="fp64")
    talk = Conversation(model, memory="anchor", system=system)
    for text in ("Tom saw", "why?", "say"):
        "".join(talk.ask(text, max_tokens=5, temperature=0.0))
        assert talk._place is not None and talk._before is not None
        asked = talk.turns[:-1]
        assert talk._before[0] == model.template.frame(asked).text
    whole = model.encode(model.template.frame(asked), memory="none")
    plain = Conversation(model, memory="none", system=system)
    plain.resume([*asked, Turn("assistant", "a")])
    assert plain._before is not None
    assert_near(plain._before[1].logits, whole.logits, 1e-10)
    other = Conversation(model, memory="anchor", system=system)
    other.resume(talk.to_dict()["messages"])
    assert other._place is not None
    assert_near(other._place.logits, talk._place.logits, 1e-10)


@pytest.mark.parametrize("wrong", [USER, {"messages": [USER]}, [1, 2, 3], None, 7])
def test_what_is_no_prompt_is_refused_in_words(wrong: Any) -> None:
    with pytest.raises(ValueError, match="prompt"):
        inspect.unwrap(is_single)(wrong)  # without the check of types that there is under pytest only


def test_a_loss_beyond_the_numbers_is_infinite(model: ProSG, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = model.score

    def huge(*arguments: Any, **options: Any) -> Any:
        found = scored(*arguments, **options)
        return found._replace(nll=found.nll + 1000)

    monkeypatch.setattr(model, "score", huge)
    assert model.perplexity(TEXTS[0], "why?") == math.inf


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.generate("a", n=2.0), "n is 2.0; it must be of type int"),
        (lambda m: m.perplexity(["a"], None), "a list of answers to a list of prompts"),
        (lambda m: m.generate([None]), "a prompt is None; allowed: a text"),
        (lambda m: m.encode("a", window=1.5), "window is 1.5; .* int"),
        (lambda m: m.encode("a", chunk="x"), "chunk is 'x'; .* int"),
        (lambda m: m.encode("a", memory="anchor", tau="x"), "tau is 'x'; .* float"),
        (lambda m: m.perplexity("a", "b", tau=True), "tau is True; .* float"),
        (lambda m: m.perplexity(["a"], [5]), "answer 1 is 5"),
        (lambda m: m.encode("a").to(torch.float16), "device is torch.float16; allowed"),
        (lambda m: check_lengths([2], 1, 3), "lengths is a list; must be a tensor of 1 whole numbers"),
    ],
)
def test_what_is_of_another_type_is_refused_in_words(
    model: ProSG, call: Callable[[Any], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_calls, "CHECKED", 0)  # as without pytest
    with pytest.raises(ValueError, match=words):
        call(model)


@pytest.mark.parametrize(
    ("other", "vocab", "words"),
    [
        ("rwkv7", len(WORDS), "state.0 is RWKV7Layer, must be RWKV4Layer"),
        ("rwkv4, own widths", len(WORDS), "state has 3 layers, must have 2"),
        ("rwkv4", len(WORDS) + 1, f"logits has {len(WORDS) + 1} columns"),
    ],
)
def test_prompts_of_another_model_are_refused(model: ProSG, other: str, vocab: int, words: str) -> None:
    stranger = live_model(other, None, torch.float64, vocab=vocab)
    encoded = stranger.encode(torch.tensor([[1, 2]]))
    for call in (
        lambda: model.generate(encoded),
        lambda: model.stream(encoded),
        lambda: model.perplexity(encoded, ["a"]),
        lambda: model.held_by(encoded, "anchor"),
    ):
        with pytest.raises(ValueError, match=f"{words}.*; the prompt was encoded by another model"):
            call()


@pytest.mark.parametrize("name", ["qwen3_5_text", "recurrent_gemma", "llama"])
def test_prompts_that_autocast_encoded_are_of_the_same_model(name: str) -> None:
    """The types of a state are other ones there, after one token and after several."""
    made = ProSG(hf_backbone(name, vocab=len(WORDS)))
    made.tokenizer = word_tokenizer()
    with torch.autocast("cpu", torch.bfloat16):
        encoded = made.encode(TEXTS)
        assert len(made.generate(encoded, **DRAWN)) == len(made.perplexity(encoded, ["a", "b"])) == 2
    assert len(made.generate(encoded, **DRAWN)) == 2
