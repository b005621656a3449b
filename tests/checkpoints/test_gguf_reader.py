"""Models of llama.cpp become folders: weights, tokenizer, special tokens and chat template of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.backbone import convert, load_backbone
from prosg.checkpoints.load import load_model
from prosg.data.templates import Turn
from prosg.tokenizers.bpe import train_bpe
from prosg.utils.io import CheckpointError
from support.gguf_files import BLOCK, write_gguf
from support.hf_models import hf_model
from support.models import assert_near

gguf = pytest.importorskip("gguf")

TEXT = "In 1984 there were 2048 of them."


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe([TEXT * 3, "one two three"], 300, min_frequency=1)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    sizes = {"hidden_size": BLOCK, "intermediate_size": 2 * BLOCK, "head_dim": BLOCK // 2}
    return hf_model("llama", vocab=tokenizer.vocab_size + 2, **sizes)


def test_a_file_becomes_a_folder_that_is_whole(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    write_gguf(tmp_path / "x.gguf", model, tokenizer)
    convert(tmp_path / "x.gguf", tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    backbone = loaded.backbone
    assert isinstance(backbone, HFBackbone) and backbone.model_type == "llama"
    same = {name: tensor for name, tensor in model.state_dict().items() if name != "model.layers.0.mlp.up_proj.weight"}
    for name, tensor in same.items():
        assert torch.equal(backbone.model.state_dict()[name], tensor), name
    x = torch.arange(20).view(2, 10)
    with torch.no_grad():
        assert_near(backbone(x).logits, model(x).logits, 0.02)  # one matrix was in 8 bits
    end, begin = tokenizer.vocab_size + 1, None
    assert loaded.special == ((end,), begin)
    framed = loaded.template.frame([Turn("user", "<|im_end|> is text")])
    ids = framed.prompt_ids(loaded.tokenizer, loaded.special)
    assert ids[0] == tokenizer.vocab_size and ids.count(end) == 1
    assert loaded.tokenizer.decode(ids).endswith("<|im_start|>assistant\n")


def test_every_digit_stands_alone_where_the_file_says_so(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    for pre, apart in (("smollm", True), ("gpt-2", False)):
        write_gguf(tmp_path / f"{pre}.gguf", model, tokenizer, pre)
        convert(tmp_path / f"{pre}.gguf", tmp_path / pre)
        own: Any = load_model(tmp_path / pre).tokenizer
        assert ("Digits" in str(own.described["pre_tokenizer"])) == apart
        assert own.decode(own.encode(TEXT)) == TEXT


def test_more_special_tokens(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    write_gguf(tmp_path / "x.gguf", model, tokenizer, add_add_bos_token=True, add_eot_token_id=0)
    convert(tmp_path / "x.gguf", tmp_path / "m", torch.bfloat16)
    loaded = load_model(tmp_path / "m")
    assert loaded.special == ((tokenizer.vocab_size + 1, 0), tokenizer.vocab_size)
    assert loaded.dtype == torch.bfloat16


def test_what_is_refused(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    file = tmp_path / "x.gguf"
    write_gguf(file, model, tokenizer)
    with pytest.raises(CheckpointError, match=r"x.gguf: a GGUF file; make a folder of it with: prosg convert"):
        load_backbone(file)
    with pytest.raises(ValueError, match="layout is 'fla', but .* is a GGUF file"):
        convert(file, tmp_path / "m", layout="fla")
    with pytest.raises(ValueError, match="sliding_window is 4, but .* convert it first"):
        convert(file, tmp_path / "m", sliding_window=4)
    with pytest.raises(CheckpointError, match=r"x.pth: a model of type llama is a folder"):
        convert(file, tmp_path / "x.pth")
    whole = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:300])
    with pytest.raises(CheckpointError, match=r"cut.gguf: not a whole GGUF file") as caught:
        convert(tmp_path / "cut.gguf", tmp_path / "m")
    assert "\n" not in str(caught.value)
    writer = gguf.GGUFWriter(tmp_path / "bare.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"bare.gguf: holds no tokenizer"):
        convert(tmp_path / "bare.gguf", tmp_path / "m")
    assert not (tmp_path / "m").exists()
