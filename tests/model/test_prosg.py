"""The whole model: encoding in pieces, the loss of both passes, the state between them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prosg.checkpoints.encoded import flatten, unflatten
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import choose_rows, detach_state, take_rows
from prosg.core.update import LowRank
from prosg.model.config import PRESETS
from prosg.model.prosg import ProSG
from prosg.training.config import Perturbation
from prosg.training.perturbation import Perturber, draw
from support.models import (
    SYSTEMS,
    TOLERANCE,
    assert_near,
    assert_same_state,
    assert_same_update,
    live_backbone,
    live_model,
    state_bits_equal,
    tokens,
    word_tokenizer,
)
from support.two_passes import ANSWER, ANSWER_LENGTHS, LENGTHS, PROMPT, batch, draws, rows, touch

systems = pytest.mark.parametrize(("name", "module"), SYSTEMS)
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)

# -- encoding


@systems
@dtypes
@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_encoding_in_chunks_equals_encoding_at_once(name: str, module: str, dtype: torch.dtype, chunk: int) -> None:
    model = live_model(name, module, dtype)
    for lengths in (None, LENGTHS):
        whole, parts = model.encode(PROMPT, lengths), model.encode(PROMPT, lengths, chunk=chunk)
        assert_near(parts.logits, whole.logits, TOLERANCE[dtype])
        assert_same_state(name, parts.state, whole.state, TOLERANCE[dtype])
        # Single tokens have kernels of their own, and the module multiplies what they round otherwise.
        assert_same_update(parts.update or {}, whole.update or {}, 3 * TOLERANCE[dtype])


@systems
@pytest.mark.parametrize("chunk", [4, 512])
def test_a_prompt_in_a_ragged_batch_equals_the_prompt_alone(name: str, module: str, chunk: int) -> None:
    model = live_model(name, module)
    together = model.encode(PROMPT, LENGTHS, chunk=chunk)
    padded = PROMPT.masked_fill(torch.arange(9) >= LENGTHS.unsqueeze(1), 17)
    assert_near(model.encode(padded, LENGTHS, chunk=chunk).logits, together.logits, 1e-14)
    for row, length in enumerate(LENGTHS.tolist()):
        alone, mine = model.encode(PROMPT[row : row + 1, :length]), together.take(torch.tensor([row]))
        assert_near(mine.logits, alone.logits, 1e-10)
        assert_same_state(name, mine.state, alone.state, 1e-10)
        assert_same_update(mine.update or {}, alone.update or {}, 1e-10)


@systems
def test_encoding_equals_the_training_pass(name: str, module: str) -> None:
    model = live_model(name, module)
    with torch.no_grad():
        training = model(**batch()).encoded
    encoded = model.encode(PROMPT, LENGTHS, chunk=4)
    assert_near(training.logits, encoded.logits, 1e-10)
    assert_same_state(name, training.state, encoded.state, 1e-10)
    assert_same_update(training.update or {}, encoded.update or {}, 1e-10)


def test_what_cannot_be_encoded_is_refused() -> None:
    model = live_model("rwkv4", "plus")
    for prompt, lengths in ((PROMPT, torch.tensor([3, 0, 1])), (PROMPT[:, :0], None)):
        with pytest.raises(ValueError, match="a prompt is empty; every prompt needs at least one token"):
            model.encode(prompt, lengths)
    for options in ({"chunk": 0}, {"window": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is 0, must be at least 1 token"):
            model.encode(PROMPT, **options)
    with pytest.raises(ValueError, match="this model has no tokenizer"):
        model.encode("Tom saw")


def test_texts_are_encoded_as_their_ids() -> None:
    model = live_model("rwkv4", "plus")
    model.tokenizer = word_tokenizer()
    texts = ["Tom saw a red.", "b c"]
    ids = torch.tensor([[1, 2, 3, 7], [4, 5, 0, 0]])
    expected = model.encode(ids, torch.tensor([4, 2]))
    assert torch.equal(model.encode(texts).logits, expected.logits)
    assert torch.equal(model.encode(texts[0]).logits, model.encode(ids[:1]).logits)
    for empty in ("", [], ["Tom", ""]):
        with pytest.raises(ValueError, match="is empty"):
            model.encode(empty)


@pytest.mark.parametrize("rows", [[True, False], [0.5], ["0"]])
def test_what_is_no_rows_number_is_refused(rows: Any) -> None:
    encoded = live_model("rwkv4", None).encode(torch.tensor([[1, 2], [3, 4]]), memory="none")
    with pytest.raises(ValueError, match="no row's number"):
        inspect.unwrap(EncodedPrompt.take)(encoded, rows)  # without the check of types that there is under pytest only


def test_encoded_prompts_are_taken_joined_and_flattened() -> None:
    model = live_model("rwkv4", "plus")
    encoded = model.encode(PROMPT, LENGTHS)
    back = EncodedPrompt.join([encoded.take(torch.tensor([i])) for i in range(3)])
    assert back.batch == 3
    for other in (back, EncodedPrompt(*unflatten(flatten(encoded.state, encoded.update), model.backbone), back.logits)):
        assert torch.equal(other.logits, encoded.logits)
        assert state_bits_equal(other.state, encoded.state)
        assert_same_update(other.update or {}, encoded.update or {}, 0.0)
    bare = ProSG(model.backbone).encode(PROMPT, LENGTHS)
    assert EncodedPrompt.join([bare, bare]).update is None
    with pytest.raises(ValueError, match="with and without an update"):
        EncodedPrompt.join([bare, encoded])


# -- the module at its start


@pytest.mark.parametrize("preset", ["paper", "plus", "static"])
def test_at_step_0_the_model_is_bit_equal_to_its_backbone(preset: str) -> None:
    backbone = live_backbone("rwkv4", torch.float32)
    model, bare = ProSG(backbone, PRESETS[preset], seed=0), ProSG(backbone)
    with torch.no_grad():
        ours, theirs = model(**batch()), bare(**batch())
    assert ours.encoded.update is not None
    assert theirs.encoded.update is None
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.nll, theirs.nll)
    encoded, plain = model.encode(PROMPT, LENGTHS), bare.encode(PROMPT, LENGTHS)
    one = backbone(ANSWER, encoded.state, update=encoded.update)
    two = backbone(ANSWER, plain.state)
    assert torch.equal(encoded.logits, plain.logits)
    assert torch.equal(one.logits, two.logits)
    assert state_bits_equal(one.state, two.state)


def test_without_the_update_a_prompt_is_read_by_the_backbone_alone() -> None:
    model = live_model("rwkv4", "plus")
    bare = model.encode(PROMPT, LENGTHS, memory="none")
    assert bare.update is None
    theirs = ProSG(model.backbone).encode(PROMPT, LENGTHS)
    assert torch.equal(bare.logits, theirs.logits)
    assert state_bits_equal(bare.state, theirs.state)
    assert model.encode(PROMPT, LENGTHS).update is not None


# -- the loss


def losses_by_hand(
    model: ProSG, encoded: EncodedPrompt, touched: Callable[[int, int, Any], Any] | None = None
) -> Tensor:
    """(B, T) row by row and token by token: the first from the prompt's logits, the rest under the update."""
    nll = torch.zeros(3, 6, dtype=torch.float64)
    with torch.no_grad():
        for row, length in enumerate(ANSWER_LENGTHS.tolist()):
            alone = encoded.take(torch.tensor([row]))
            logits, state = alone.logits, alone.state
            for t in range(length):
                nll[row, t] = -torch.log_softmax(logits[0], 0)[ANSWER[row, t]]
                if touched is not None:
                    state = touched(row, t, state)
                output = model.backbone(ANSWER[row : row + 1, t : t + 1], state, update=alone.update, logits="last")
                logits, state = output.logits, output.state
    return nll


