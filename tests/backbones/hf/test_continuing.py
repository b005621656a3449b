"""Models of transformers with a cache of this package: read on with gradients, in rows of any length.

Those are attention alone, and Gated DeltaNet hybrids, whose memories are loaded and pulled as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)
from transformers.models.qwen3_next import modeling_qwen3_next

from prosg.backbones.base import FullError
from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.backbone import load_backbone, save_backbone
from prosg.core.state import State, choose_rows, take_rows
from prosg.core.update import LowRank, Site, take_update_rows
from prosg.data.encode import EncodedRow
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts, stream_text
from prosg.model.anchor import StateAnchor
from prosg.model.config import PRESETS
from prosg.model.prosg import ProSG
from prosg.training.config import Perturbation, TrainConfig
from prosg.training.perturbation import Perturber
from prosg.training.setup import check
from support.hf_models import (
    BATCH,
    CONTINUING,
    HF_TINY,
    HYBRIDS,
    VOCAB,
    backbone_update_tokens,
    hf_backbone,
    hf_model,
)
from support.models import WORDS, assert_near, gap, tokens, word_tokenizer
from support.two_passes import ANSWER, ANSWER_LENGTHS, LENGTHS, PROMPT, batch, draws, rows, touch

types = pytest.mark.parametrize("name", CONTINUING)
hybrids = pytest.mark.parametrize("name", HYBRIDS)


def lasting(name: str, kernel: str = "auto") -> HFBackbone:
    """A model whose memory lasts: at random, most heads of Gated DeltaNet forget within a token."""
    model = hf_model(name)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "linear_attn"):
                module.linear_attn.A_log.sub_(4.0)
    return HFBackbone(model, kernel=kernel)


def lasting_update_tokens(name: str) -> tuple[HFBackbone, dict[Site, LowRank], Tensor]:
    """The same with an update as large as its weights, and tokens."""
    _, update, x = backbone_update_tokens(name)
    return lasting(name), update, x


def memories(state: State) -> list[Tensor]:
    return [layer.memory for layer in state if hasattr(layer, "memory")]


def gradients_of(loss: Tensor, backbone: HFBackbone, update: dict[Site, LowRank]) -> dict[str, Tensor]:
    """Of all weights, and of the update's factors."""
    learned = dict(backbone.named_parameters())
    for site, delta in update.items():
        learned |= {f"{site} a": delta.a, f"{site} b": delta.b}
    gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    return {key: value for key, value in zip(learned, gradients, strict=True) if value is not None}


@types
def test_calls_from_a_state_have_the_gradients_of_transformers_one_call(name: str) -> None:
    """Prompts and answers of any length in two calls, the second cut once more, against one call of its own code."""
    ours, update, _ = lasting_update_tokens(name)
    theirs = lasting(name, "transformers" if name in HYBRIDS else "auto")
    assert ours.continues and theirs.continues == (name not in HYBRIDS)
    for delta in update.values():
        delta.a.requires_grad_(), delta.b.requires_grad_()
    whole = torch.zeros(BATCH, 15, dtype=torch.int64)
    for row, (length, longer) in enumerate(zip(LENGTHS.tolist(), ANSWER_LENGTHS.tolist(), strict=True)):
        whole[row, : length + longer] = torch.cat([PROMPT[row, :length], ANSWER[row, :longer]])
    one = theirs(whole, update=update, update_from=LENGTHS, keep_state=False).logits

    state = ours(PROMPT, lengths=LENGTHS, logits="none").state
    first = ours(ANSWER[:, :2], state, update=update, lengths=ANSWER_LENGTHS.clamp(max=2))
    rest = (ANSWER_LENGTHS - 2).clamp(min=0)
    last = ours(ANSWER[:, 2:], first.state, update=update, lengths=rest, keep_state=False)
    logits = torch.cat([first.logits, last.logits], 1)
    valid = torch.arange(6) < ANSWER_LENGTHS.unsqueeze(1)
    expected = torch.stack([one[row, length : length + 6] for row, length in enumerate(LENGTHS.tolist())])
    assert_near(logits[valid], expected[valid], 1e-5)
    a, b = (
        gradients_of(torch.log_softmax(z[valid], 1)[:, 1].sum(), backbone, update)
        for z, backbone in ((logits, ours), (expected, theirs))
    )
    assert a.keys() == b.keys()
    for key, gradient in a.items():
        assert_near(gradient, b[key], 2e-4)


