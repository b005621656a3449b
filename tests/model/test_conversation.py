"""Conversations: each turn is read once, the first prompt is held, and what was said can be taken up."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from prosg.core.encoded import Memory
from prosg.data.templates import TEMPLATES, Turn
from prosg.model.conversation import Conversation
from prosg.model.prosg import ProSG
from prosg.tokenizers.bpe import train_bpe
from support.models import WORDS, assert_near, assert_same_state, live_model, word_tokenizer

TEXTS = ["User: Tom saw a cat.\n\nAssistant: why?\n\nSystem: be kind", "Names: a b c d\n\nCode: 12345 67890"] * 4
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 6}


def model(module: str | None = "plus") -> ProSG:
    tokenizer = train_bpe(TEXTS, vocab_size=300)
    made = live_model("rwkv4", module, torch.float64, vocab=tokenizer.vocab_size)
    made.tokenizer = tokenizer
    return made


def said(talk: Conversation, text: str) -> str:
    return "".join(talk.ask(text, **GREEDY))


def place_of(talk: Conversation) -> Any:
    assert talk._place is not None
    return talk._place


@pytest.mark.parametrize("template", ["world", "pile"])
def test_a_conversation_is_in_the_state_of_its_whole_text(template: str) -> None:
    made = live_model("rwkv4", "plus", torch.float64, vocab=len(WORDS))
    made.tokenizer = word_tokenizer()  # its words end at blanks, where the pieces end that are read
    talk = Conversation(made, template, memory="none")
    for text in ("Tom saw", "why? a", "Code: b"):
        said(talk, text)
    assert [turn.role for turn in talk.turns] == ["user", "assistant"] * 3
    assert talk._read == TEMPLATES[template].frame(talk.turns[:-1]).text + f" {talk.turns[-1].text}"
    whole = made.encode(talk._read, memory="none")
    assert_same_state("rwkv4", place_of(talk).state, whole.state, 1e-12)
    assert_near(place_of(talk).logits, whole.logits, 1e-12)


def test_turns_without_a_template_are_apart_and_answers_go_on() -> None:
    talk = Conversation(model(), "none", memory="none")
    first, second = said(talk, "Tom saw"), said(talk, "why?")
    assert talk._read == f"Tom saw{first}\n\nwhy?{second}"


@pytest.mark.parametrize("memory", ["none", "anchor", "update", "both"])
def test_the_first_turn_is_answered_as_a_prompt(memory: Memory) -> None:
    made = model()
    talk = Conversation(made, "world", memory=memory, tau=30.0 if memory in ("anchor", "both") else None)
    prompt = TEMPLATES["world"].frame([Turn("user", "Tom saw a")]).text
    held = {"tau": 30.0} if memory in ("anchor", "both") else {}
    expected = made.generate(prompt, memory=memory, stop="\n\nUser:", **held, **GREEDY)
    assert said(talk, "Tom saw a") == expected


def test_the_system_turn_is_what_is_held() -> None:
    made = model()
    talk = Conversation(made, "world", memory="both", tau=20.0, system="be kind")
    said(talk, "Tom saw")
    first = place_of(talk)
    held = made.encode("System: be kind\n\n", memory="both", tau=20.0)
    assert first.update is not None and held.update is not None
    for site, delta in held.update.items():
        assert_near(first.update[site].dense(), delta.dense(), 1e-12)
    said(talk, "why?")
    assert place_of(talk).update is first.update
    for ours, theirs in zip(place_of(talk).anchor, held.anchor or (), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert_near(one, other, 1e-12)


def test_what_is_held_can_be_changed_and_renewed() -> None:
    made = model()
    talk = Conversation(made, "world", memory="none", system="be kind")
    said(talk, "Tom saw")
    talk.hold("update")
    assert place_of(talk).update is not None and place_of(talk).anchor is None
    talk.hold("anchor", 40.0)
    assert place_of(talk).update is None and place_of(talk).anchor is not None
    talk.hold("none")
    assert place_of(talk).update is None and place_of(talk).anchor is None
    fixed = Conversation(made, "world", memory="update")
    renewed = Conversation(made, "world", memory="update", renew="turn")
    for one in (fixed, renewed):
        said(one, "Tom saw")
        said(one, "why? a cat")
    site = next(iter(place_of(fixed).update))
    assert not torch.allclose(place_of(fixed).update[site].a, place_of(renewed).update[site].a)


def test_an_answer_is_written_again_and_one_that_is_stopped_stands_as_far_as_it_came() -> None:
    talk = Conversation(model(), "world")
    first = said(talk, "Tom saw")
    assert "".join(talk.again(**GREEDY)) == first
    assert len(talk.turns) == 2
    pieces = talk.ask("why?", temperature=0.0, max_tokens=50)
    begun = next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert talk.turns[-1] == Turn("assistant", begun.strip())
    assert said(talk, "Names: a b")


def test_a_conversation_is_taken_up() -> None:
    made = model()
    talk = Conversation(made, "world", memory="anchor", system="be kind")
    for text in ("Tom saw", "why?"):
        said(talk, text)
    other = Conversation(made, "world", memory="anchor")
    other.resume([Turn(m["role"], m["content"]) for m in talk.to_dict()["messages"]])
    assert other.turns == talk.turns
    assert said(other, "Code: 1") == said(talk, "Code: 1")


@pytest.mark.parametrize("renew", ["never", "turn"])
@pytest.mark.parametrize("memory", ["none", "anchor", "update", "both"])
def test_a_conversation_is_taken_up_as_it_was_held(memory: Memory, renew: Any) -> None:
    made = model()
    talk = Conversation(made, "world", memory=memory, renew=renew, system="be kind")
    for text in ("Tom saw", "why?"):
        said(talk, text)
    other = Conversation(made, "world", memory="both")
    other.resume(talk.to_dict()["messages"], memory=memory, renew=renew)
    place, there = place_of(other), place_of(talk)
    assert torch.equal(place.logits, there.logits)
    assert "".join(other.again(**GREEDY)) == "".join(talk.again(**GREEDY))
    assert said(other, "Code: 1") == said(talk, "Code: 1")


def test_what_cannot_be_taken_up_changes_nothing() -> None:
    talk = Conversation(model(), "none")
    said(talk, "Tom saw")
    before, place = list(talk.turns), place_of(talk)
    with pytest.raises(ValueError, match="empty"):
        talk.resume([Turn("user", ""), Turn("assistant", "x")], memory="none", renew="turn")
    assert talk.turns == before and place_of(talk) is place
    assert talk.memory == "update" and talk.renew == "never"
    with pytest.raises(ValueError, match="tau"):
        talk.resume([], memory="update", tau=3.0)
    assert talk.turns == before and place_of(talk) is place
    assert said(talk, "why?")


@pytest.mark.parametrize("memory", ["none", "anchor", "update"])
def test_a_memory_is_limited_beside_an_update_alone(memory: Memory) -> None:
    tokenizer = train_bpe(TEXTS, vocab_size=300)
    made = live_model("rwkv7", "plus", torch.float64, vocab=tokenizer.vocab_size)
    made.tokenizer = tokenizer
    talk = Conversation(made, "none", memory=memory)
    said(talk, "Tom saw")
    assert (place_of(talk).limit is not None) == (memory == "update")


@pytest.mark.parametrize(
    "roles", [["assistant"], ["user", "user"], ["user"], ["user", "assistant", "system"], ["system", "system"]]
)
def test_what_is_no_conversation_is_refused(roles: list[str]) -> None:
    with pytest.raises(ValueError, match="conversation"):
        Conversation(model(None), "world").resume([Turn(role, "x") for role in roles])


def test_what_cannot_be_is_said() -> None:
    made = model(None)
    with pytest.raises(ValueError, match="no module"):
        Conversation(made, memory="update")
    with pytest.raises(ValueError, match="system turn"):
        Conversation(made, "none", system="be kind")
    with pytest.raises(ValueError, match="system turn"):
        Conversation(made, "pile", system="be kind")
    talk = Conversation(made)
    with pytest.raises(ValueError, match="empty"):
        next(iter(talk.ask("  ")))
    with pytest.raises(ValueError, match="no answer yet"):
        next(iter(talk.again()))
    made.tokenizer = None
    with pytest.raises(ValueError, match="tokenizer"):
        Conversation(made)


class Interruption(BaseException):
    """As Ctrl-C comes."""


def interrupt(*_: Any, **__: Any) -> Any:
    raise Interruption


@pytest.mark.parametrize("where", ["options", "reading", "renewing"])
def test_a_turn_that_fails_leaves_the_conversation_as_it_was(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversation(model(), "world", memory="update", renew="turn")
    said(talk, "Tom saw")
    before = (list(talk.turns), talk._read, place_of(talk))
    with monkeypatch.context() as patch:
        if where == "reading":
            patch.setattr("prosg.model.conversation.advance", interrupt)
        if where == "renewing":
            patch.setattr(Conversation, "_renew", interrupt)
        with pytest.raises((Interruption, ValueError)):
            list(talk.ask("why?", temperature=-1.0 if where == "options" else 0.0))
    assert talk.turns == before[0] and talk._read == before[1] and place_of(talk) is before[2]
    assert said(talk, "why?") is not None
    assert [turn.role for turn in talk.turns] == ["user", "assistant"] * 2


def test_texts_that_are_cleaned_in_several_steps_are_taken_up() -> None:
    talk = Conversation(model(), "world")
    talk.resume([Turn("user", "a"), Turn("assistant", "x\r\r\n\n\ny")])
    assert said(talk, "why?") is not None


@pytest.mark.parametrize("template", ["none", "world", "pile", "raven"])
def test_each_text_begins_as_the_one_before_whatever_was_said(template: str) -> None:
    draw = random.Random(3)
    talk = Conversation(model(None), template, system="be kind" if template in ("world", "raven") else "")
    for _ in range(60):
        texts = ["".join(draw.choices("a:\r\n \t\u2028\x0b", k=draw.randrange(9))) for _ in range(4)]
        texts[0] = f"a{texts[0]}"  # a prompt is not empty
        turns = [Turn(role, text) for role, text in zip(["user", "assistant"] * 2, texts, strict=True)]
        system = [Turn("system", talk.system)] if talk.system else []
        talk.resume([*system, *turns])  # asserts it
        assert talk._read.startswith(talk._text([*system, *turns[:1]]))