@systems
def test_the_loss_is_the_weighted_likelihood_of_the_answer(name: str, module: str) -> None:
    model = live_model(name, module)
    with torch.no_grad():
        scored = model(**batch())
    encoded = model.encode(PROMPT, LENGTHS)
    nll = losses_by_hand(model, encoded)
    assert_near(scored.nll, nll, 1e-10)
    assert_near(scored.loss, (batch()["weights"] * nll).sum() / (4 + 6 + 1), 1e-10)
    with torch.no_grad():
        assert_near(model(**batch(), count=50).loss, (batch()["weights"] * nll).sum() / 50, 1e-10)
    nll_again, hits = model.score(encoded, ANSWER, ANSWER_LENGTHS)
    assert_near(nll_again, nll, 1e-10)
    assert torch.equal(hits, scored.hits)


def test_hits_are_the_likeliest_tokens() -> None:
    model = live_model("rwkv4", "plus")
    encoded = model.encode(PROMPT, LENGTHS)
    with torch.no_grad():
        output = model.backbone(ANSWER, encoded.state, update=encoded.update)
    best = torch.cat([encoded.logits.unsqueeze(1), output.logits[:, :-1]], 1).argmax(2)
    # An answer that is right in places: odd positions are what the model likes best.
    answer = torch.where(torch.arange(6) % 2 == 0, best, ANSWER)
    answer[:, 1:] = ANSWER[:, 1:]
    _, hits = model.score(encoded, answer, ANSWER_LENGTHS)
    assert hits[:, 0].all()
    for row, length in enumerate(ANSWER_LENGTHS.tolist()):
        with torch.no_grad():
            alone = encoded.take(torch.tensor([row]))
            likes = model.backbone(answer[row : row + 1], alone.state, update=alone.update).logits.argmax(2)[0]
        assert hits[row, 1:length].tolist() == (likes[: length - 1] == answer[row, 1:length]).tolist()
        assert not hits[row, length:].any()