@types
def test_gradients_reach_every_part_of_a_state(name: str) -> None:
    backbone, update, x = lasting_update_tokens(name)
    state = backbone(x[:, :5], update=update).state
    leaves = [leaf.detach().requires_grad_() for layer in state[1:] for leaf in layer]
    parts = iter(leaves)
    again = (state[0], *(type(layer)(*(next(parts) for _ in layer)) for layer in state[1:]))
    loss = backbone(x[:, 5:], again, lengths=torch.tensor([4, 2, 3])).logits[:, :2].logsumexp(2).sum()
    for gradient, leaf in zip(torch.autograd.grad(loss, leaves), leaves, strict=True):
        assert gradient.shape == leaf.shape and gradient.isfinite().all() and gradient.any()


@types
@torch.no_grad()
def test_a_row_of_any_length_keeps_the_state_that_it_has_alone(name: str) -> None:
    backbone, update, x = lasting_update_tokens(name)
    more = tokens(BATCH, 4, seed=5)
    first = backbone(x, update=update, lengths=torch.tensor([9, 1, 5])).state
    after = backbone(more, first, update=update, lengths=torch.tensor([2, 4, 0])).state
    assert after[0].tokens.tolist() == [11, 5, 5]
    for row, text in enumerate((torch.cat([x[0], more[0, :2]]), torch.cat([x[1, :1], more[1]]), x[2, :5])):
        own = take_update_rows(update, torch.tensor([row]))
        alone = backbone(text.unsqueeze(0), update=own).state
        for ours, theirs in zip(after[1:], alone[1:], strict=True):
            for leaf, expected in zip(ours, theirs, strict=True):
                if hasattr(ours, "keys"):  # zeros in front, up to the longest row
                    missing = leaf.shape[2] - expected.shape[2]
                    assert not leaf[row, :, :missing].any()
                    leaf = leaf[:, :, missing:]
                assert_near(leaf[row : row + 1], expected, 1e-5)


@torch.no_grad()
def test_padding_needs_no_positions_of_its_own() -> None:
    """A long text with little to read on beside a short one with much: together they pass the table's end."""
    backbone = HFBackbone(hf_model("gpt2", n_positions=12))
    text, more = tokens(2, 10), tokens(2, 9, seed=1)
    state = backbone(text, lengths=torch.tensor([10, 2])).state
    together = backbone(more, state, lengths=torch.tensor([2, 9])).logits
    for row, (before, length) in enumerate(((10, 2), (2, 9))):
        alone = backbone(torch.cat([text[row, :before], more[row, :length]]).unsqueeze(0)).logits[0, before:]
        assert_near(together[row, :length], alone, 1e-5)


@types
@torch.no_grad()
def test_keys_that_no_row_needs_any_more_are_dropped(name: str) -> None:
    backbone, _, x = lasting_update_tokens(name)
    state = backbone(x, lengths=torch.tensor([9, 2, 3])).state
    rest = take_rows(state, torch.tensor([1, 2]))
    after = backbone(x[1:, :1], rest).state
    widths = {layer.keys.shape[2] for layer in after[1:] if hasattr(layer, "keys")}
    assert widths == {4} and after[0].tokens.tolist() == [3, 4]
    kept = backbone(x[1:, 2:3], after).logits
    for row, (own, text) in enumerate(((x[1, :2], x[1, :1]), (x[2, :3], x[2, :1]))):
        alone = backbone(torch.cat([own, text, x[1 + row, 2:3]]).unsqueeze(0)).logits[0, -1]
        assert_near(kept[row, 0], alone, 1e-5)


@hybrids
@torch.no_grad()
def test_loading_mixes_memories_and_leaves_attention_and_convolutions(name: str) -> None:
    backbone, _, x = lasting_update_tokens(name)
    state, other = backbone(x[:, :4]).state, backbone(x[:, 2:]).state
    keep, weight = torch.tensor([0.5, 1.0, 0.0]), torch.tensor([1.0, 0.0, 3.0])
    loaded = backbone.load(state, other, keep, weight, state)
    for after, before, added in zip(*map(memories, (loaded, state, other)), strict=True):
        expected = torch.stack([0.5 * before[0] + added[0], before[1], added[2]])
        assert torch.equal(after, expected)
    for after, before in zip(loaded, state, strict=True):
        for field in set(after._fields) - {"memory"}:
            assert torch.equal(getattr(after, field), getattr(before, field))
    # A wiped row has read nothing, and yet what it was loaded with counts.
    empty = backbone.init_state(BATCH)
    filled = backbone.load(empty, other, torch.ones(BATCH), torch.ones(BATCH), empty)
    assert gap(backbone(x[:, :2], filled).logits, backbone(x[:, :2], empty).logits) > 0.01


