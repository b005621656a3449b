"""Encoded prompts as files: what comes back is bit-equal, what does not fit is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.checkpoints.tensors import read_safetensors
from prosg.core.encoded import EncodedPrompt
from prosg.model.prosg import ProSG
from prosg.utils.io import CheckpointError
from support.checkpoints import assert_refused
from support.generated import draws, refusal
from support.models import MODULES, TINY, live_model, same_encoded, tokens

PROMPT, LENGTHS = tokens(2, 6), torch.tensor([6, 4])


def model(module: str | None = "plus", **changes: Any) -> ProSG:
    return live_model("rwkv4", module, torch.float32, **changes)


@pytest.mark.parametrize("module", [*MODULES, None])
def test_an_encoded_prompt_comes_back_bit_for_bit(module: str | None, tmp_path: Path) -> None:
    trained = model(module)
    encoded = trained.encode(PROMPT, LENGTHS)
    save_encoded(encoded, tmp_path / "prompt.safetensors", trained)
    assert same_encoded(load_encoded(tmp_path / "prompt.safetensors", trained), encoded)
    one = encoded.take(torch.tensor([1]))
    save_encoded(one, tmp_path / "prompt.safetensors", trained, overwrite=True)
    assert same_encoded(load_encoded(tmp_path / "prompt.safetensors", trained), one)
    with pytest.raises(FileExistsError, match="exists"):
        save_encoded(one, tmp_path / "prompt.safetensors", trained)


def test_an_encoded_prompt_belongs_to_the_model_that_made_it(tmp_path: Path) -> None:
    trained, path = model(), tmp_path / "prompt.safetensors"
    save_encoded(trained.encode(PROMPT), path, trained)
    changed = model()
    with torch.no_grad():
        changed.synthesizer.layers[1].queries[0, 0] += 1e-6
    others = (model("paper"), model(None), model(seed=5), changed)
    assert len({model_fingerprint(other) for other in (*others, trained)}) == 5
    for other in others:
        assert_refused(lambda other=other: load_encoded(path, other), "prompt.safetensors: .*another model")


def test_prompts_of_another_model_are_neither_written_nor_joined(tmp_path: Path) -> None:
    mine, other, path = model(None), live_model("rwkv7", None, torch.float32), tmp_path / "prompt.safetensors"
    wider = live_model("rwkv4", None, torch.float32, vocab=77)
    for encoded in (other.encode(PROMPT), wider.encode(PROMPT)):
        with pytest.raises(ValueError, match="prompt.safetensors: not written: .*another model encoded"):
            save_encoded(encoded, path, mine)
        with pytest.raises(ValueError, match="of several models"):
            EncodedPrompt.join([mine.encode(PROMPT), encoded])
    assert not path.exists()


def test_damaged_encoded_prompts_are_refused(tmp_path: Path) -> None:
    trained, path = model(), tmp_path / "prompt.safetensors"
    assert_refused(lambda: load_encoded(path, trained), "prompt.safetensors: no such file", FileNotFoundError)
    save_encoded(trained.encode(PROMPT), path, trained)
    whole = {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file is mapped, and cut below
    metadata = {"format": "prosg-encoded-1", "model": model_fingerprint(trained)}
    for size in (0, 5, 3000):
        os.truncate(path, size)
        assert_refused(lambda: load_encoded(path, trained), "prompt.safetensors: truncated")
    save_file(whole, path)
    assert_refused(lambda: load_encoded(path, trained), "prompt.safetensors: .*prosg encode")
    for name in ("state.1.num", "update.0.key.b", "logits"):
        save_file({n: t for n, t in whole.items() if n != name}, path, metadata=metadata)
        assert_refused(lambda name=name: load_encoded(path, trained), f"prompt.safetensors: .*'{name}'")
    save_file(whole | {"state.0.num": torch.zeros(2, 3)}, path, metadata=metadata)
    assert_refused(lambda: load_encoded(path, trained), r"num has shape \(2, 3\), expected")
    save_file(whole | {"update.0.key.a": torch.zeros(2, 8, 3)}, path, metadata=metadata)
    assert_refused(lambda: load_encoded(path, trained), r"site 0.key: a has shape \(2, 8, 3\), expected")


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("memory", ["anchor", "both"])
def test_a_file_holds_the_anchor(name: str, memory: Any, tmp_path: Path) -> None:
    trained, path = live_model(name, "plus", torch.float32), tmp_path / "prompt.safetensors"
    encoded = trained.encode(PROMPT, LENGTHS, memory=memory, tau=7.0)
    save_encoded(encoded, path, trained)
    assert same_encoded(load_encoded(path, trained), encoded)
    flat = load_file(path)
    wrong = next(key for key in flat if key.startswith("anchor.1."))
    metadata = {"format": "prosg-encoded-2", "model": model_fingerprint(trained)}
    for tensors, message in (
        ({key: flat[key] for key in flat if key != wrong}, f"tensor '{wrong}' is missing"),
        (flat | {wrong: flat[wrong][:, :1].contiguous()}, "has shape"),
    ):
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata=metadata)
        assert_refused(lambda: load_encoded(path, trained), f"prompt.safetensors: .*{message}")


DAMAGE = [
    lambda t: torch.full_like(t, float("nan")),
    lambda t: t.index_fill(0, torch.tensor([0]), float("inf")),
    lambda t: torch.full_like(t, 1e30),
    lambda t: t.bool(),
    lambda t: t.long(),
    lambda t: torch.cat([t, t]),
    lambda t: t[:0],
    lambda t: t[..., :-1],
    lambda t: torch.cat([t, t], -1),
    lambda t: t.unsqueeze(0),
    lambda t: None,
]


@pytest.mark.parametrize("kind", ["rwkv4", "rwkv7", "retnet"])
def test_a_file_is_accepted_only_if_finite_and_consistent(kind: str, tmp_path: Path) -> None:
    trained, path = live_model(kind, "plus", torch.float32), tmp_path / "prompt.safetensors"
    save_encoded(trained.encode(PROMPT, LENGTHS, memory="both"), path, trained)
    whole = {name: tensor.clone() for name, tensor in load_file(path).items()}
    metadata = {"format": "prosg-encoded-2", "model": model_fingerprint(trained)}
    for draw in draws(21):
        name, damage = draw.choice(sorted(whole)), draw.choice(DAMAGE)
        if name.endswith("top") and damage is DAMAGE[2]:
            continue  # a logarithm, of which only the greatest counts
        if name == "limit" and damage is DAMAGE[-1]:
            continue  # earlier versions wrote none
        changed = damage(whole[name])
        tensors = {**whole, name: changed}
        if changed is None:
            del tensors[name]
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
        assert refusal(lambda: load_encoded(path, trained), f"{path}: "), (name, DAMAGE.index(damage))
    for unknown in ("update.0.key.c", "update.x.key.a", "update.00.key.a", "update.0.none.a", "more"):
        save_file({**whole, unknown: whole["logits"].clone()}, path, metadata=metadata)
        assert refusal(lambda: load_encoded(path, trained), f"{path}: ")


def test_what_has_overflowed_is_not_written(tmp_path: Path) -> None:
    trained = model()
    encoded = trained.encode(PROMPT)
    bad = encoded.replace(logits=encoded.logits * float("nan"))
    with pytest.raises(ValueError, match=r"x.safetensors: not written: logits .*overflowed"):
        save_encoded(bad, tmp_path / "x.safetensors", trained)
    assert not list(tmp_path.iterdir())


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path: Path) -> None:
    trained = model()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises((OSError, CheckpointError)) as error:
        read_safetensors(tmp_path / "folder.safetensors")
    assert "directory" in str(error.value) and "No such" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_encoded(tmp_path / "none", trained)
