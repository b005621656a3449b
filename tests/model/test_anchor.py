"""What holds a prompt is one option, in every way to write and to score."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prosg.core.encoded import MEMORIES
from prosg.data.encode import EncodedRow
from prosg.generation.decode import advance
from prosg.model.anchor import StateAnchor
from prosg.model.perplexity import perplexity
from prosg.model.prosg import ProSG
from support.models import WORDS, live_model, same_encoded, state_bits_equal, tokens, word_tokenizer

PROMPT, LENGTHS = tokens(2, 6, vocab=len(WORDS)), torch.tensor([6, 4])


def model(module: str | None = "plus", name: str = "rwkv7") -> ProSG:
    made = live_model(name, module, torch.float32, vocab=len(WORDS))
    made.tokenizer = word_tokenizer()
    return made


def test_memory_says_what_an_encoded_prompt_has() -> None:
    made = model()
    assert MEMORIES == ("none", "anchor", "update", "both", "auto")
    for memory in MEMORIES:
        encoded = made.encode(PROMPT, LENGTHS, memory=memory)
        assert (encoded.update is not None) == (memory in ("update", "both", "auto"))
        assert (encoded.anchor is not None) == (memory in ("anchor", "both"))
    assert same_encoded(made.encode(PROMPT, LENGTHS), made.encode(PROMPT, LENGTHS, memory="update"))


@pytest.mark.parametrize("memory", MEMORIES)
def test_an_encoded_prompt_is_held_by_another_memory(memory: Any) -> None:
    made = model()
    whole = made.encode(PROMPT, LENGTHS, memory="both")
    assert same_encoded(made.held_by(whole, memory), made.encode(PROMPT, LENGTHS, memory=memory))
    plain = made.encode(PROMPT, LENGTHS)
    assert same_encoded(made.held_by(plain, memory), made.encode(PROMPT, LENGTHS, memory=memory))
    if memory in ("anchor", "both"):
        again = made.held_by(whole, memory, tau=9.0)
        assert same_encoded(again, made.encode(PROMPT, LENGTHS, memory=memory, tau=9.0))
        assert not state_bits_equal(again.anchor, whole.anchor)


def test_what_a_model_has_is_its_default() -> None:
    for module, own in (("plus", "update"), (None, "none")):
        made = model(module)
        assert made.memory == own
        made.anchor = StateAnchor(made.backbone, 30.0)
        assert made.memory == ("both" if module else "anchor")
        assert made.encode(PROMPT, LENGTHS).anchor is not None


def test_generating_streaming_and_scoring_take_it() -> None:
    made = model(None)
    options: dict[str, Any] = {"max_tokens": 60, "temperature": 0.0, "end_token": len(WORDS) - 1}
    free, held = (made.generate("Tom saw a b c", memory=memory, **options) for memory in ("none", "anchor"))
    assert free != held
    assert "".join(made.stream("Tom saw a b c", memory="anchor", **options)) == held
    encoded = made.encode("Tom saw a b c")
    assert made.generate(encoded, memory="anchor", **options) == [held]
    assert made.generate(encoded, memory="anchor", tau=5.0, **options) != [held]
    row = EncodedRow(0, "row", [1, 2, 3, 4, 5], [1, 2, 3, 4] * 12, 40, False, 40)
    scores = {memory: perplexity(made, [row], memory=memory) for memory in ("none", "anchor")}
    assert scores["none"] != scores["anchor"]
    # In pieces as in one call.
    made.chunk = 5
    in_pieces = perplexity(made, [row], memory="anchor").perplexity
    assert in_pieces == pytest.approx(scores["anchor"].perplexity, rel=1e-5)


def test_reading_on_keeps_the_anchor() -> None:
    made = model(None)
    encoded = made.encode(PROMPT, LENGTHS, memory="anchor")
    further = advance(made.backbone, encoded, tokens(2, 9, seed=5, vocab=len(WORDS)))
    assert state_bits_equal(further.anchor, encoded.anchor)
    turn = made.anchored(further, tau=20.0)  # the end of a turn becomes what is held
    assert not state_bits_equal(turn.anchor, encoded.anchor)


def test_training_acts_under_the_models_own_anchor() -> None:
    made = model(None)
    made.anchor = StateAnchor(made.backbone, 12.0)
    answer, lengths = tokens(2, 30, seed=3, vocab=len(WORDS)), torch.tensor([30, 22])
    weights = torch.ones(2, 30)
    scored = made(PROMPT, LENGTHS, answer, lengths, weights)
    held = made.score(made.encode(PROMPT, LENGTHS, memory="anchor", tau=12.0), answer, lengths)
    torch.testing.assert_close(scored.nll, held.nll, rtol=1e-4, atol=1e-4)
    free = made.score(made.encode(PROMPT, LENGTHS, memory="none"), answer, lengths)
    assert not torch.allclose(scored.nll, free.nll, atol=1e-3)


def test_what_cannot_be_had_is_refused() -> None:
    bare = model(None)
    with pytest.raises(ValueError, match="memory is 'update': this model has no module.*allowed: none, anchor"):
        bare.encode(PROMPT, LENGTHS, memory="update")
    with pytest.raises(ValueError, match="tau is 5, but memory is 'none'"):
        bare.check_memory("none", 5.0)
    made = model()
    with pytest.raises(ValueError, match="encoded without an update"):
        made.held_by(made.encode(PROMPT, LENGTHS, memory="none"), "update")