def plus(name: str) -> ProSG:
    """A model whose update is as large as its weights, on a frozen backbone."""
    model = ProSG(lasting(name), PRESETS["plus"], seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.synthesizer.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.backbone.requires_grad_(False)
    return model


@hybrids
def test_a_step_of_phase_2_scores_perturbed_states(name: str) -> None:
    """Row 0 is wiped and loaded, row 1 has the next prompt's state, and is loaded inside its answer."""
    model = plus(name)
    backbone = model.backbone
    bank = backbone(tokens(2, 6, seed=9)).state
    end = touch(load=rows(True, False, False), weight=torch.ones(3), shift=torch.tensor([-1.0, 0, 0]))
    inside = touch(load=rows(False, True, False), weight=torch.ones(3), shift=torch.tensor([0, -2.0, 0]))
    inside = inside._replace(bank_row=torch.tensor([0, 1, 0]))
    changes = draws(wipe=rows(True, False, False), swap=rows(False, True, False), prompt_end=end, answer=inside)
    scored = model(**batch(), perturber=Perturber(changes, bank))
    scored.loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.synthesizer.parameters())
    assert float(model.synthesizer.layers[0].queries.grad.abs().max()) > 0

    encoded = model.encode(PROMPT, LENGTHS)
    empty = backbone.init_state(3)
    loaded = backbone.load(empty, take_rows(bank, torch.tensor([0, 0, 0])), torch.ones(3), torch.ones(3), empty)
    state = choose_rows(rows(True, False, False), loaded, take_rows(encoded.state, torch.tensor([0, 2, 2])))
    with torch.no_grad():
        first = backbone(ANSWER[:, :4], state, update=encoded.update)
        weaker = backbone.load(
            first.state,
            take_rows(bank, torch.tensor([0, 1, 0])),
            torch.exp(torch.tensor([0, -2.0, 0])),
            torch.ones(3),
            first.state,
        )
        two = backbone(ANSWER[:, 4:-1], weaker, update=encoded.update)
        straight = backbone(ANSWER[:, :-1], state, update=encoded.update)
    for row, logits in ((0, straight.logits), (1, torch.cat([first.logits, two.logits], 1))):
        length = int(ANSWER_LENGTHS[row]) - 1
        losses = torch.nn.functional.cross_entropy(logits[row, :length], ANSWER[row, 1 : length + 1], reduction="none")
        assert_near(scored.nll[row, 1 : length + 1].detach(), losses, 1e-4)


def test_the_loss_of_phase_2_falls() -> None:
    model = plus("qwen3_next")
    changes = draws(wipe=rows(True, False, True), prompt_end=touch(load=rows(True, True, False), weight=torch.ones(3)))
    perturber = Perturber(changes, model.backbone(tokens(2, 6, seed=9)).state)
    optimiser = torch.optim.Adam(model.synthesizer.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = model(**batch(), perturber=perturber).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@torch.no_grad()
def test_a_prompt_is_read_in_chunks() -> None:
    model, prompt, lengths = plus("qwen3_next"), tokens(BATCH, 9, seed=3), torch.tensor([9, 4, 6])
    whole, chunked = model.encode(prompt, lengths), model.encode(prompt, lengths, chunk=2)
    assert_near(chunked.logits, whole.logits, 1e-5)
    for site, delta in whole.update.items():
        assert_near(chunked.update[site].dense(), delta.dense(), 1e-4)
    for ours, theirs in zip(memories(chunked.state), memories(whole.state), strict=True):
        assert_near(ours, theirs, 1e-5)


def test_training_reads_a_long_prompt_in_chunks() -> None:
    """Of each chunk only its state is kept; the backward pass reads it again, and finds the same."""
    results = []
    for chunk in (512, 4):
        model = plus("qwen3_next")
        model.chunk = chunk
        scored = model(**batch())
        results.append((scored.loss, torch.autograd.grad(scored.loss, list(model.synthesizer.parameters()))))
    (one, theirs), (cut, ours) = results
    assert_near(cut, one, 1e-5)
    for a, b in zip(ours, theirs, strict=True):
        assert_near(a, b, 1e-3)


def test_windows_of_an_anchor_have_gradients() -> None:
    model = ProSG(lasting("qwen3_next").requires_grad_(False))
    model.anchor = StateAnchor(model.backbone).requires_grad_(True)
    model(**batch()).loss.backward()
    learned = [p for p in model.anchor.parameters() if p.numel()]  # none of attention's
    assert len(learned) == 2 * 3
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in learned)


def test_what_training_may_do(tmp_path: Path) -> None:
    model = plus("qwen3_next")
    examples = [EncodedRow(0, "a", [1, 2], [3, 4, 0], 1, False, 1)]

    def checked(**options: Any) -> None:
        config = TrainConfig("m", "t", str(tmp_path), **options)
        check(model, "synthesize", config, examples, [])

    checked(perturbation=Perturbation(wipe_first=0.9, swap=0.2, load=0.5, load_story=0.5, start=0.1))
    with pytest.raises(ValueError, match=r"perturbation.age must be 0 .*qwen3_next.* wipe, swap, load, start; .*load"):
        checked(perturbation=Perturbation(age=0.1))
    with pytest.raises(ValueError, match="cache_taps .* qwen3_next.* state"):
        checked(cache_taps=str(tmp_path / "taps"))


