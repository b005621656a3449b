"""Logits that are no numbers end a row, and only that row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prosg.core.state import map_state
from prosg.generation.decode import BOUND_EVERY, decode
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts, stream_text
from support.models import WORDS, live_model, tokens, word_tokenizer
from support.scripted import Place, Script, ids


class Broken(Script):
    """Its row 1 has logits of no number from the third token on."""

    value = float("nan")

    def wish(self, place: Place) -> Tensor:
        return super().wish(place).masked_fill(((place.row == 1) & (place.at >= 2)).unsqueeze(1), self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_ends_where_its_logits_are_not_finite(value: float, temperature: float) -> None:
    class ByValue(Broken):
        pass

    ByValue.value = value
    script = ByValue([ids("Tom saw a b c red."), ids("Tom saw a b c red.")], len(WORDS))
    sampling = Sampling(max_tokens=6, temperature=temperature, top_k=1)
    with pytest.warns(RuntimeWarning, match="not finite .* 1 of 2 answers"):
        whole, broken = generate_texts(script, script.encoded(), word_tokenizer(), sampling)
    assert (whole.ids, whole.reason) == (ids("Tom saw a b c red."), "length")
    assert (broken.ids, broken.reason) == (ids("Tom saw"), "not_finite")


def test_a_stream_ends_where_logits_are_not_finite() -> None:
    script = Broken([ids("Tom saw a b"), ids("Tom saw a b")], len(WORDS))
    encoded = script.encoded().take(torch.tensor([1]))
    with pytest.warns(RuntimeWarning, match="not finite"):
        pieces = list(stream_text(script, encoded, word_tokenizer(), Sampling(max_tokens=4, temperature=0.0)))
    assert "".join(pieces).split() == ["Tom", "saw"]


def test_a_held_row_ends_there_too() -> None:
    script = Broken([ids("Tom saw a b red. Tom saw red."), ids("Tom saw a b c")], len(WORDS))
    held = Sampling(hold_until=1, force_marker="Code:", max_tokens=3, temperature=0.0)
    with pytest.warns(RuntimeWarning, match="not finite"):
        written = generate_texts(script, script.encoded(), word_tokenizer(), held)
    assert [answer.reason for answer in written] == ["length", "not_finite"]


@torch.no_grad()
def test_a_memory_that_grows_is_kept_within_bounds() -> None:
    model = live_model("rwkv7", None, torch.float32)
    encoded = model.encode(tokens(2, 5), memory="none")
    grown = encoded.replace(state=map_state(lambda leaf: leaf * 1e15 if leaf.ndim == 4 else leaf, encoded.state))

    def largest(steps: int) -> float:
        *_, last = decode(model.backbone, grown, Sampling(max_tokens=steps + 1, temperature=0.0, end_token=10**6))
        return max(float(leaf.abs().max()) for layer in last.before.state for leaf in layer if leaf.ndim == 4)

    assert largest(BOUND_EVERY - 1) > 1e12
    assert largest(BOUND_EVERY) < 2.0**40