def test_tokens_beyond_an_answer_do_not_count() -> None:
    model = live_model("rwkv4", "plus")
    padded = ANSWER.masked_fill(torch.arange(6) >= ANSWER_LENGTHS.unsqueeze(1), 11)
    longer = torch.cat([padded, tokens(3, 4, seed=9)], 1)
    with torch.no_grad():
        one, two = model(**batch()), model(**batch(answer=padded))
        three = model(**batch(answer=longer, weights=nn.functional.pad(batch()["weights"], (0, 4))))
    assert torch.equal(one.loss, two.loss)
    assert_near(three.loss, one.loss, 1e-12)
    assert torch.equal(three.nll[:, 6:], torch.zeros(3, 4).double())


def test_answers_of_one_token_need_the_prompt_alone() -> None:
    model = live_model("rwkv4", "plus")
    one = torch.ones(3, dtype=torch.int64)
    with torch.no_grad():
        scored = model(**batch(answer=ANSWER[:, :1], answer_lengths=one, weights=torch.ones(3, 1)))
    expected = -torch.log_softmax(model.encode(PROMPT, LENGTHS).logits, 1)[torch.arange(3), ANSWER[:, 0]]
    assert_near(scored.loss, expected.mean(), 1e-12)


# -- the state between the calls


def test_a_cut_without_a_perturbation_changes_nothing() -> None:
    """The answer is read in two calls, cut at another place in each row, as soon as one row is touched."""
    model = live_model("rwkv4", "plus")
    idle = touch(age=rows(True, True, True))  # by no step and no shift
    with torch.no_grad():
        cut, whole = model(**batch(), perturber=Perturber(draws(answer=idle), None)), model(**batch())
    assert_near(cut.nll, whole.nll, 1e-10)
    assert torch.equal(cut.hits, whole.hits)


def test_swapped_rows_get_the_next_rows_state() -> None:
    model = live_model("rwkv4", "plus")
    encoded = model.encode(PROMPT, LENGTHS)
    with torch.no_grad():
        scored = model(**batch(), perturber=Perturber(draws(swap=rows(True, False, True)), None))
    mixed = encoded.replace(state=take_rows(encoded.state, torch.tensor([1, 1, 0])))
    assert_near(scored.nll, losses_by_hand(model, mixed), 1e-10)


def test_wiped_rows_start_from_the_initial_state() -> None:
    model = live_model("rwkv4", "plus")
    encoded = model.encode(PROMPT, LENGTHS)
    wiped = rows(True, True, False)
    with torch.no_grad():
        scored = model(**batch(), perturber=Perturber(draws(wipe=wiped), None))
    state = choose_rows(wiped, model.backbone.init_state(3), encoded.state)
    assert_near(scored.nll, losses_by_hand(model, encoded.replace(state=state)), 1e-10)


