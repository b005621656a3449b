"""Converting a model in memory is what loading it in that type is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.load import load_model
from support.models import TINY, WORDS, live_backbone, live_model, random_initial_state, word_tokenizer

GREEDY = {"temperature": 0.0, "max_tokens": 12}


@pytest.mark.parametrize("name", [name for name in TINY if "," not in name])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_converted_model_is_one_that_was_loaded_in_the_type(name: str, dtype: str, tmp_path: Path) -> None:
    save_backbone(live_backbone(name, torch.float32, vocab=len(WORDS)), tmp_path / "model")
    loaded, converted = load_model(tmp_path / "model", dtype=dtype), load_model(tmp_path / "model")
    converted = converted.bfloat16() if dtype == "bf16" else converted.half()
    assert converted.dtype == loaded.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    ours, theirs = converted.state_dict(), loaded.state_dict()
    assert {tensor.dtype for tensor in ours.values()} == {converted.dtype, torch.float32}
    for tensor_name, tensor in theirs.items():
        assert ours[tensor_name].dtype == tensor.dtype and torch.equal(ours[tensor_name], tensor), tensor_name
    loaded.tokenizer = converted.tokenizer = word_tokenizer()
    for memory in ("none", "anchor"):
        texts = [model.generate("Tom saw a b", memory=memory, **GREEDY) for model in (loaded, converted)]
        assert texts[0] == texts[1]
    assert all(leaf.dtype == torch.float32 for layer in converted.encode("Tom").state for leaf in layer)


def test_what_makes_updates_and_states_stays_wide_and_wider_types_are_taken() -> None:
    model = live_model("rwkv4", "plus", torch.float32, vocab=len(WORDS))
    model.initial = random_initial_state(model.backbone)
    model.tokenizer = word_tokenizer()
    model.to(torch.bfloat16)
    assert model.synthesizer is not None
    for part in (model.synthesizer, model.initial):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    assert model.dtype == torch.bfloat16 and model.generate("Tom saw", **GREEDY)
    assert {parameter.dtype for parameter in model.double().parameters()} == {torch.float64}
    assert {parameter.dtype for parameter in model.float().parameters()} == {torch.float32}
