"""A system under test: what is done to its prompts and its memory, against the same done by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.initial_state import save_initial
from prosg.checkpoints.load import load_model
from prosg.core.tensors import pad
from prosg.core.update import mean_update
from prosg.data.row import row_from_dict
from prosg.data.templates import Turn
from prosg.evaluation.answer_cache import Answer, AnswerCache, batched
from prosg.evaluation.config import GenerationConfig, SystemConfig
from prosg.evaluation.systems.local import LocalSystem, check_model, open_model
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts
from prosg.model.initial_state import InitialState
from prosg.model.prosg import ProSG
from prosg.utils.store import hash_json
from support.chat_models import chat_model
from support.local_systems import GREEDY, PROMPTS, ROWS, SAMPLED, alone, encode, ids, row, system, tiny
from support.models import WORDS, assert_same_update, state_bits_equal, word_tokenizer

# -- batches


def test_greedy_answers_in_a_batch_are_those_one_by_one() -> None:
    model = tiny()
    together = system(model).write(range(5), GREEDY)
    for i, answer in enumerate(together):
        encoded = alone(model, PROMPTS[i])
        logits, state, written = encoded.logits, encoded.state, word_tokenizer().encode(answer.text)
        for token in written:
            best = logits[0].topk(2).values
            if int(logits.argmax()) != token:
                assert float(best[0] - logits[0, token]) < 1e-4
                break
            output = model.backbone(torch.tensor([[token]]), state, update=encoded.update, logits="last")
            assert output.logits is not None
            logits, state = output.logits, output.state
        assert len(written) == answer.tokens
    assert len({answer.text for answer in together}) > 1  # rows that all say the same prove nothing


def test_each_row_of_a_batch_has_its_own_update() -> None:
    model = tiny()
    encoded = system(model).encode(range(5))
    for i, prompt in enumerate(PROMPTS):
        one = encoded.take(torch.tensor([i]))
        assert one.update is not None
        assert_same_update(one.update, alone(model, prompt).update or {}, 1e-5)
    bare = [answer.text for answer in system(model, update="none").write(range(5), GREEDY)]
    other = [answer.text for answer in system(model, update="other").write(range(5), GREEDY)]
    own = [answer.text for answer in system(model).write(range(5), GREEDY)]
    assert own != bare and own != other


def test_what_is_sampled_for_a_row_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    asked = system(tiny(dtype=torch.float64))
    whole = asked.write(range(5), SAMPLED)
    for some in ([2, 0], [4], [1, 3, 2]):
        assert asked.write(some, SAMPLED) == [whole[i] for i in some]
    keys = [hash_json(settings) for settings in asked.settings(SAMPLED)]
    for size in (1, 2, 64):
        kept = AnswerCache(tmp_path / f"{size}.sqlite")
        names = [one.id for one in ROWS]
        assert batched(keys, names, size, kept, lambda some: asked.write(some, SAMPLED), lambda share: None) == whole
        kept.close()
    assert asked.write(range(5), dataclasses.replace(SAMPLED, seed=6)) != whole


def test_what_is_kept_is_not_written_again(tmp_path: Path) -> None:
    asked: list[list[int]] = []
    kept = AnswerCache(tmp_path / "cache.sqlite")

    def write(some: list[int]) -> list[Answer]:
        asked.append(some)
        return [Answer(f"row-{i}", f"text {i}", i, "end") for i in some]

    def run(count: int) -> list[Answer]:
        names = [f"row-{i}" for i in range(count)]
        return batched([f"key {i}" for i in range(count)], names, 2, kept, write, lambda share: None)

    first = run(3)
    assert asked == [[0, 1], [2]]
    # More rows of the same: the batches are cut from all, what is kept is left out of them.
    assert run(6)[:3] == first and asked[2:] == [[3], [4, 5]]
    # The same answer may be another row's.
    assert kept.get("key 1", "another") == Answer("another", "text 1", 1, "end")
    rows = kept.connection.execute("SELECT count(*), max(rowid) FROM answers").fetchone()
    assert rows == (6, 6)
    kept.close()
    (tmp_path / "other").write_text("no database, but some text that is longer than a header")
    for path in (tmp_path / "other", tmp_path):
        with pytest.raises(ValueError, match=f"{path.name}: not a file of answers"):
            AnswerCache(path)


def test_a_key_holds_all_that_an_answer_follows_from() -> None:
    model = tiny()

    def keys(given: LocalSystem, generation: GenerationConfig = GREEDY) -> list[str]:
        return [hash_json(settings) for settings in given.settings(generation)]

    plain = keys(system(model))
    assert len(set(plain)) == len(plain) and keys(system(model)) == plain
    others = [
        keys(system(model, update="none")),
        keys(system(model, update="other")),
        keys(system(model, state="wiped")),
        keys(system(model, prompt="twice")),
        keys(system(model, replay_every=3)),
        keys(system(model, window=2)),
        keys(system(model, template="world")),
        keys(system(model), SAMPLED),
        keys(system(live_with_initial())),
        keys(system(tiny(dtype=torch.float64), dtype="fp64")),
    ]
    assert all(set(other).isdisjoint(plain) for other in others)
    assert keys(system(model, label="x", seed=3)) == plain
    # More rows may give a row another partner, and nothing else.
    assert keys(system(model, ROWS[:3])) == plain[:3]


# -- memory


def live_with_initial() -> ProSG:
    model = tiny()
    initial = InitialState(model.backbone)
    with torch.no_grad():
        for learned in initial.layers:
            learned += 0.7
    model.initial = initial
    return model


def test_a_learned_initial_state_is_where_texts_and_wiped_rows_begin(tmp_path: Path) -> None:
    model = live_with_initial()
    save_backbone(model.backbone, tmp_path / "tiny", tokenizer=None)  # type: ignore[arg-type]
    word_tokenizer().save(tmp_path / "tiny")
    assert isinstance(model.initial, InitialState)
    save_initial(model.initial, tmp_path / "state.pth")
    opened = open_model(SystemConfig(model=str(tmp_path / "tiny"), initial=str(tmp_path / "state.pth")), "cpu")
    wanted = model.encode(torch.tensor([ids("Tom saw a")])).state
    assert state_bits_equal(system(opened).encode([0]).state, wanted)
    assert not state_bits_equal(system(tiny()).encode([0]).state, wanted)
    assert state_bits_equal(system(opened, state="wiped").encode([0]).state, model.init_state(1))
    assert [one.nll for one in system(opened).scores(8)] != [one.nll for one in system(tiny()).scores(8)]


def test_a_wiped_state_is_the_initial_one_and_keeps_the_first_token() -> None:
    model = tiny()
    kept, wiped = (system(model, state=state).encode(range(3)) for state in ("kept", "wiped"))
    assert state_bits_equal(wiped.state, model.init_state(3))
    assert torch.equal(kept.logits, wiped.logits)
    assert kept.update is not None and wiped.update is not None
    assert_same_update(kept.update, wiped.update, 0.0)


def test_another_prompts_update_and_the_mean() -> None:
    model = tiny()
    rows = [row(i, prompt, kind="even" if i % 2 == 0 else "odd") for i, prompt in enumerate(PROMPTS)]
    asked = system(model, rows, update="other")
    assert all(i != partner and rows[i].kind == rows[partner].kind for i, partner in enumerate(asked.partners))
    encoded = asked.encode([0, 3])
    for place, i in enumerate([0, 3]):
        theirs = alone(model, PROMPTS[asked.partners[i]])
        one = encoded.take(torch.tensor([place]))
        assert one.update is not None and theirs.update is not None
        assert_same_update(one.update, theirs.update, 1e-5)
        assert torch.equal(one.logits, system(model, rows, update="none").encode([0, 3]).logits[place : place + 1])
    training = {kind: [row(i, f"{WORDS[1 + i % 12]} a", kind=kind) for i in range(64)] for kind in ("even", "odd")}
    mean = system(model, rows, training, update="mean").encode([0, 1])
    assert mean.update is not None
    prompts = [ids(one.prompt) for one in training["even"]]
    first = mean.take(torch.tensor([0])).update
    assert first is not None
    each = [model.encode(torch.tensor([prompt])).update for prompt in prompts]
    assert_same_update(first, mean_update([update for update in each if update is not None], 1), 1e-5)


def test_prompts_of_the_mean_are_framed_as_those_asked() -> None:
    model = tiny()
    training = {"k": [row(i, f"{WORDS[1 + i % 12]} a") for i in range(64)]}
    asked = system(model, ROWS, training, update="mean", template="world", prompt="twice")
    assert asked.training["k"][0].text == "User: Tom a\nTom a\n\nAssistant:"


def test_windows_are_the_modules() -> None:
    model = tiny()
    prompts = [ids(PROMPTS[i]) for i in (2, 4)]
    lengths = torch.tensor([len(one) for one in prompts])
    wanted = model.encode(pad(prompts), lengths, window=2).update
    found = system(model, window=2).encode([2, 4]).update
    assert wanted is not None and found is not None
    assert_same_update(found, wanted, 1e-6)


def test_a_control_without_memory_has_the_options_of_its_system() -> None:
    model = tiny()
    bare = system(model, update="none").write(range(5), GREEDY)
    for options in ({"memory": "anchor", "tau": 30.0}, {"memory": "both", "age": 4.0}, {"window": 2}):
        control = SystemConfig(model="tiny", update="none", **options)  # type: ignore[arg-type]
        check_model(control, model)
        assert system(model, update="none", **options).write(range(5), GREEDY) == bare


# -- templates and conversations


def test_conversations_are_framed_and_answers_end_at_the_next_turn() -> None:
    model = tiny()
    turns = (Turn("system", "b"), Turn("user", "Tom saw"))
    rows = [ROWS[0], row(1, "b\n\nTom saw", turns=turns)]
    asked = system(model, rows, template="world")
    assert [one.prompt for one in asked.rows] == [
        "User: Tom saw a\n\nAssistant:",
        "System: b\n\nUser: Tom saw\n\nAssistant:",
    ]
    assert asked.settings(GREEDY)[1]["stop"] == "\n\nUser:"
    with pytest.raises(ValueError, match="chat rows need a template"):
        system(model, rows)
    assert system(model, ROWS).settings(GREEDY)[0]["stop"] == ""


def test_a_stop_of_one_row_does_not_cut_its_neighbours() -> None:
    model = tiny()
    encoded = encode(model, [PROMPTS[0], PROMPTS[2]])
    sampling = Sampling(max_tokens=60, temperature=2.0, seed=2, end_token=15)
    free = generate_texts(model.backbone, encoded, word_tokenizer(), sampling)
    stop = next(word for word in free[0].text.split()[1:] if word in free[1].text.split())
    cut = generate_texts(model.backbone, encoded, word_tokenizer(), sampling, stops=[stop, ""])
    assert cut[0].reason == "stop" and free[0].text.startswith(cut[0].text) and stop not in cut[0].text
    assert cut[1] == free[1]


def test_a_model_cannot_have_what_it_has_no_module_for(tmp_path: Path) -> None:
    save_backbone(tiny(None).backbone, tmp_path / "tiny")  # type: ignore[arg-type]
    word_tokenizer().save(tmp_path / "tiny")
    for options, said in (
        ({"update": "mean"}, "'mean' cannot be had"),
        ({"window": 4}, "no module reads its prompts here"),
    ):
        with pytest.raises(ValueError, match=said):
            open_model(SystemConfig(model=str(tmp_path / "tiny"), **options), "cpu")
    with pytest.raises(ValueError, match=r"end token is 99; the model's vocabulary has the ids 0 to 15"):
        open_model(SystemConfig(model=str(tmp_path / "tiny"), end_token=[99]), "cpu")


def test_conversations_are_written_and_answered_under_the_models_own_template(tmp_path: Path) -> None:
    model = load_model(chat_model(tmp_path / "model"))
    assert model.tokenizer is not None
    turns = [{"role": "user", "content": "Tom saw a cat."}]
    row = row_from_dict({"messages": [*turns, {"role": "assistant", "content": "say"}]})
    local = LocalSystem(SystemConfig(model="x"), model, [row], {}, 0)
    end = model.tokenizer.token_id("<|im_end|>")
    assert local.encoded_rows[0].prompt == model.prepare([turns])[0].ids and local.ends[0][0] == end
    assert local.encoded_rows[0].answer[-1] == end
    (answer,) = local.write([0], GenerationConfig(max_tokens=6, temperature=0.0))
    assert answer.text == model.generate(turns, max_tokens=6, temperature=0.0)
    raw = LocalSystem(SystemConfig(model="x", template="world"), model, [row], {}, 0)
    assert model.tokenizer.decode(raw.encoded_rows[0].prompt) == "User: Tom saw a cat.\n\nAssistant:"


def test_an_answer_ends_where_its_own_template_says_whatever_the_row_beside_it(tmp_path: Path) -> None:
    model = load_model(chat_model(tmp_path / "model"), end_token=[7])
    turns = [{"role": "user", "content": "Tom saw a cat."}, {"role": "assistant", "content": "say"}]
    rows = [row_from_dict({"messages": turns}), row_from_dict({"prompt": "Tom saw", "answer": "say"})]
    local = LocalSystem(SystemConfig(model="x"), model, rows, {}, 0)
    assert local.ends == [(3, 7), (7,)]
    with torch.no_grad():
        model.backbone.head.weight[3] *= 3.0  # of <|im_end|>, so that both rows write it
    answers = local.write([0, 1], GenerationConfig(max_tokens=60, temperature=2.0))
    assert answers[0].reason == "end" and "<|im_end|>" not in answers[0].text
    assert "<|im_end|>" in answers[1].text
    alone = LocalSystem(SystemConfig(model="x"), model, rows[1:], {}, 0)
    assert alone.settings(GREEDY)[0] == local.settings(GREEDY)[1]