def test_the_storys_touch_comes_after_as_many_tokens_as_were_drawn() -> None:
    model = live_model("rwkv4", "plus")
    encoded = model.encode(PROMPT, LENGTHS)
    steps, shift = torch.tensor([30.0, 5.0, 9.0]), torch.tensor([-1.0, -2.0, -3.0])
    age = rows(True, False, True)
    with torch.no_grad():
        scored = model(**batch(), perturber=Perturber(draws(answer=touch(age=age, steps=steps, shift=shift)), None))

    def touched(row: int, t: int, state: Any) -> Any:
        # position 2 for row 0: two answer tokens have been read, and the third is read by the aged memory
        here = row == 0 and t == 2
        return model.backbone.age(state, steps[:1], shift[:1]) if here else state

    assert_near(scored.nll, losses_by_hand(model, encoded, touched), 1e-10)


def test_loading_knows_how_full_a_wiped_memory_was() -> None:
    model = live_model("rwkv4", "plus")
    encoded = model.encode(PROMPT, LENGTHS)
    bank = detach_state(model.backbone(tokens(2, 30, seed=7)).state)
    wipe, load = rows(True, False, False), rows(True, True, False)
    weight, shift = torch.tensor([2.0, 3.0, 1.0]), torch.tensor([-1.0, -0.5, 0.0])
    bank_row = torch.tensor([1, 0, 1])
    end = touch(load=load, weight=weight, shift=shift, bank_row=bank_row)
    with torch.no_grad():
        scored = model(**batch(), perturber=Perturber(draws(wipe=wipe, prompt_end=end), bank))
    state = choose_rows(wipe, model.backbone.init_state(3), encoded.state)
    loaded = model.backbone.load(state, take_rows(bank, bank_row), torch.exp(shift), weight, encoded.state)
    assert_near(scored.nll, losses_by_hand(model, encoded.replace(state=choose_rows(load, loaded, state))), 1e-10)


def test_a_batch_of_any_order_loses_the_same() -> None:
    """With every perturbation but swap, which looks at the neighbours by design."""
    model = live_model("rwkv4", "plus")
    bank = detach_state(model.backbone(tokens(64, 5, seed=7)).state)
    p = Perturbation(wipe_first=0.4, wipe_last=0.4, load=0.7, load_story=0.7)
    ids, late = torch.tensor([901, 17, 5]), torch.tensor([3, 4, 0])
    order = torch.tensor([2, 0, 1])
    permuted = {key: value[order] for key, value in batch().items()}
    with torch.no_grad():
        for step in range(3):
            one = model(**batch(), perturber=Perturber(draw(p, 0, step, 0.5, ids, late), bank))
            two = model(**permuted, perturber=Perturber(draw(p, 0, step, 0.5, ids[order], late[order]), bank))
            assert_near(two.nll, one.nll[order], 1e-10)


def test_updates_can_be_made_by_hand() -> None:
    """An update is a value: scaled by two, it is scored as the backbone with twice dW scores."""
    model = live_model("rwkv4", "plus")
    encoded = model.encode(PROMPT, LENGTHS)
    assert encoded.update is not None
    twice = encoded.replace(update={site: LowRank(2 * d.a, d.b) for site, d in encoded.update.items()})
    assert_near(model.score(twice, ANSWER, ANSWER_LENGTHS)[0], losses_by_hand(model, twice), 1e-10)


def test_a_model_knows_its_modules_configuration() -> None:
    model = live_model("rwkv4", "plus")
    assert model.prosg_config is not None
    assert model.prosg_config.bottleneck == 3
    assert ProSG(model.backbone).prosg_config is None


def test_lengths_and_ids_are_checked_where_prompts_and_answers_come_in() -> None:
    model = live_model("rwkv4", "plus", torch.float32)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    encoded = model.encode(ids)
    for lengths in ([3, 4], [3, -1]):
        with pytest.raises(ValueError, match="lengths"):
            model.encode(ids, torch.tensor(lengths))
        with pytest.raises(ValueError, match="lengths"):
            model.score(encoded, ids, torch.tensor(lengths))
    for bad in (ids + 100_000, -ids):
        with pytest.raises(ValueError, match="the model's vocabulary has the ids 0 to"):
            model.encode(bad)
        with pytest.raises(ValueError, match="the model's vocabulary has the ids 0 to"):
            model.score(encoded, bad, torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="answer has 1 rows for 2 prompts"):
        model.score(encoded, ids[:1], torch.tensor([3]))
    with pytest.raises(ValueError, match="the batch is empty"):
        model.encode(ids[:0])
    with pytest.raises(ValueError, match="at least one prompt"):
        model.score(encoded.take(torch.zeros(0).long()), ids, torch.tensor([3, 3]))
