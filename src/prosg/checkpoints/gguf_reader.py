"""Models of llama.cpp's GGUF files, dequantised by transformers: weights, tokenizer, special tokens, chat template.

A file holds all that a folder of transformers does, under keys of its own. The weights are what its quantised blocks
stand for; nothing of the quantisation is left but its loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch
from tokenizers import pre_tokenizers

from prosg.backbones.hf.cache import TransformersModel
from prosg.backbones.hf.files import from_pretrained, quiet
from prosg.checkpoints.tensors import check_files
from prosg.data.jinja_template import JinjaTemplate
from prosg.tokenizers.json_file import JsonTokenizer
from prosg.tokenizers.special import SpecialTokens
from prosg.utils.extras import missing_extra
from prosg.utils.io import CheckpointError
from prosg.utils.outside import plain_reason

__all__ = ["GGUFModel", "is_gguf", "read_gguf"]

MAGIC = b"GGUF"
ONE_DIGIT = ("codeshell", "command-r", "exaone", "refact", "smollm", "starcoder")
"""Kinds of pre-tokenisation (`tokenizer.ggml.pre`): GPT-2's with every digit apart. transformers knows others."""
SENTENCE_PIECE = "llama"
"""`tokenizer.ggml.model` of vocabularies that begin texts with a token unless their file says otherwise."""


class GGUFModel(NamedTuple):
    """The content of a GGUF file."""

    model: TransformersModel
    tokenizer: JsonTokenizer
    special: SpecialTokens
    template: JinjaTemplate | None
    """None where the file has none"""


def is_gguf(path: str | Path) -> bool:
    """Returns whether a path is a GGUF file, which its first bytes tell."""
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf(path: str | Path, dtype: torch.dtype | None = None) -> GGUFModel:
    """Reads a GGUF file of a language model.

    Args:
        path: The file.
        dtype: Type of the weights; fp32 by default.

    Raises:
        CheckpointError: for a damaged file, one without a tokenizer, and a model that transformers cannot dequantise.
        ValueError: if the `gguf` package is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise missing_extra("reading GGUF files", "engines", error) from None
    from transformers import AutoTokenizer, GgufConfig

    path = Path(path)
    check_files(path)
    try:
        fields = {name: field for name, field in gguf.GGUFReader(path).fields.items() if name.startswith("tokenizer.")}
    except Exception as error:  # numpy's and the package's own, of many types
        raise CheckpointError(f"{path}: not a whole GGUF file: {plain_reason(error)}") from None
    if "tokenizer.ggml.tokens" not in fields:
        raise CheckpointError(f"{path}: holds no tokenizer; the file of a language model has one")

    def value(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents() if f"tokenizer.{name}" in fields else None

    folder, name = path.parent, path.name
    dequantised = GgufConfig(dequantize=True)
    model = from_pretrained(path, folder, gguf_file=name, dtype=dtype or torch.float32, quantization_config=dequantised)
    with quiet():
        try:
            own = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
        except Exception as error:  # transformers raises errors of many types
            raise CheckpointError(f"{path}: transformers cannot read its tokenizer: {plain_reason(error)}") from None
    tokenizer = JsonTokenizer(_pre_tokenized(own.backend_tokenizer, value("ggml.pre")))
    vocab_size = int(model.config.vocab_size)
    begins = value("ggml.add_bos_token")
    begins = value("ggml.model") == SENTENCE_PIECE if begins is None else begins
    begin = value("ggml.bos_token_id") if begins else None
    ends = (value("ggml.eos_token_id"), value("ggml.eot_token_id"))
    end = tuple(dict.fromkeys(int(token) for token in ends if token is not None))
    special = SpecialTokens(end or SpecialTokens().end, None if begin is None else int(begin))
    source = value("chat_template")
    template = None
    if source is not None:
        texts = {name: str(text) for name in ("bos_token", "eos_token") if (text := getattr(own, name, None))}
        spelled = (*tokenizer.special_tokens, *texts.values())
        template = JinjaTemplate(source, texts, spelled, str(path), tokenizer.added_tokens)
    return GGUFModel(model, tokenizer, special.check(vocab_size, str(path)), template)


def _pre_tokenized(tokenizer: tokenizers.Tokenizer, kind: str | None) -> tokenizers.Tokenizer:
    """Returns the tokenizer with every digit apart where its kind says so."""
    copy = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    if kind in ONE_DIGIT:
        copy.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return copy