def test_kernels() -> None:
    for kernel, said in (("auto", "torch"), ("scan", "scan (chosen)"), ("transformers", "transformers (chosen)")):
        backbone = HFBackbone(hf_model("qwen3_next"), kernel=kernel)
        assert backbone.kernel_in_use.endswith(f", qwen3_next; gated_delta: {said}")
        assert backbone.continues == (kernel != "transformers")
    with pytest.raises(ValueError, match=r"'c'.* qwen3_next .*auto, torch, scan, transformers"):
        HFBackbone(hf_model("qwen3_next"), kernel="c")
    x = tokens(BATCH, 70)
    with torch.no_grad():
        chunks, steps = (HFBackbone(hf_model("qwen3_next"), kernel=kernel)(x).logits for kernel in ("torch", "scan"))
    assert_near(chunks, steps, 1e-5)


def test_where_transformers_calls_it_otherwise_its_own_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = modeling_qwen3_next.torch_chunk_gated_delta_rule

    def renamed(q: Tensor, *rest: Any, **options: Any) -> Any:
        return rule(q, *rest, **options)

    monkeypatch.setattr(modeling_qwen3_next, "torch_chunk_gated_delta_rule", renamed)
    reason = "torch_chunk_gated_delta_rule has other arguments: q, rest, options"
    with pytest.warns(UserWarning, match=f"qwen3_next: .*{reason}.*no gradients through its state"):
        backbone = hf_backbone("qwen3_next")
    assert not backbone.continues and backbone.perturbations == ("wipe", "swap")
    assert backbone.kernel_in_use.endswith(f"; gated_delta: transformers ({reason})")


@torch.no_grad()
def test_a_cache_of_transformers_still_works() -> None:
    """As in transformers' own generation, which knows nothing of this package."""
    model = hf_model("qwen3_next")
    x = tokens(BATCH, 9)
    own = model(x, use_cache=False).logits
    replaced = HFBackbone(model).model
    before = replaced(x[:, :6], use_cache=True)
    assert_near(before.logits, own[:, :6], 1e-5)
    for t in range(6, 9):
        after = replaced(x[:, t : t + 1], use_cache=True, past_key_values=before.past_key_values)
        assert_near(after.logits, own[:, t : t + 1], 1e-5)


@pytest.mark.parametrize(
    ("kind", "config", "language"),
    [
        (Qwen3_5ForConditionalGeneration, Qwen3_5Config, "qwen3_5_text"),
        (Qwen3_5MoeForConditionalGeneration, Qwen3_5MoeConfig, "qwen3_5_moe_text"),
    ],
)
@torch.no_grad()
def test_a_model_of_text_and_pictures_is_read_as_its_language_model(
    kind: Any, config: Any, language: str, tmp_path: Path
) -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 0, 0], "partial_rotary_factor": 0.25}
    pictures = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 12}
    model = kind(
        config(
            text_config={**HF_TINY[language].sizes, "vocab_size": VOCAB, "rope_parameters": rope},
            vision_config={**pictures, "num_position_embeddings": 16, "patch_size": 2},
        )
    )
    model.eval().save_pretrained(tmp_path / "whole")
    backbone, x = load_backbone(tmp_path / "whole"), tokens(BATCH, 9)
    assert isinstance(backbone, HFBackbone) and backbone.continues and backbone.model_type == language
    assert_near(backbone(x).logits, model(input_ids=x).logits, 1e-5)
    save_backbone(backbone, tmp_path / "language")
    assert_near(load_backbone(tmp_path / "language")(x).logits, backbone(x).logits, 1e-6)


def test_a_text_ends_with_the_table_of_positions() -> None:
    backbone, tokenizer = HFBackbone(hf_model("gpt2", vocab=len(WORDS), n_positions=8)), word_tokenizer()
    with pytest.raises(FullError, match=r"the text has 9 tokens; this gpt2 has 8 positions \(n_positions\)"):
        backbone(tokens(1, 9, vocab=len(WORDS)))
    model = ProSG(backbone)
    encoded = model.encode(tokens(2, 6, vocab=len(WORDS)), torch.tensor([6, 3]))
    sampling = Sampling(max_tokens=20, temperature=0.0, end_token=99)
    both = generate_texts(backbone, encoded, tokenizer, sampling)
    assert [(len(one.ids), one.reason) for one in both] == [(3, "length"), (6, "length")]
    for row, one in enumerate(both):
        assert generate_texts(backbone, encoded.take([row]), tokenizer, sampling) == [one]
        pieces = stream_text(backbone, encoded.take([row]), tokenizer, sampling)
        assert "".join(pieces) == one.text
