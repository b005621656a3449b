"""Other minus own with the state wiped, and answers scored in one call by backbones that cannot read on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prosg.data.encode import EncodedRow
from prosg.model.config import PRESETS
from prosg.model.contrast import Contrast, contrast
from prosg.model.perplexity import perplexity, score_rows
from prosg.model.prosg import ProSG
from support.hf_models import hf_backbone
from support.models import live_model, tokens


def rows(count: int = 6) -> list[EncodedRow]:
    found = []
    for i in range(count):
        prompt, answer = tokens(1, 3 + i % 4, seed=i)[0].tolist(), tokens(1, 2 + i % 3, seed=50 + i)[0].tolist()
        found.append(EncodedRow(i, str(i), prompt, [*answer, 0], 1, i % 2 == 0, 1))
    return found


def make(name: str) -> Any:
    if name == "rwkv4":
        return live_model(name, "plus", torch.float32)
    model = ProSG(hf_backbone(name), PRESETS["plus"], seed=0)
    with torch.no_grad():
        for parameter in model.synthesizer.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model.eval()


@pytest.mark.parametrize("name", ["rwkv4", "llama", "mistral", "mamba"])
def test_it_is_the_mean_over_rows_of_what_another_update_costs(name: str) -> None:
    model, some = make(name), rows()
    ordered = sorted(some, key=lambda row: row.tokens)
    differences = []
    with torch.no_grad():
        for row, other in zip(ordered, [*ordered[1:], ordered[0]], strict=True):
            losses = []
            for prompt in (other.prompt, row.prompt):
                update = model.encode(torch.tensor([prompt]), memory="update").update
                logits = model.backbone(torch.tensor([row.answer[:-1]]), update=update).logits[0]
                losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer[1:])))
            differences.append(float(losses[0] - losses[1]))
    measured = contrast(model, some, batch_size=6)
    values = torch.tensor(differences)
    assert measured is not None and measured.rows == 6
    assert measured.mean == pytest.approx(float(values.mean()), abs=1e-5)
    assert measured.error == pytest.approx(float(values.std() / 6**0.5), abs=1e-5)


def test_what_does_not_count() -> None:
    model, some = make("rwkv4"), rows()
    alike = [row._replace(prompt=[1, 2]) for row in some]
    assert contrast(model, alike) is None and contrast(model, some[:1]) is None
    short = [row._replace(answer=[0]) for row in some]
    assert contrast(model, short) is None
    assert Contrast(0.1, 0.06, 9).is_noise and not Contrast(0.1, 0.04, 9).is_noise and Contrast(-1.0, 0.1, 9).is_noise


def test_a_module_that_makes_nothing_of_its_prompts_stands_at_zero() -> None:
    model = ProSG(hf_backbone("llama"), PRESETS["plus"], seed=0).eval()
    measured = contrast(model, rows())
    assert measured is not None and measured.mean == 0 and measured.is_noise


@pytest.mark.parametrize("name", ["llama", "mistral", "mamba", "xlstm"])
@pytest.mark.parametrize("memory", ["update", "none"])
def test_one_call_scores_as_token_by_token(name: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, some = make(name), rows()

    def encode(indices: list[int]) -> Any:
        from prosg.core.tensors import pad

        prompts = [some[i].prompt for i in indices]
        return model.encode(pad(prompts), torch.tensor([len(p) for p in prompts]), memory=memory)

    slowly = score_rows(model, some, 4, encode)

    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("read token by token")

    monkeypatch.setattr(type(model.backbone._hooked), "step_by_step", refuse)
    for one, other in zip(score_rows(model, some, 4, memory=memory), slowly, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-4) and one[1:3] == other[1:3]
    assert perplexity(model, some, 4, memory=memory).rows == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt_lengths": [3, 4]}, "prompt lengths has 4"),
        ({"lengths": [0, 2]}, "answer lengths has 0"),
        ({"partners": [1, 2]}, "partners has 2"),
        ({"answer": [[1, 2], [3, 10**6]]}, "an id in answer is 1000000"),
    ],
)
def test_what_cannot_be_scored_is_named(changes: dict[str, Any], words: str) -> None:
    good = {"prompt": [[1, 2, 3], [4, 5, 6]], "prompt_lengths": [3, 2], "answer": [[1, 2], [3, 0]], "lengths": [2, 2]}
    values = {name: torch.tensor(value) for name, value in {**good, "partners": [1, 0], **changes}.items()}
    with pytest.raises(ValueError, match=words):
        make("rwkv4").score_wiped(**values)


def test_a_model_without_a_module_has_no_contrast() -> None:
    one = torch.tensor([1])
    with pytest.raises(ValueError, match="no module"):
        live_model("rwkv4", None).score_wiped(tokens(1, 1), one, tokens(1, 1), one, torch.tensor([0]))
