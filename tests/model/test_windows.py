"""Windows in which a module reads a prompt: asked for when encoding, and a module's own."""

from __future__ import annotations

import pytest
import torch

from prosg.backbones.base import Taps
from prosg.core.tensors import chunks
from prosg.model.reading import encode_with_gradients
from support.models import WORDS, assert_near, assert_same_state, assert_same_update, live_model, word_tokenizer
from support.two_passes import LENGTHS, PROMPT


@pytest.mark.parametrize("chunk", [2, 512])
@pytest.mark.parametrize("window", [1, 4, 9])
def test_a_window_shows_pieces_that_begin_afresh(window: int, chunk: int) -> None:
    """Every token lies in exactly one window; the module reads all of them as one prompt."""
    model = live_model("rwkv4", "plus")
    encoded = model.encode(PROMPT, LENGTHS, window=window, chunk=chunk)
    plain = model.encode(PROMPT, LENGTHS)
    assert_same_state("rwkv4", encoded.state, plain.state, 1e-10)  # that of the whole prompt
    assert_near(encoded.logits, plain.logits, 1e-10)
    for row, length in enumerate(LENGTHS.tolist()):
        shown = []
        with torch.no_grad():
            for start in range(0, length, window):
                piece = PROMPT[row : row + 1, start : min(start + window, length)]
                shown.append(model.backbone(piece, taps=("inputs", "memory")).taps)
        joined = Taps(
            (),
            tuple(torch.cat(layer, 1) for layer in zip(*(t.inputs for t in shown), strict=True)),
            tuple(torch.cat(layer, 1) for layer in zip(*(t.memory for t in shown), strict=True)),
        )
        assert model.synthesizer is not None
        with torch.no_grad():
            expected = model.synthesizer(joined, torch.ones(1, length, dtype=torch.bool))
        assert_same_update(encoded.take(torch.tensor([row])).update or {}, expected, 1e-10)
    if window >= 9:
        assert_same_update(encoded.update or {}, plain.update or {}, 1e-10)


@pytest.mark.parametrize("name", ["rwkv4", "rwkv7"])
@pytest.mark.parametrize("window", [1, 4, 9])
def test_a_module_reads_in_windows_of_its_own(name: str, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, in training and in pieces that end anywhere it reads as `encode` does when it is asked to."""
    plain, model = live_model(name, "plus"), live_model(name, "plus", window=window)
    expected = plain.encode(PROMPT, LENGTHS, window=window)
    for chunk in (3, 512):
        assert_same_update(model.encode(PROMPT, LENGTHS, chunk=chunk).update or {}, expected.update or {}, 1e-10)
    assert_same_update(
        model.encode(PROMPT, LENGTHS, window=9).update or {}, plain.encode(PROMPT, LENGTHS).update or {}, 1e-10
    )
    model.backbone.requires_grad_(False)
    trained = encode_with_gradients(model.backbone, model.synthesizer, None, PROMPT, LENGTHS, 2)
    assert_same_update(trained.update or {}, expected.update or {}, 1e-10)
    assert_near(trained.logits, expected.logits, 1e-10)
    assert all(factors.a.requires_grad and factors.b.requires_grad for factors in (trained.update or {}).values())
    for cut in (1, 5, 7):
        reader = model.reader(LENGTHS, update=True)
        for part, left in chunks(PROMPT, LENGTHS, cut):
            reader.read(part, left, chunk=2)
        encoded = reader.finish()
        assert_same_update(encoded.update or {}, expected.update or {}, 1e-10)
        assert_same_state(name, encoded.state, expected.state, 1e-10)
        assert_near(encoded.logits, expected.logits, 1e-10)
    monkeypatch.setattr(type(model.backbone), "continues", False)  # every window is then a call of its own
    assert_same_update(model.encode(PROMPT, LENGTHS).update or {}, expected.update or {}, 1e-10)


def test_a_window_needs_a_module_that_reads_every_position() -> None:
    with pytest.raises(ValueError, match="window.*last_input.*all_positions"):
        live_model("rwkv4", "paper").encode(PROMPT, LENGTHS, window=4)
    with pytest.raises(ValueError, match="window is 4, but no module reads .* 'none'"):
        live_model("rwkv4", None).encode(PROMPT, LENGTHS, window=4)
    with pytest.raises(ValueError, match="window is 4, but no module reads .* 'none'"):
        live_model("rwkv4").encode(PROMPT, LENGTHS, window=4, memory="none")
    texts = live_model("rwkv4", vocab=len(WORDS))
    texts.tokenizer = word_tokenizer()
    with pytest.raises(ValueError, match="lengths are those of token ids"):
        texts.encode("Tom saw", torch.tensor([1]))
