"""Answers that are learned from the model that has its prompt, instead of from their tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prosg.core.state import State
from prosg.core.tensors import join_texts
from prosg.model.config import PRESETS
from prosg.model.prosg import ProSG
from prosg.model.scoring import Interruption
from support.hf_models import hf_backbone
from support.models import assert_near, live_model, tokens

PROMPT_LENGTHS, ANSWER_LENGTHS = torch.tensor([5, 3, 7]), torch.tensor([6, 1, 4])


class Wiper:
    """Every state is the initial one, at the prompt's end and after two tokens of an answer."""

    def at_start(self, model: ProSG) -> State | None:
        return None

    def at_prompt_end(self, model: ProSG, state: State) -> State:
        return model.init_state(3)

    def in_answer(self, model: ProSG, steps: Tensor) -> Interruption | None:
        return Interruption(steps.clamp(max=2), lambda state: model.init_state(3))

    def exchange_prompts(self, prompt: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return prompt, torch.zeros_like(lengths)


def make(name: str) -> ProSG:
    if name == "rwkv4":
        return live_model(name, "plus", torch.float32).train()
    model = ProSG(hf_backbone(name), PRESETS["plus"], seed=0)
    with torch.no_grad():
        for parameter in model.synthesizer.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model.train()


def batch() -> dict[str, Tensor]:
    weights = (torch.arange(6) < ANSWER_LENGTHS.unsqueeze(1)).float()
    texts = {"prompt": tokens(3, 7, seed=1), "answer": tokens(3, 6, seed=2), "weights": weights}
    return {**texts, "prompt_lengths": PROMPT_LENGTHS, "answer_lengths": ANSWER_LENGTHS}


@pytest.mark.parametrize("name", ["rwkv4", "mamba"])
@pytest.mark.parametrize("wiped", [False, True])
def test_the_divergence_is_that_of_the_two_models(name: str, wiped: bool) -> None:
    model, inputs = make(name), batch()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    perturber: Any = Wiper() if wiped and name != "rwkv4" else None
    every = torch.ones(3, dtype=torch.bool)
    scored = model(**inputs, perturber=perturber, distil=every, count=1)
    update = model.encode(inputs["prompt"], PROMPT_LENGTHS, memory="update").update
    rows = join_texts(inputs["prompt"], PROMPT_LENGTHS, inputs["answer"], 12)
    total = torch.zeros(())
    for i, (before, length) in enumerate(zip(PROMPT_LENGTHS.tolist(), ANSWER_LENGTHS.tolist(), strict=True)):
        own = {site: delta._replace(a=delta.a[i : i + 1], b=delta.b[i : i + 1]) for site, delta in update.items()}
        text = rows[i : i + 1, : before + length]
        with torch.no_grad():
            teacher = model.backbone(text).logits[0, before:-1]
            if perturber is None:
                start = torch.tensor([before])
                student = model.backbone(text, update=own, update_from=start).logits[0, before:-1]
            else:
                student = model.backbone(text[:, before:], update=own).logits[0, :-1]
        total += F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="sum", log_target=True)
    assert float(total) > 0.01
    assert_near(scored.loss.detach(), total, 2e-4)
    scored.loss.backward()
    assert all(p.grad is not None for n, p in model.synthesizer.named_parameters() if "map_b" in n)
    assert all(p.grad is None for p in model.backbone.parameters())


@pytest.mark.parametrize("name", ["rwkv4", "llama", "mamba"])
def test_some_rows_are_distilled_and_an_update_of_nothing_diverges_by_nothing(name: str) -> None:
    model, inputs = make(name), batch()
    plain = model(**inputs, count=1)
    mixed = model(**inputs, distil=torch.tensor([True, False, False]), count=1)
    whole = model(**inputs, distil=torch.tensor([True, True, True]), count=1)
    rest = (plain.nll * inputs["weights"])[1:].sum()
    alone = {key: value[:1] for key, value in inputs.items()}
    one = model(**alone, distil=torch.tensor([True]), count=1)
    assert_near(mixed.loss, one.loss + rest, 1e-4)
    assert torch.equal(mixed.nll, plain.nll) and whole.loss < plain.loss
    model.synthesizer = None
    assert abs(float(model(**inputs, distil=torch.tensor([True] * 3), count=1).loss)) < 1e-5


def test_interrupted_answers_are_compared_with_the_uninterrupted_model() -> None:
    model, inputs = make("rwkv4"), batch()
    scored = model(**inputs, perturber=Wiper(), distil=torch.ones(3, dtype=torch.bool), count=1)
    model.synthesizer = None
    bare = model(**inputs, perturber=Wiper(), distil=torch.ones(3, dtype=torch.bool), count=1)
    assert float(scored.loss) > 0 and float(bare.loss) > 0.01
