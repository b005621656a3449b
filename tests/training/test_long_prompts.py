"""Memory in training: checkpointing and prompts in chunks leave losses and gradients as they are, and keep less."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from prosg.model.prosg import ProSG
from prosg.model.reading import encode_with_gradients
from prosg.training.config import Perturbation
from prosg.training.perturbation import Perturber, draw
from support.hf_models import hf_backbone
from support.models import SYSTEMS, TINY, assert_near, live_model, tokens

LENGTHS = torch.tensor([23, 9, 1])
BATCH: dict[str, Tensor] = {
    "prompt": tokens(3, 23),
    "prompt_lengths": LENGTHS,
    "answer": tokens(3, 8, seed=1),
    "answer_lengths": torch.tensor([8, 3, 6]),
    "weights": torch.ones(3, 8),
}


def gradients(model: ProSG, frozen: bool, **more: Any) -> list[Tensor]:
    """The loss, its terms and every gradient of a step."""
    model.backbone.requires_grad_(not frozen)
    model.zero_grad(set_to_none=True)
    scored = model(**BATCH, **more)
    scored.loss.backward()
    all_gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(all_gradients) > 3
    return [scored.loss.detach(), scored.nll.detach(), *all_gradients]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if other.any():
            assert_near(one, other, 1e-10)


@pytest.mark.parametrize("frozen", [False, True], ids=["phase 1", "phase 2"])
@pytest.mark.parametrize(("name", "module"), SYSTEMS)
def test_prompts_in_chunks_give_the_gradients_of_one_call(name: str, module: str, frozen: bool) -> None:
    model = live_model(name, module)
    whole = gradients(model, frozen)
    model.activation_checkpointing_enable()
    model.chunk = 11  # of 23 tokens: the last chunk has one
    assert_same(gradients(model, frozen), whole)


@pytest.mark.parametrize("frozen", [False, True], ids=["phase 1", "phase 2"])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("name", TINY)
def test_checkpointing_changes_no_gradient(name: str, every: int, frozen: bool) -> None:
    """Under an update, with the state perturbed at both places."""
    model = live_model(name, "plus")
    p = Perturbation(wipe_first=0.3, swap=0.3, load=0.5, load_story=0.5, bank_size=3, bank_rows=1)
    draws = draw(p, 0, 0, 0.0, torch.arange(3), torch.tensor([5, 2, 4]))
    assert bool(draws.answer.load.any())
    with torch.no_grad():
        bank = model.encode(tokens(3, 11, seed=2)).state
    whole = gradients(model, frozen, perturber=Perturber(draws, bank))
    model.activation_checkpointing_enable(every_n_layers=every)
    assert_same(gradients(model, frozen, perturber=Perturber(draws, bank)), whole)


class HeldMemory(TorchDispatchMode):
    """Bytes of the tensors that were computed inside and are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.seen[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return result

    @property
    def held(self) -> int:
        return sum(size for storage, size in self.seen.items() if not storage.expired())


def held_bytes(model: ProSG, time: int) -> int:
    """Bytes that are held between the passes there and back, for a prompt of this many tokens."""
    with HeldMemory() as memory:
        encoded = encode_with_gradients(
            model.backbone, model.synthesizer, None, tokens(2, time), torch.tensor([time, time]), model.chunk
        )
    held = memory.held
    assert encoded.update is not None
    return held


@pytest.mark.parametrize("name", TINY)
def test_memory_hardly_grows_with_the_prompt(name: str) -> None:
    model = live_model(name, "plus")
    model.backbone.requires_grad_(False)
    model.chunk = 10_000
    whole = held_bytes(model, 256) - held_bytes(model, 128)
    model.chunk = 64
    assert held_bytes(model, 256) - held_bytes(model, 128) < whole / 8
    # Phase 1, on demand: the gradient goes back through the chunks' states.
    model.backbone.requires_grad_(True)
    through = held_bytes(model, 256) - held_bytes(model, 128)
    model.activation_checkpointing_enable()
    assert held_bytes(model, 256) - held_bytes(model, 128) < through / 8


def test_checkpointing_needs_less_memory() -> None:
    model = live_model("rwkv4", None)

    def held() -> int:
        with HeldMemory() as memory:
            scored = model(**BATCH)
        amount = memory.held
        assert scored.loss.requires_grad
        return amount

    whole = held()
    model.activation_checkpointing_enable()
    assert held() < whole / 2


def test_unsupported_checkpointing_is_refused() -> None:
    model = live_model("rwkv4", None)
    for options in ({"offload": True}, {"activation_checkpointing_kwargs": {"use_reentrant": True}}):
        with pytest.raises(ValueError, match="use_reentrant=False"):
            model.activation_checkpointing_enable(**options)
    assert model.backbone.checkpoint_every == 0
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert model.backbone.checkpoint_every == 1
    other = ProSG(hf_backbone("gpt2"))
    with pytest.raises(ValueError, match="gpt2"):
        other.activation_checkpointing_enable()
