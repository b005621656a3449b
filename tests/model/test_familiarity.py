"""Which prompts a module knows, what it makes of the others, and what holds those."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prosg.checkpoints.adapter import load_adapter, save_adapter
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.checkpoints.load import load_model
from prosg.checkpoints.tensors import read_safetensors
from prosg.core.encoded import EncodedPrompt
from prosg.core.update import acting_rows
from prosg.data.encode import encode_rows
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.generation.decode import advance
from prosg.model.config import ProSGConfig
from prosg.model.conversation import Conversation
from prosg.model.familiarity import GREATEST_WIDTH, MARGIN, SHRINKAGE, Familiarity, familiar_layers
from prosg.model.prosg import ProSG
from prosg.model.synthesizer import Synthesizer
from prosg.training import known_prompts
from prosg.training.known_prompts import learn_prompts, reading_time
from prosg.utils.io import CheckpointError
from support.hf_models import hf_backbone
from support.models import MODULES, TINY, WORDS, assert_near, live_model, same_encoded, tokens, word_tokenizer

PROMPT, LENGTHS = tokens(3, 6), torch.tensor([6, 4, 6])


def model(name: str = "rwkv4") -> ProSG:
    return knowing_two(live_model(name, "plus", torch.float32))


def knowing_two(made: ProSG) -> ProSG:
    """One that knows the first and the last prompt, and not the second."""
    assert isinstance(made.synthesizer, Synthesizer)
    known = Familiarity(made.synthesizer.input_widths)
    made.synthesizer.familiarity = known
    reads = made.synthesizer.init(LENGTHS)
    output = made.backbone(PROMPT, lengths=LENGTHS, taps=made.synthesizer.taps)
    reads = made.synthesizer.read(reads, output.taps, torch.arange(6) < LENGTHS.unsqueeze(1))
    assert reads.inputs is not None
    means = (reads.inputs / LENGTHS.unsqueeze(1)).detach()
    known.mean.copy_(means[[0, 2]].mean(0))
    known.whitening.copy_(torch.eye(len(known.mean)))
    distances = known.distance(means)
    known.threshold.fill_(float(distances[[0, 2]].max()) * 1.01)
    assert distances[1] > known.threshold
    return made


def test_the_distance_is_mahalanobis_per_dimension() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(12, 12, dtype=torch.float64)
    draws = torch.randn(600, 12, dtype=torch.float64) @ mixing + 3.0
    known = Familiarity((4, 4, 4)).double()
    known.fit(draws[:400], draws[400:], 0.9)
    mean, std = draws[:400].mean(0), draws[:400].std(0)
    correlation = (1 - SHRINKAGE) * torch.corrcoef(draws[:400].T) + SHRINKAGE * torch.eye(12)
    scaled = (draws - mean) / std
    by_hand = torch.einsum("ni,ij,nj->n", scaled, torch.linalg.inv(correlation), scaled) / 12
    assert_near(known.distance(draws), by_hand, 1e-8)
    assert_near(known.threshold, MARGIN * by_hand[400:].quantile(0.9), 1e-8)
    assert known.knows(draws[400:]).double().mean() >= 0.9
    assert not known.knows(draws[400:] + 30.0).any()


def test_directions_without_variance_do_not_make_it_infinite() -> None:
    z = torch.cat([torch.randn(100, 3), torch.zeros(100, 3)], 1)
    known = Familiarity((6,))
    known.fit(z[:80], z[80:], 1.0)
    assert known.whitening.isfinite().all() and known.knows(z[80:]).all()
    assert not known.knows(z + torch.tensor([0, 0, 0, 0, 0, 3.0])).any()


def test_wide_models_are_looked_at_in_some_layers() -> None:
    assert familiar_layers((96,) * 3) == (0, 1, 2)
    assert familiar_layers((768,) * 12) == (0, 11) and GREATEST_WIDTH >= 2 * 768
    assert familiar_layers((512,) * 9) == (0, 3, 5, 8)
    assert familiar_layers((4096,) * 32) == (0,)


@pytest.mark.parametrize("name", TINY)
def test_the_update_of_an_unknown_prompt_is_zero_under_auto_alone(name: str) -> None:
    made = model(name)
    whole = made.encode(PROMPT, LENGTHS, memory="update")
    encoded = made.encode(PROMPT, LENGTHS)
    assert encoded.known is not None and encoded.known.tolist() == [True, False, True]
    assert encoded.update is not None and whole.update is not None
    assert acting_rows(whole.update).all() and acting_rows(encoded.update).tolist() == [True, False, True]
    for site, delta in encoded.update.items():
        assert torch.equal(delta.a[[0, 2]], whole.update[site].a[[0, 2]]) and not delta.dense()[1].any()


@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 4}, {"window": 2}])
def test_a_prompt_is_known_however_it_is_read(options: dict[str, int]) -> None:
    encoded = model().encode(PROMPT, LENGTHS, memory="update", **options)
    assert encoded.known is not None and encoded.known.tolist() == [True, False, True]


@pytest.mark.parametrize("name", TINY)
def test_auto_is_the_update_of_known_prompts_and_the_anchor_of_others(name: str) -> None:
    made = model(name)
    assert made.memory == "auto"
    auto = made.encode(PROMPT, LENGTHS)
    answer = tokens(3, 9, seed=5)
    after = advance(made.backbone, auto, answer).logits
    for memory, rows in (("update", [0, 2]), ("anchor", [1])):
        by_itself = made.encode(PROMPT, LENGTHS, memory=memory)  # type: ignore[arg-type]
        assert_near(after[rows], advance(made.backbone, by_itself, answer).logits[rows], 1e-5)
    alone = [made.encode(PROMPT[i : i + 1, :length], LENGTHS[i : i + 1]) for i, length in enumerate([6, 4, 6])]
    assert [one.anchor is None for one in alone] == [True, False, True]
    joined = advance(made.backbone, EncodedPrompt.join(alone), answer).logits
    assert_near(joined, after, 1e-5)


def test_an_unknown_prompt_keeps_its_state_alone_where_none_is_pulled_back() -> None:
    """A model of attention that sees the whole text: its prompt stays as it is."""
    bare = ProSG(hf_backbone("llama"), ProSGConfig(**MODULES["plus"].to_dict()))
    with torch.no_grad():
        for parameter in bare.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)
    made = knowing_two(bare)
    assert made.memory == "auto" and not made.pulls_back("auto") and made.pulls_back("both")
    auto = made.encode(PROMPT, LENGTHS)
    assert auto.anchor is None and auto.known is not None and auto.known.tolist() == [True, False, True]
    answer = tokens(3, 5, seed=5)
    after = advance(made.backbone, auto, answer).logits
    for memory, rows in (("update", [0, 2]), ("none", [1])):
        by_itself = made.encode(PROMPT, LENGTHS, memory=memory)  # type: ignore[arg-type]
        assert_near(after[rows], advance(made.backbone, by_itself, answer).logits[rows], 1e-4)
    with pytest.raises(ValueError, match="cannot be anchored"):
        made.encode(PROMPT, LENGTHS, memory="auto", tau=20.0)


def test_what_was_encoded_for_one_memory_is_held_by_another() -> None:
    made = model()
    whole, auto = made.encode(PROMPT, LENGTHS, memory="both"), made.encode(PROMPT, LENGTHS)
    assert same_encoded(made.held_by(whole, "auto"), auto)
    for memory in ("anchor", "none"):
        fresh = made.encode(PROMPT, LENGTHS, memory=memory)  # type: ignore[arg-type]
        assert same_encoded(made.held_by(auto, memory), fresh)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encoded without an update"):
        made.held_by(auto, "update")
    assert same_encoded(made.held_by(auto.take([0]), "update"), made.encode(PROMPT, LENGTHS, memory="update").take([0]))


def test_a_file_says_what_is_known(tmp_path: Path) -> None:
    made = model()
    encoded = made.encode(PROMPT, LENGTHS)
    save_encoded(encoded, tmp_path / "prompts.safetensors", made)
    loaded = load_encoded(tmp_path / "prompts.safetensors", made)
    assert same_encoded(loaded, encoded) and loaded.known is not None and loaded.known.tolist() == [True, False, True]
    metadata, tensors = read_safetensors(tmp_path / "prompts.safetensors")
    save_file({**tensors, "known": tensors["known"] * 0.5}, tmp_path / "other.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="'known' has other values than 0 and 1"):
        load_encoded(tmp_path / "other.safetensors", made)


def test_a_conversation_of_an_unknown_prompt_is_held_by_its_anchor() -> None:
    made = live_model("rwkv4", "plus", torch.float32, vocab=len(WORDS))
    made.tokenizer = word_tokenizer()
    assert isinstance(made.synthesizer, Synthesizer)
    made.synthesizer.familiarity = Familiarity(made.synthesizer.input_widths)  # that knows nothing
    made.synthesizer.familiarity.whitening.fill_diagonal_(1.0)
    talk = Conversation(made, "none")
    list(talk.ask("the cat", max_tokens=3))
    place = talk._place
    assert talk.memory == "auto" and place is not None and place.anchor is not None and place.update is not None
    assert not acting_rows(place.update).any()
    talk.hold("update")
    assert talk._place is not None and talk._place.update is not None and talk._place.anchor is None
    assert acting_rows(talk._place.update).all()


def test_adapters_keep_what_they_know(tmp_path: Path) -> None:
    made = model()
    save_backbone(made.backbone, tmp_path / "base")
    save_adapter(made, tmp_path / "adapter", base=tmp_path / "base")
    loaded, _ = load_adapter(tmp_path / "adapter")
    assert loaded.memory == "auto"
    assert same_encoded(loaded.encode(PROMPT, LENGTHS), made.encode(PROMPT, LENGTHS))


def test_other_kinds_of_instruction_are_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    made = load_model("demo")
    assert isinstance(made.synthesizer, Synthesizer) and made.tokenizer is not None

    def rows(kinds: tuple[str, ...], size: int, split: str) -> list[str]:
        return [row.prompt for row in make_rows(kinds, size, 3, split)]

    train, _ = encode_rows(make_rows(DEMO_KINDS, 900, 1, "train"), made.tokenizer)
    told: list[float] = []

    def tell(share: float, note: str = "") -> None:
        told.append(share)

    learn_prompts(made, train, 0.99, seed=0, tell=tell)
    assert told[0] == 0.0 and told == sorted(told) and len(told) > 1

    def known(kinds: tuple[str, ...], size: int) -> float:
        encoded = made.encode(rows(kinds, size, "test"), memory="update")
        assert encoded.known is not None
        return float(encoded.known.float().mean())

    assert known(DEMO_KINDS, 150) >= 0.97
    assert known(("pairs", "sentence", "steps", "reverse"), 100) <= 0.02
    assert reading_time(made, train[:90]) == (0, 0.0)
    learn_prompts(made, train[:90], 0.99, seed=0, tell=tell)
    assert "too few" in capsys.readouterr().err and made.memory == "update"


def test_so_many_prompts_are_read_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list of rows, too, which is in memory whole; each prompt once."""
    made = load_model("demo")
    assert made.tokenizer is not None
    rows, _ = encode_rows(make_rows(DEMO_KINDS, 500, 1, "train"), made.tokenizer)
    monkeypatch.setattr(known_prompts, "MOST_PROMPTS", 350)
    count, seconds = reading_time(made, rows + rows)
    assert count == 350 and seconds > 0 and made.memory == "auto"
    read: list[int] = []
    kept = Familiarity.fit
    monkeypatch.setattr(Familiarity, "fit", lambda self, means, others, share: read.extend((len(means), len(others)))
                        or kept(self, means, others, share))  # fmt: skip
    learn_prompts(made, rows + rows, 0.99, seed=0, tell=lambda share, note="": None)
    assert read == [280, 70]
